"""Runs that were stopped or killed, and go on; and runs that must not."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

import train
from common.cli import InputError
from model import load_checkpoint
from tests.scripts import REPOSITORY, SMALL_RUN, refuse, same, small


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


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LONG = ("--batch-size", "4", "--epochs", "12", "--save-every", "2", "--ema", "0.9")


def start(folder, *options):
    """train.py as a process of its own, on one thread, once it has saved itself within an epoch."""
    command = [sys.executable, str(REPOSITORY / "train.py"), *SMALL_RUN, *LONG, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (folder / "model_save" / "last.pt").is_file():
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stopped_run_goes_on_and_ends_with_the_same_weights_bit_for_bit(copy, one_thread, number, capsys):
    process = start(copy)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    stopped = load_checkpoint(copy / "model_save" / "last.pt")
    assert stopped["epoch"] < 12
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + number
        place = f"step {stopped['progress']['step']} of 9 in epoch {stopped['epoch'] + 1} of 12"
        assert f"stopped after {place}, and saved; to go on there: python " in errors
        command = errors.splitlines()[-1].partition("to go on there: ")[2]
        assert shlex.split(command)[1:] == [str(REPOSITORY / "train.py"), *SMALL_RUN, *LONG, "--resume"]
        assert "Traceback" not in errors
    options = {"batch_size": 4, "epochs": 12, "ema": 0.9}
    train.main(small(copy, **options, resume=True))
    if number != signal.SIGKILL:
        assert f"; goes on after {place}\n" in capsys.readouterr().out
    train.main(small(copy, **options, save_dir=str(copy / "whole")))
    whole, parts = (load_checkpoint(copy / name / "last.pt") for name in ("whole", "model_save"))
    for key in ("state_dict", "criterion"):
        assert same(whole[key], parts[key])
    assert same(whole["progress"]["weights"], parts["progress"]["weights"])
    logs = [pd.DataFrame(run["metrics"]["log"]).drop(columns="volumes_per_s") for run in (whole, parts)]
    assert logs[0].equals(logs[1])


def test_a_run_saved_within_an_epoch_goes_on_at_that_step(copy, monkeypatch):
    class Cut(Exception):
        pass

    def cut(state):
        raise Cut

    options = {"batch_size": 4, "save_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr(train, "finish_epoch", lambda state, *rest: cut(state))
        with pytest.raises(Cut):
            train.main(small(copy, epochs=1, **options))
    saved = load_checkpoint(copy / "model_save" / "last.pt")
    assert (saved["epoch"], saved["progress"]["step"], saved["progress"]["seen"]) == (0, 6, 24)
    train.main(small(copy, epochs=1, **options, resume=True))
    train.main(small(copy, epochs=1, **options, save_dir=str(copy / "whole")))
    whole, parts = (load_checkpoint(copy / name / "last.pt") for name in ("whole", "model_save"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert whole["metrics"]["log"][0]["train_loss"] == parts["metrics"]["log"][0]["train_loss"]


def test_a_finished_run_is_not_touched_unless_asked(trained):
    before = (trained / "model_save" / "last.pt").read_bytes()
    run = ("train.py", *SMALL_RUN, "--epochs", "3")
    assert "holds a run" in refuse(*run, cwd=trained)
    train.main(small(trained, epochs=3, resume=True))
    assert (trained / "model_save" / "last.pt").read_bytes() == before


def test_resuming_with_other_settings_names_every_difference(trained):
    cfg = small(trained, epochs=3, depth=18, lr=0.1, batch_size=18, resume=True)
    differences = "depth was 10, is 18; batch_size was 16, is 18; lr was 0.003, is 0.1; steps_per_epoch was 3, is 2"
    with pytest.raises(InputError, match=rf"last\.pt: {differences}; give the same, another --save-dir"):
        train.main(cfg)


@pytest.mark.parametrize("save_every", [0, 1])
def test_a_loss_that_is_not_finite_stops_the_run_and_the_kept_checkpoint_goes_on(copy, save_every):
    train.main(small(copy, epochs=2, save_every=save_every))
    first = load_checkpoint(copy / "model_save" / "checkpoint1.pt")
    last = copy / "model_save" / "last.pt"
    shutil.copy(copy / "model_save" / "checkpoint1.pt", last)
    blown = {**first, "optimizer": {**first["optimizer"], "param_groups": [
        {**group, "lr": 1e30, "max_lr": 1e30, "initial_lr": 1e30} for group in first["optimizer"]["param_groups"]
    ]}, "scheduler": {**first["scheduler"], "_last_lr": [1e30, 1e30]}}  # fmt: skip
    torch.save(blown, last)
    with pytest.raises(InputError, match=r"epoch 2, batch \d+: .* is not finite; the last good checkpoint"):
        train.main(small(copy, epochs=2, save_every=save_every, resume=True))
    kept = load_checkpoint(last)
    assert kept["epoch"] == 1
    assert all(value.abs().max() < 1e6 for value in kept["state_dict"].values())


def test_a_run_on_another_split_is_not_gone_on_with(copy):
    train.main(small(copy, epochs=2))
    path = copy / "csv_split" / "train.csv"
    path.write_text(path.read_text().replace("complex00_000", "complex00_999"))
    with pytest.raises(InputError, match=r"last\.pt: trained on other particles than train\.csv has now"):
        train.main(small(copy, epochs=2, resume=True))


def test_resuming_without_a_run_says_so_and_spares_checkpoints(copy, capsys):
    train.main(small(copy, epochs=1, resume=True))
    assert "last.pt: no such file; starting anew" in capsys.readouterr().out
    (copy / "model_save" / "last.pt").unlink()
    with pytest.raises(InputError, match="nothing to go on from"):
        train.main(small(copy, epochs=1, resume=True))
    assert (copy / "model_save" / "checkpoint.pt").is_file()


def test_resuming_mends_what_a_kill_left(copy):
    train.main(small(copy, epochs=1))
    (copy / "model_save" / "log.csv").unlink()
    (copy / "model_save" / ".123.last.pt").write_bytes(b"half")
    train.main(small(copy, epochs=1, resume=True))
    assert len(pd.read_csv(copy / "model_save" / "log.csv")) == 1
    assert not list((copy / "model_save").glob(".*.pt"))


def test_the_same_settings_name_other_classes_box_or_backbone_in_a_resumed_run(copy):
    train.main(small(copy, epochs=2))
    path = copy / "model_save" / "last.pt"
    saved = load_checkpoint(path)
    cases = {
        "classes": {"classes": ["other", *saved["classes"][1:]]},
        "preprocessing": {"preprocessing": {**saved["preprocessing"], "box": 24}},
        "backbone": {"config": {**saved["config"], "backbone": "sphere20"}},
    }
    for name, change in cases.items():
        torch.save({**saved, **change}, path)
        with pytest.raises(InputError, match=rf"last\.pt: {name} was .*, is "):
            train.main(small(copy, epochs=2, resume=True))


def test_overwriting_starts_anew(copy):
    train.main(small(copy, epochs=2))
    train.main(small(copy, epochs=1, overwrite=True))
    assert load_checkpoint(copy / "model_save" / "last.pt")["epoch"] == 1
    assert not (copy / "model_save" / "checkpoint2.pt").exists()


def test_the_command_that_goes_on_is_that_of_the_start_with_resume():
    assert train.continuation(["train.py", "--save-dir", "my run", "--overwrite"], 1) == (
        "python train.py --save-dir 'my run' --resume"
    )
    assert train.continuation(["train.py", "--resume"], 2) == "torchrun (with the same options) train.py --resume"
