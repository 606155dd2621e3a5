import dataclasses
import shutil

import pandas as pd
import pytest
import torch

import train
from common.cli import InputError
from loss.loss import LOSSES
from model import load_checkpoint
from tests.conftest import SMALL_RUN
from tests.scripts import refuse


@pytest.fixture
def copy(workspace, tmp_path):
    """The split alone, pointing at the workspace's data."""
    shutil.copytree(workspace / "csv_split", tmp_path / "csv_split")
    (tmp_path / "data_").symlink_to(workspace / "data_")
    return tmp_path


def small(folder, **options):
    """The settings of SMALL_RUN, for a call in this process."""
    given = dict(zip(SMALL_RUN[::2], SMALL_RUN[1::2], strict=True))
    types = {field.name: field.type for field in dataclasses.fields(train.Config)}
    names = {option.removeprefix("--").replace("-", "_"): value for option, value in given.items()}
    settings = {name: types[name](value) for name, value in names.items()}
    places = {"csv_dir": str(folder / "csv_split"), "save_dir": str(folder / "model_save")}
    return train.Config(**{**settings, **places, **options})


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
    train.main(small(copy, save_dir=str(copy / "whole"), epochs=2))
    train.main(small(copy, save_dir=str(copy / "parts"), epochs=2))
    # back to the state after the first epoch, as if the run had been killed in the second
    first = copy / "parts" / "checkpoint1.pt"
    assert first.is_file()
    shutil.copy(first, copy / "parts" / "last.pt")
    train.main(small(copy, save_dir=str(copy / "parts"), epochs=2, resume=True))
    whole, parts = (load_checkpoint(copy / name / "last.pt") for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert same(whole["criterion"], parts["criterion"])
    logs = [pd.DataFrame(run["metrics"]["log"]).drop(columns="volumes_per_s") for run in (whole, parts)]
    assert logs[0].equals(logs[1])


def test_a_finished_run_is_not_touched_unless_asked(trained):
    before = (trained / "model_save" / "last.pt").read_bytes()
    run = ("train.py", *SMALL_RUN, "--epochs", "3")
    assert "holds a run" in refuse(*run, cwd=trained)
    train.main(small(trained, epochs=3, resume=True))
    assert (trained / "model_save" / "last.pt").read_bytes() == before


def test_resuming_with_other_settings_names_the_difference(trained):
    cfg = small(trained, epochs=3, depth=18, resume=True)
    with pytest.raises(InputError, match="depth was 10, is 18"):
        train.main(cfg)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"shift": -1}, "--shift -1"),
        ({"loss": "none"}, "--loss none: expected one of soft_lmccl"),
        ({"loss_options": {"q": "3"}}, "q"),
        ({"backbone": "vgg"}, "backbone 'vgg'"),
        ({"csv_dir": "nowhere"}, "nowhere/train.csv: no such file"),
        ({"device": "tpu"}, "--device tpu"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_a_mistake_is_named_and_writes_nothing(copy, options, message):
    with pytest.raises(InputError, match=message):
        train.main(small(copy, **options))
    assert not (copy / "model_save").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_epoch_and_batch(copy):
    with pytest.raises(InputError, match=r"epoch \d, batch \d+: loss or gradient is not finite"):
        train.main(small(copy, epochs=2, lr=1e30, clip=0.0))


def test_overwriting_starts_anew(copy):
    train.main(small(copy, epochs=2))
    train.main(small(copy, epochs=1, overwrite=True))
    assert load_checkpoint(copy / "model_save" / "last.pt")["epoch"] == 1
    assert not (copy / "model_save" / "checkpoint2.pt").exists()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(copy, name):
    train.main(small(copy, epochs=1, loss=name))
    assert load_checkpoint(copy / "model_save" / "last.pt")["config"]["loss"] == name
