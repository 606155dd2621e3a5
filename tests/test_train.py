import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from common.cli import InputError
from loss.loss import LOSSES
from model import load_checkpoint
from tests.conftest import SMALL_RUN
from tests.scripts import REPOSITORY, refuse
from training.recipes import RECIPES


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


def test_the_logged_learning_rate_is_that_of_the_last_step_of_the_epoch(trained):
    saved = load_checkpoint(trained / "model_save" / "last.pt")
    epochs, steps, peak = saved["config"]["epochs"], saved["progress"]["steps_per_epoch"], saved["config"]["lr"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=epochs * steps)
    used = []
    for _ in range(epochs * steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    log = pd.read_csv(trained / "model_save" / "log.csv")
    np.testing.assert_allclose(log["lr"], used[steps - 1 :: steps])


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"shift": -1}, "--shift -1"),
        ({"loss": "none"}, "--loss none: expected one of soft_lmccl"),
        ({"loss_options": {"q": "3"}}, "--loss-options q: soft_lmccl has s, m, bias"),
        ({"backbone": "vgg"}, "backbone 'vgg'"),
        ({"csv_dir": "nowhere"}, "nowhere/train.csv: no such file"),
        ({"device": "tpu"}, "--device tpu"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"optimizer": "sgd"}, "--optimizer sgd: expected one of adamw, adam"),
        ({"schedule": "none"}, "--schedule none: expected one of one_cycle"),
        ({"ema": 1.5}, "--ema 1.5: expected 0 or more, below 1"),
        ({"ema": 1.0}, "--ema 1: expected 0 or more, below 1"),
        ({"noise": -1.0}, "--noise -1.0: expected 0 or more"),
        ({"auxiliary": 3}, "--auxiliary: of volumes that are simulated; give --simulate-online too"),
        ({"auxiliary_seed": 3}, "--auxiliary-seed: of volumes that are simulated"),
        ({"online_volumes": 50}, "--online-volumes: of volumes that are simulated"),
        ({"online_snr": (0.1, 0.2)}, "--online-snr: of volumes that are simulated"),
        ({"online_tilt": (50.0, 60.0)}, "--online-tilt: of volumes that are simulated"),
        ({"online_neighbours": 0}, "--online-neighbours: of volumes that are simulated"),
        ({"lr": -1.0}, "--lr -1.0: expected 0 or more"),
        ({"lr": float("nan")}, "--lr nan: expected 0 or more"),
        ({"clip": -1.0}, "--clip -1.0: expected 0 or more"),
        ({"shift": 8}, "--shift 8: expected less than half of the box, 16 voxels"),
        ({"false_rejection_rate": 1.0}, "--false-rejection-rate 1: expected less"),
        ({"online_tilt": (60.0,)}, "--online-tilt 60: expected two"),
        ({"online_defocus": (5.0, 3.0)}, "--online-defocus 5 3: expected two"),
        ({"simulate_online": True, "rotate": True}, "--rotate, --noise, --class-samples: for files"),
        ({"class_samples": 5}, "--class-samples 5 with --batch-size 16: expected a batch size that is a multiple"),
        ({"class_samples": 4}, "16 / 4 = 4 classes a batch, there are 3"),
        ({"sync_batchnorm": True}, "--sync-batchnorm: for several processes on GPUs"),
    ],
)
def test_a_mistake_is_named_and_writes_nothing(copy, options, message):
    with pytest.raises(InputError, match=message):
        train.main(small(copy, **options))
    assert not (copy / "model_save").exists()


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


def test_files_are_read_once(copy, monkeypatch):
    """Once training has begun, no MRC file is opened."""
    epochs = []
    whole = train.train_epoch

    def begun(state, *rest):
        epochs.append(state.epoch)
        monkeypatch.setattr("loader.dataset.read_volume", lambda address: pytest.fail(f"{address} was opened again"))
        return whole(state, *rest)

    monkeypatch.setattr(train, "train_epoch", begun)
    train.main(small(copy, epochs=2))
    assert epochs == [0, 1]


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


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(copy, name):
    train.main(small(copy, epochs=1, loss=name))
    assert load_checkpoint(copy / "model_save" / "last.pt")["config"]["loss"] == name


def test_particles_of_the_other_contrast_are_warned_of(copy, capsys):
    train.main(small(copy, epochs=1, false_rejection_rate=0.5))
    assert "warning" not in capsys.readouterr().err
    train.main(small(copy, epochs=1, contrast="dark", overwrite=True))
    assert "the particles look bright, not dark" in capsys.readouterr().err


def test_a_threshold_that_can_reject_no_validation_volume_is_warned_of_once(copy, capsys):
    train.main(small(copy, epochs=2, false_rejection_rate=0.15))
    lines = capsys.readouterr().err.splitlines()
    assert [
        line
        for line in lines
        if "6 validation volumes: --false-rejection-rate 0.15 rejects none of fewer than 7" in line
    ]
    assert sum("warning" in line for line in lines) == 1


def test_the_terms_of_an_epochs_line_add_up_to_its_loss(copy, capsys):
    train.main(small(copy, epochs=1, loss_options={"margin_weight": "0.5"}))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1"))
    found = re.search(r"loss (\S+) = softmax (\S+) \+ 0\.5 x margin (\S+) \+ 0\.003 x center (\S+)  valid", line)
    loss, softmax, margin, center = map(float, found.groups())
    assert softmax + 0.5 * margin + 0.003 * center == pytest.approx(loss, abs=2e-4)
    train.main(small(copy, epochs=1, loss="lmcl", overwrite=True))
    assert re.search(r"loss \S+  valid", capsys.readouterr().out)


def test_the_command_that_goes_on_is_that_of_the_start_with_resume():
    assert train.continuation(["train.py", "--save-dir", "my run", "--overwrite"], 1) == (
        "python train.py --save-dir 'my run' --resume"
    )
    assert train.continuation(["train.py", "--resume"], 2) == "torchrun (with the same options) train.py --resume"


def test_accumulated_batches_make_one_step(copy):
    train.main(small(copy, epochs=1, batch_size=4, accumulate=3))
    saved = load_checkpoint(copy / "model_save" / "last.pt")
    assert saved["progress"]["steps_per_epoch"] == 3  # of the 36 volumes in 9 batches
    assert saved["optimizer"]["state"][0]["step"] == 3


def test_averaged_weights_are_kept_beside_those_that_train(copy):
    train.main(small(copy, epochs=1, batch_size=4, ema=0.9))
    saved = load_checkpoint(copy / "model_save" / "last.pt")
    name = "embedding.0.weight"
    assert not torch.equal(saved["state_dict"][name], saved["progress"]["weights"][name])
    assert torch.equal(saved["state_dict"][name], saved["progress"]["average"][f"module.{name}"])


def test_the_log_is_shown_by_tensorboard_and_goes_on_with_the_run(copy):
    train.main(small(copy, epochs=2))
    (copy / "model_save" / "last.pt").write_bytes((copy / "model_save" / "checkpoint1.pt").read_bytes())
    train.main(small(copy, epochs=2, resume=True))
    events = EventAccumulator(str(copy / "model_save" / "tensorboard")).Reload()
    log = pd.read_csv(copy / "model_save" / "log.csv")
    for name in ("train_loss", "accuracy", "lr"):
        scalars = events.Scalars(name)
        assert [event.step for event in scalars] == [1, 2]
        assert [event.value for event in scalars] == pytest.approx(log[name].tolist())
    train.main(small(copy, epochs=1, overwrite=True))
    events = EventAccumulator(str(copy / "model_save" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("accuracy")] == [1]


def test_a_run_that_stops_improving_ends_early(copy, capsys):
    train.main(small(copy, epochs=30, patience=2, lr=1e-9))
    epochs = load_checkpoint(copy / "model_save" / "last.pt")["epoch"]
    assert epochs < 30
    assert f"stopped early, after epoch {epochs}; best: epoch {epochs - 2}" in capsys.readouterr().out


def test_the_plateau_schedule_lowers_the_rate_when_the_validation_loss_stays(copy):
    train.main(small(copy, epochs=7, schedule="plateau", lr=1e-12))
    log = pd.read_csv(copy / "model_save" / "log.csv")
    assert log["lr"].iloc[-1] == pytest.approx(1e-13)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(copy, name):
    """As published but for its length and width."""
    run = ("--recipe", name, "--width", "4", "--epochs", "1", "--batch-size", "18", "--save-dir", name)
    given = {"width": 4, "epochs": 1, "batch_size": 18, "recipe": name}
    if name == "diverse":
        run, given = (*run, "--auxiliary", "3"), {**given, "auxiliary": 3}
    command = [sys.executable, str(REPOSITORY / "train.py"), *run]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    config = load_checkpoint(copy / name / "last.pt")["config"]
    expected = {**RECIPES[name], **given}
    assert {key: config[key] for key in expected} == expected


def test_an_unknown_recipe_is_refused(copy):
    assert "--recipe secret: expected one of default, diverse, original, authors" in refuse(
        "train.py", "--recipe", "secret", cwd=copy
    )


@pytest.mark.parametrize(
    "options", [{"noise": 0.5}, {"rotate": True}, {"class_samples": 4, "batch_size": 12}, {"memory_share": 0.0}]
)
def test_every_way_to_feed_the_network_trains(copy, options, capsys):
    train.main(small(copy, epochs=1, **options))
    said = capsys.readouterr().out
    assert ("memory-mapped file" in said) == ("memory_share" in options)
    assert not list((copy / "csv_split").glob(".packed*"))
