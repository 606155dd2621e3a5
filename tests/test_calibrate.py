"""calibrate.py: what a checkpoint calls unknown, by volumes simulated under its imaging or a declared one."""

import pandas as pd
import torch

from model import load_checkpoint, load_model
from tests.scripts import refuse, succeed


def test_the_new_checkpoint_has_the_same_network_and_names_and_another_unknown(universal, trained, tmp_path):
    printed = succeed(
        "calibrate.py", universal, "mine.pt", "--per-class", "12", "--false-rejection-rate", "0.25",
        "--tilt-range", "-50", "50", cwd=tmp_path,
    )  # fmt: skip
    assert "tilts of -50 to 50 degrees" in printed and "refused of 40 simulated volumes" in printed
    before, after = load_checkpoint(universal), load_checkpoint(tmp_path / "mine.pt")
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())
    assert after["classes"] == before["classes"] and after["optimizer"] == {}
    calibration = load_model(tmp_path / "mine.pt", torch.device("cpu"))[1]["calibration"]
    assert (calibration.score, calibration.n) == ("knn_less_cohort", 40)
    assert len(calibration.cohort) == len(calibration.cohort_labels) and {*calibration.cohort_labels} <= {0, 1, 2}
    assert calibration.class_false_rejection.max() <= 1 and calibration.class_false_rejection.sum() > 0
    folder = trained / "data_" / "data1_SNR01"
    printed = succeed("predict.py", "mine.pt", folder, "--no-page", cwd=tmp_path)
    scores = pd.read_csv(next((tmp_path / "results").rglob("predictions.csv")))["Score"]
    assert "knn_less_cohort" in printed and scores.min() < 0.5


def test_bad_options_and_checkpoints_are_refused_in_a_line(universal, trained, tmp_path):
    plain = trained / "model_save" / "checkpoint.pt"
    assert "expected known classes and a record of the imaging" in refuse("calibrate.py", plain, "x.pt", cwd=tmp_path)
    for options, message in (
        (("--tilt-range", "50", "-50"), "--tilt-range 50 -50: expected two numbers, the smaller first"),
        (("--false-rejection-rate", "1"), "--false-rejection-rate 1: expected 0 or more, and less than 1"),
        (("--per-class", "3"), "10 or more"),
    ):
        assert message in refuse("calibrate.py", universal, "x.pt", *options, cwd=tmp_path)
    assert "the checkpoint itself" in refuse("calibrate.py", universal, universal, cwd=tmp_path)
    assert not (tmp_path / "x.pt").exists()
