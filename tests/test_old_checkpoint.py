"""A checkpoint with no more than the first of its format had: scripts take it, with the answers of its network."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import train
from common.files import results_folder
from evaluation.rejection import calibrate, classify
from loader.dataset import load_split
from model import CONTENT, VERSION, embed, load_checkpoint, load_model
from tests.scripts import same, small, succeed

# Each as the first checkpoints of this format had it; what came later is filled in when one is read.
CONFIG = (
    *("recipe", "csv_dir", "save_dir", "contrast", "backbone", "depth", "width", "embedding_dim", "upsample", "loss"),
    *("loss_options", "epochs", "batch_size", "accumulate", "class_samples", "optimizer", "lr", "eps", "weight_decay"),
    *("schedule", "clip", "ema", "patience", "half_turns", "shift", "noise", "rotate", "simulate_online", "data_dir"),
    *("structures", "online_volumes", "online_snr", "online_noise_free", "online_defocus", "online_tilt"),
    *("online_neighbours", "auxiliary", "auxiliary_share", "prototype_per_class", "false_rejection_rate"),
    *("memory_share", "compile", "sync_batchnorm", "tensorboard", "save_every", "keep", "seed", "device"),
    *("resume", "overwrite"),
)
PREPROCESSING = ("box", "voxel_size", "contrast", "normalisation", "tilt_range")
CALIBRATION = ("score", "threshold", "false_rejection_rate", "n", "prototypes")
PROGRESS = ("steps_per_epoch", "step", "sums", "seen")
CPU = torch.device("cpu")


def stripped(content: dict, calibration: dict) -> dict:
    """A checkpoint as the first code of its format would have written it."""
    parts = {"config": CONFIG, "preprocessing": PREPROCESSING, "progress": PROGRESS}
    kept = {part: {name: content[part][name] for name in names} for part, names in parts.items()}
    kept["calibration"] = {name: calibration[name] for name in CALIBRATION}
    return {name: content[name] for name in CONTENT} | kept


@pytest.fixture(scope="module")
def old(trained, tmp_path_factory):
    """A folder with the split and two checkpoints of a run, stripped; the best one's network, and what it was."""
    folder = tmp_path_factory.mktemp("old")
    for name in ("csv_split", "data_"):
        (folder / name).symlink_to(trained / name)
    (folder / "model_save").mkdir()
    content = torch.load(trained / "model_save" / "checkpoint.pt", weights_only=True)
    model, whole = load_model(trained / "model_save" / "checkpoint.pt", CPU)
    sets = [load_split(trained / "csv_split" / f"{part}.csv", whole["preprocessing"]) for part in ("train", "valid")]
    rows = [(embed(model, part.images, CPU), part.labels.numpy()) for part in sets]
    calibration = calibrate(*rows, len(whole["classes"]), 0.2, "max_cosine").content()
    for name in ("checkpoint", "checkpoint1"):
        made = torch.load(trained / "model_save" / f"{name}.pt", weights_only=True)
        torch.save(stripped(made, calibration), folder / "model_save" / f"{name}.pt")
    assert content.keys() > CONTENT and content["version"] == VERSION
    return folder, model, whole


def test_its_network_and_calibration_answer_as_before(old):
    folder, model, whole = old
    again, content = load_model(folder / "model_save" / "checkpoint.pt", CPU)
    images = load_split(folder / "csv_split" / "test.csv", content["preprocessing"]).images
    np.testing.assert_array_equal(embed(again, images, CPU), embed(model, images, CPU))
    assert content["calibration"].reference is None and content["calibration"].score == "max_cosine"
    assert content["junk"] is None and content["preprocessing"] == whole["preprocessing"]


def test_predict_py_names_volumes_by_it(old, empty_pictures):
    folder, model, whole = old
    succeed("predict.py", "model_save/checkpoint.pt", "csv_split/test.csv", cwd=folder)
    checkpoint = folder / "model_save" / "checkpoint.pt"
    table = pd.read_csv(results_folder(folder / "results", checkpoint) / "predict" / "predictions.csv")
    calibration = load_model(checkpoint, CPU)[1]["calibration"]
    split = load_split(folder / "csv_split" / "test.csv", whole["preprocessing"])
    labels, scores = classify(embed(model, split.images, CPU), calibration.prototypes)
    np.testing.assert_allclose(table["Score"], scores, atol=1e-4)
    known = scores >= calibration.threshold
    names = np.where(known, np.array(whole["classes"])[labels], "unknown")
    np.testing.assert_array_equal(table["Prediction"], names)
    assert known.any() and not known.all()


@pytest.mark.parametrize(
    ("script", "options", "written"),
    [
        ("test.py", (), "closed_set.json"),
        ("open_set.py", ("--bootstrap", "1", "--no-umap", "--no-discovery", "--no-floors"), "open_set.json"),
    ],
)
def test_it_is_evaluated(old, empty_pictures, script, options, written):
    folder, *_ = old
    succeed(script, "model_save/checkpoint.pt", *options, cwd=folder)
    path = results_folder(folder / "results", folder / "model_save" / "checkpoint.pt") / written
    assert json.loads(path.read_text())["checkpoint"] == "model_save/checkpoint.pt"


def test_a_small_copy_of_it_is_made(old, tmp_path):
    folder, *_ = old
    succeed("ship.py", "model_save/checkpoint.pt", str(tmp_path / "small.pt"), cwd=folder)
    assert len(load_checkpoint(tmp_path / "small.pt")["progress"]["particles"]) == 0


def test_its_run_is_gone_on_with_bit_for_bit(old, trained, copy):
    folder, *_ = old
    (copy / "model_save").mkdir()
    (copy / "model_save" / "last.pt").write_bytes((folder / "model_save" / "checkpoint1.pt").read_bytes())
    train.main(small(copy, epochs=3, resume=True))
    after = load_checkpoint(copy / "model_save" / "last.pt")
    assert same(after["state_dict"], load_checkpoint(trained / "model_save" / "last.pt")["state_dict"])
    assert len(after["progress"]["particles"]) and after["epoch"] == 3
