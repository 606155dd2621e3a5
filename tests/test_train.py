import re
import shutil

import pandas as pd
import pytest
import torch

from model import load_checkpoint
from tests.conftest import SMALL_RUN
from tests.scripts import refuse, succeed


@pytest.fixture
def copy(workspace, tmp_path):
    """The split alone, pointing at the workspace's data."""
    shutil.copytree(workspace / "csv_split", tmp_path / "csv_split")
    (tmp_path / "data_").symlink_to(workspace / "data_")
    return tmp_path


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_writes_its_checkpoints_and_logs(trained):
    folder = trained / "model_save"
    log = pd.read_csv(folder / "log.csv")
    assert list(log["epoch"]) == [1, 2, 3]
    assert len((folder / "loss.txt").read_text().splitlines()) == 3
    last = load_checkpoint(folder / "last.pt")
    assert last["epoch"] == 3
    assert last["classes"] == ["complex00", "complex01", "complex02"]
    assert last["preprocessing"]["box"] == 16
    assert last["preprocessing"]["tilt_range"] == [-60, 60]
    assert not list(folder.glob(".*"))  # no temporary file is left


def test_the_best_checkpoint_is_the_one_of_highest_validation_accuracy_then_lowest_loss(trained):
    log = pd.read_csv(trained / "model_save" / "log.csv")
    best = log.sort_values(["accuracy", "valid_loss"], ascending=[False, True]).iloc[0]
    assert load_checkpoint(trained / "model_save" / "checkpoint.pt")["epoch"] == best["epoch"]
    assert (trained / "model_save" / f"checkpoint{int(best['epoch'])}.pt").is_file()


def test_a_checkpoint_holds_the_loss_with_its_centres_and_the_calibration(trained):
    checkpoint = load_checkpoint(trained / "model_save" / "checkpoint.pt")
    assert any("center" in name for name in checkpoint["criterion"])
    assert any(value.abs().sum() > 0 for name, value in checkpoint["criterion"].items() if "center" in name)
    calibration = checkpoint["calibration"]
    assert calibration["prototypes"].shape == (3, 16)
    assert -1 <= calibration["threshold"] <= 1
    assert calibration["n"] == 3 * 1 * 2  # one validation particle a class, two SNRs


def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(copy):
    run = ("train.py", *SMALL_RUN, "--epochs", "2")
    succeed(*run, "--save-dir", "whole", cwd=copy)
    succeed(*run, "--save-dir", "parts", cwd=copy)
    # back to the state after the first epoch, as if the run had been killed in the second
    first = copy / "parts" / "checkpoint1.pt"
    assert first.is_file()
    shutil.copy(first, copy / "parts" / "last.pt")
    succeed(*run, "--save-dir", "parts", "--resume", cwd=copy)
    whole, parts = (load_checkpoint(copy / name / "last.pt") for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert same(whole["criterion"], parts["criterion"])
    logs = [pd.DataFrame(run["metrics"]["log"]).drop(columns="volumes_per_s") for run in (whole, parts)]
    assert logs[0].equals(logs[1])


def test_a_finished_run_is_not_touched_unless_asked(trained):
    before = (trained / "model_save" / "last.pt").read_bytes()
    run = ("train.py", *SMALL_RUN, "--epochs", "3")
    assert "holds a run" in refuse(*run, cwd=trained)
    assert "best: epoch" in succeed(*run, "--resume", cwd=trained)
    assert (trained / "model_save" / "last.pt").read_bytes() == before


def test_resuming_with_other_settings_names_the_difference(trained):
    line = refuse("train.py", *SMALL_RUN, "--epochs", "3", "--depth", "18", "--resume", cwd=trained)
    assert "depth was 10, is 18" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "--epochs 0"),
        (("--batch-size", "1"), "--batch-size 1"),
        (("--loss", "none"), "--loss none: expected one of soft_lmccl"),
        (("--loss-options", "q", "3"), "q"),
        (("--backbone", "vgg"), "backbone 'vgg'"),
        (("--csv-dir", "nowhere"), "nowhere/train.csv: no such file"),
        (("--device", "tpu"), "--device tpu"),
        (("--resume", "--overwrite"), "exclude each other"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(copy, options, message):
    assert message in refuse("train.py", *SMALL_RUN, *options, cwd=copy)
    assert not (copy / "model_save").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_epoch_and_batch(copy):
    line = refuse("train.py", *SMALL_RUN, "--epochs", "2", "--lr", "1e30", "--clip", "0", cwd=copy)
    assert re.search(r"epoch \d, batch \d+: the loss or gradient is not finite", line) or "not finite" in line
