"""Training on the small data set: what a run writes, refuses and warns of."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from common.cli import InputError
from loader.dataset import load_split
from loader.prepare import Preprocessing
from loss.loss import LOSSES
from model import embed, load_checkpoint, load_model
from tests.scripts import REPOSITORY, refuse, small, succeed
from training.recipes import RECIPES
from training.record import duration
from training.state import TrainingSet, TrainingState


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 1}, "--batch-size 1"),
        ({"shift": -1}, "--shift -1"),
        ({"loss": "none"}, "--loss none: expected one of soft_lmccl"),
        ({"loss_options": {"q": "3"}}, "--loss-options q: soft_lmccl has s, m, bias"),
        ({"backbone": "vgg"}, "--backbone vgg: expected one of resnet"),
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
        ({"class_samples": 4}, "16 / 4 = 4 classes per batch, there are 3"),
        (
            {"views": True, "backbone": "resnet_half_turn", "width": 8},
            "--views: by --backbone resnet_half_turn, as by the default, all half-turned views",
        ),
        ({"sync_batchnorm": True}, "--sync-batchnorm: for several processes on GPUs"),
        ({"depth": 11, "backbone": "resnet_half_turn"}, "depth 11: resnet_half_turn has 10, 18, 34$"),
        (
            {"depth": 50, "backbone": "resnet_half_turn"},
            "depth 50: resnet_half_turn has 10, 18, 34; resnet and resnet_pool have it$",
        ),
        (
            {"width": 6, "backbone": "resnet_half_turn"},
            "width 6: resnet_half_turn has multiples of 4; resnet and resnet_pool have any$",
        ),
        ({"backbone": "resnet", "depth": 11}, "depth 11: expected one of 10, 18"),
        ({"backbone": "sphere20"}, "depth 10: sphere20 has 20"),
        ({"embedding_dim": 0}, "embedding_dim 0, upsample 1: expected at least 1"),
        ({"upsample": 0}, "embedding_dim 16, upsample 0: expected at least 1"),
        ({"loss_options": {"m": "-1"}}, "--loss-options: s = 30.0, m = -1: expected s above 0"),
        (
            {"loss_options": {"s": "auto", "m": "1.5"}},
            r's = "auto" needs m < C / \(C - 1\) = 1.5 for 3',
        ),
        ({"contrast": "grey"}, "--contrast grey: expected one of bright, dark"),
        ({"recipe": "mine"}, "--recipe mine: expected one of default"),
    ],
)
def test_a_mistake_is_named_before_the_volumes_are_read_and_writes_nothing(copy, options, message):
    """Of train.csv only the first volume can be read."""
    rows = pd.read_csv(copy / "csv_split" / "train.csv", dtype=str, keep_default_na=False)
    (copy / "broken.mrc").write_bytes(b"no volume")
    rows.loc[1:, "Input Data"] = str(copy / "broken.mrc")
    rows["Input Data"] = [str((copy / "csv_split" / name).resolve()) for name in rows["Input Data"]]
    rows.to_csv(copy / "csv_split" / "train.csv", index=False)
    with pytest.raises(InputError, match=message):
        train.main(small(copy, **options))
    assert not (copy / "model_save").exists()


def test_files_are_read_once(copy, monkeypatch):
    """Once training has begun, no MRC file is opened."""
    epochs = []
    whole = train.train_epoch

    def begun(state, *rest):
        epochs.append(state.epoch)
        for module in ("prepare", "packed", "dataset"):  # each reader of volumes under the name that it has there
            monkeypatch.setattr(f"loader.{module}.read_volume", lambda name: pytest.fail(f"{name} was opened again"))
        return whole(state, *rest)

    monkeypatch.setattr(train, "train_epoch", begun)
    train.main(small(copy, epochs=2))
    assert epochs == [0, 1]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(copy, name):
    train.main(small(copy, epochs=1, loss=name))
    assert load_checkpoint(copy / "model_save" / "last.pt")["config"]["loss"] == name


def test_particles_of_the_other_contrast_are_warned_of(copy, capsys):
    train.main(small(copy, epochs=1, false_rejection_rate=0.5))
    assert "the particles look" not in capsys.readouterr().err
    train.main(small(copy, epochs=1, contrast="dark", overwrite=True))
    assert "the particles look bright, not dark" in capsys.readouterr().err


def test_a_threshold_that_can_reject_no_validation_volume_is_warned_of_once(copy, capsys):
    train.main(small(copy, epochs=2, false_rejection_rate=0.15))
    lines = capsys.readouterr().err.splitlines()
    said = "6 validation volumes: --false-rejection-rate 0.15 rejects none of fewer than 7"
    assert sum(said in line for line in lines) == 1
    at_chance = "of the validation volumes of known classes are named right (chance 33%): too little"
    assert sum("warning" in line and said not in line and at_chance not in line for line in lines) == 0


def test_the_terms_of_an_epochs_line_add_up_to_its_loss(copy, capsys):
    train.main(small(copy, epochs=1, loss_options={"margin_weight": "0.5"}))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1"))
    assert "  lr near 0  " in line and " left" not in line and line.endswith(" volumes/s  best so far")
    found = re.search(r"loss (\S+) = softmax (\S+) \+ 0\.5 x margin (\S+) \+ 0\.003 x center (\S+)  valid", line)
    loss, softmax, margin, center = map(float, found.groups())
    assert softmax + 0.5 * margin + 0.003 * center == pytest.approx(loss, abs=2e-4)
    train.main(small(copy, epochs=1, loss="lmcl", overwrite=True))
    assert re.search(r"loss \S+  valid", capsys.readouterr().out)


def test_the_time_that_is_left_is_told_as_people_read_it():
    assert [duration(seconds) for seconds in (0.4, 59, 60, 210, 7560)] == ["0 s", "59 s", "1.0 min", "3.5 min", "2.1 h"]


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


def test_the_loss_is_averaged_with_the_network_that_it_is_kept_and_validated_with(copy):
    """Also its head, with which open_set.py makes logits; the logged validation loss is that of what is kept."""
    train.main(small(copy, epochs=1, batch_size=4, ema=0.9, lr=0.03))
    saved = load_checkpoint(copy / "model_save" / "last.pt")
    kept, training = saved["criterion"], saved["progress"]["loss_weights"]
    assert kept.keys() == training.keys() and not torch.equal(kept["head.weight"], training["head.weight"])
    model, _ = load_model(copy / "model_save" / "last.pt", torch.device("cpu"))
    valid = load_split(copy / "csv_split" / "valid.csv")
    embeddings = torch.from_numpy(embed(model, valid.images, torch.device("cpu"), normalised=False))
    losses = []
    for weights in (kept, training):
        criterion = LOSSES["soft_lmccl"](16, 3).eval()
        criterion.load_state_dict(weights)
        terms = [criterion(*part).total.item() * len(part[1]) for part in parts(embeddings, valid.labels, 4)]
        losses.append(sum(terms))
    logged = saved["metrics"]["log"][0]["valid_loss"] * len(valid)
    assert losses[0] == pytest.approx(logged, rel=1e-5)
    assert abs(losses[1] - logged) > 1e-3 * logged


def parts(embeddings, labels, size):
    """Batches as validation takes them."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return zip(embeddings[order].split(size), labels[order].split(size), strict=True)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_can_be_averaged(name):
    torch.manual_seed(0)
    cfg = train.Config(depth=10, width=4, embedding_dim=16, epochs=1, loss=name, ema=0.9)
    state = TrainingState(cfg, TrainingSet(["a", "b"], Preprocessing(16, None)), 2, torch.device("cpu"))
    before = [parameter.clone() for parameter in state.criterion.parameters()]
    volumes, labels = torch.randn(8, 1, 16, 16, 16), torch.arange(8) % 2
    for _ in range(2):
        state.module(volumes, labels).total.backward()
        state.advance()
    triples = zip(before, state.loss.parameters(), state.criterion.parameters(), strict=True)
    for first, average, last in triples:
        assert not torch.equal(first, last)
        assert not torch.equal(average, last)
        assert ((average - first).norm() + (last - average).norm()) < 2 * (last - first).norm()


def test_a_run_of_before_whose_loss_had_no_average_goes_on(copy):
    train.main(small(copy, epochs=2, ema=0.9))
    path = copy / "model_save" / "last.pt"
    saved = load_checkpoint(copy / "model_save" / "checkpoint1.pt")
    saved["criterion"] = saved["progress"].pop("loss_weights")
    del saved["progress"]["loss_average"], saved["calibration"]["neighbours"]
    torch.save(saved, path)
    train.main(small(copy, epochs=2, ema=0.9, resume=True))
    assert load_checkpoint(path)["epoch"] == 2


def test_the_last_lines_say_how_many_of_each_known_class_are_called_unknown(copy, capsys):
    train.main(small(copy, epochs=1, false_rejection_rate=0.99))
    said = capsys.readouterr()
    rates = load_checkpoint(copy / "model_save" / "checkpoint.pt")["calibration"]["class_false_rejection"]
    assert rates.shape == (3,) and rates.max() > 0.5
    line = said.out.splitlines()[-1]
    assert line.startswith("called unknown of each known class in validation: complex0")
    for name, rate in zip(("complex00", "complex01", "complex02"), rates.tolist(), strict=True):
        assert f"{name} {rate:.0%}" in line
    assert "warning: most volumes of these known classes are called unknown: complex0" in said.err


def test_a_copy_of_a_checkpoint_is_neither_counted_nor_deleted(copy):
    folder = copy / "model_save"
    folder.mkdir()
    (folder / "checkpoint5_copy.pt").write_bytes(b"the user's own")
    train.main(small(copy, epochs=2, keep=1))
    assert len(list(folder.glob("checkpoint[0-9].pt"))) == 1
    train.main(small(copy, epochs=1, overwrite=True))
    assert (folder / "checkpoint5_copy.pt").read_bytes() == b"the user's own"


HEAVY = ("sklearn", "matplotlib", "umap", "gemmi", "tensorboard", "pytorch_metric_learning", "scipy.stats", "pandas")
LISTED = """
import runpy, sys
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *sys.modules)
"""


def test_help_has_every_option_explained_in_groups_and_imports_only_what_it_needs():
    done = subprocess.run([sys.executable, "-c", LISTED], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text, _, imported = done.stdout.rpartition("imported:")
    assert not {*HEAVY} & {*imported.split()}
    for group in ("optimisation", "augmentation", "online", "rejection", "machine"):
        assert f"─ {group} options ─" in text
    assert "--schedule {one_cycle,plateau,decay}" in text and "--online-snr FLOAT FLOAT" in text
    options = re.split(r"│ (?=-)", text)[1:]
    assert len(options) == len(dataclasses.fields(train.Config)) + 1  # and --help
    for option in options:
        name, default = option.split()[0], option.find("(default:")
        words = re.sub(r"[│\s]+", " ", option[:default].partition("}")[2] or option[:default])
        assert len(words.split()) >= 4 + ("{" not in option), f"{name}: {words}"


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
    fewer = {"diverse": {"auxiliary": 3}, "universal": {"auxiliary": 3, "online_stock": 64, "online_volumes": 36}}
    for key, value in fewer.get(name, {}).items():
        run, given = (*run, f"--{key.replace('_', '-')}", str(value)), {**given, key: value}
    succeed("train.py", *run, cwd=copy)
    config = load_checkpoint(copy / name / "last.pt")["config"]
    expected = {**RECIPES[name], **given}
    assert {key: config[key] for key in expected} == expected


def test_an_unknown_recipe_is_refused(copy):
    assert "--recipe secret: expected one of default, diverse, universal, original, authors" in refuse(
        "train.py", "--recipe", "secret", cwd=copy
    )


@pytest.mark.parametrize(
    "options", [{"noise": 0.5}, {"rotate": True}, {"class_samples": 4, "batch_size": 12}, {"memory_share": 0.0}]
)
def test_every_way_to_feed_the_network_trains(copy, options, capsys):
    train.main(small(copy, epochs=1, **options))
    assert f"training volumes in {copy}/csv_split/train.packed.f16, memory-mapped (0 MB)" in capsys.readouterr().out
