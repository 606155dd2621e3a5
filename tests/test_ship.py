"""The small copy of a checkpoint: what it answers, its size, and what it is not for; and runs that start from it."""

import dataclasses

import numpy as np
import pytest
import torch

import ship
import train
from common.cli import InputError
from evaluation.junk import JunkCalibration
from evaluation.rejection import calibrated_score, classify
from loader.dataset import load_split
from loader.prepare import Preprocessing
from model import embed, load_checkpoint, load_model
from tests.scripts import refuse, same, small, succeed
from training.init import NETWORK, init_warning
from training.state import TrainingSet, TrainingState, beside_known, make_loss

TINY = {"width": 4, "embedding_dim": 16, "depth": 10}
OTHER_LOSS = {"loss": "softmax", "loss_options": {}}


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("shipped") / "small.pt"
    succeed("ship.py", "model_save/checkpoint.pt", str(path), cwd=trained)
    return path


def test_the_small_copy_answers_as_the_checkpoint_does(trained, shipped):
    rows = trained / "csv_split" / "valid_unseen.csv", trained / "csv_split" / "test.csv"
    answers = []
    for path in (trained / "model_save" / "checkpoint.pt", shipped):
        model, checkpoint = load_model(path, torch.device("cpu"))
        images = torch.cat([load_split(path, checkpoint["preprocessing"]).images for path in rows])
        found, calibration = embed(model, images, torch.device("cpu")), checkpoint["calibration"]
        scores = calibrated_score(found, calibration)
        answers.append((found, classify(found, calibration.prototypes)[0], scores))
        assert found.dtype == calibration.reference.dtype == np.float32
    (before, labels, scores), (after, copied_labels, copied_scores) = answers
    assert (labels == copied_labels).all() and len(labels) > 8
    np.testing.assert_allclose(copied_scores, scores, atol=2e-3)
    np.testing.assert_allclose(after, before, atol=2e-3)
    assert not np.array_equal(after, before)  # it is another file


def test_the_small_copy_holds_what_scripts_read_and_nothing_else(trained, shipped):
    before, after = load_checkpoint(trained / "model_save" / "checkpoint.pt"), load_checkpoint(shipped)
    assert after["metrics"] == before["metrics"] and after["classes"] == before["classes"]
    assert after["config"] == before["config"] | {"csv_dir": "csv_split", "save_dir": "model_save"}
    assert not any(after[key] for key in ("optimizer", "scheduler", "scaler", "rng"))
    assert torch.equal(after["progress"]["particles"], before["progress"]["particles"])
    raw = torch.load(shipped, weights_only=True)
    assert {value.dtype for value in raw["state_dict"].values() if value.ndim > 1} == {torch.float16}
    assert shipped.stat().st_size < (trained / "model_save" / "checkpoint.pt").stat().st_size / 3


def light_of(config, weights):
    """What ship.py makes of a checkpoint of three classes, with these settings and weights of the loss."""
    return ship.light(
        {
            "config": config,
            "classes": ["a", "b", "c"],
            "criterion": weights,
            "state_dict": {},
            "calibration": {},
            "junk": {},
            "whitening": {},
            "progress": {"steps_per_epoch": 1, "step": 0, "particles": torch.arange(2), "weights": {}},
        }
    )


def test_the_losss_auxiliary_classes_are_left_out():
    weights = {"head.weight": torch.randn(9, 4), "head.bias": torch.randn(9), "scale": torch.ones(1)}
    light = light_of({"auxiliary": 6, "structures": "/home/someone/pdb"}, weights)
    assert {name: tuple(value.shape) for name, value in light["criterion"].items()} == {
        **{"head.weight": (3, 4), "head.bias": (3,), "scale": (1,)}
    }
    assert torch.equal(light["criterion"]["head.bias"], weights["head.bias"][:3])
    assert light["config"]["structures"] == "pdb" and "weights" not in light["progress"]


@pytest.mark.parametrize("beside", [{"auxiliary": 2}, {"online_filaments": 4}, {"online_junk": 0.1}])
@pytest.mark.parametrize("more", [{}, {"auxiliary": 5, "online_filaments": 3, "online_junk": 0.2}])
def test_of_a_loss_as_training_makes_it_the_known_classes_alone_are_left(tmp_path, beside, more):
    cfg = small(tmp_path, simulate_online=True, online_renewal=0.5, **beside | more)
    weights = make_loss(cfg, 3).state_dict()
    rows = {len(value) for value in weights.values() if value.ndim == 2}
    assert rows == {3 + beside_known(dataclasses.asdict(cfg))}
    light = light_of(dataclasses.asdict(cfg), weights)["criterion"]
    assert {len(value) for value in light.values() if value.ndim == 2} == {3}
    assert weights.keys() == light.keys()


def test_what_tells_junk_is_kept_and_made_where_a_run_of_before_lacks_it():
    weights, reference = torch.randn(3 + 6, 4), torch.randn(50, 4)
    before = {"config": {"online_junk": 0.1}, "criterion": {"head.weight": weights}, "junk": {}}
    made = ship.light_junk(before | {"calibration": {"reference": reference}})
    assert made["junk"].shape == (6, 4) and made["particles"].dtype == torch.float16
    found = JunkCalibration.read(made)
    assert found.score(reference.numpy()).max() == pytest.approx(found.threshold, abs=2e-3)  # the highest
    again = ship.light_junk(before | {"calibration": {}, "junk": made})
    assert again["threshold"] == made["threshold"] and torch.equal(again["particles"], made["particles"])
    assert ship.light_junk(before | {"calibration": {}}) == {}
    without = {"config": {}, "criterion": {}, "junk": {}, "calibration": {"reference": reference}}
    assert ship.light_junk(without) == {}


def test_what_is_too_large_or_beyond_float16_is_not_written(trained, tmp_path, monkeypatch):
    target = tmp_path / "small.pt"
    monkeypatch.setattr(ship, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"small\.pt: would have 0\.\d MB; expected at most 0\.001"):
        ship.main(ship.Config(str(trained / "model_save" / "checkpoint.pt"), str(target)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="stem: not finite, or beyond float16"):
        ship.half({"stem": torch.full((2, 2), 1e6)})
    path = "model_save/checkpoint.pt"
    assert "the checkpoint itself" in refuse("ship.py", path, path, cwd=trained)


def test_a_shipped_checkpoint_is_not_resumed_from(copy, shipped):
    (copy / "model_save").mkdir()
    (copy / "model_save" / "last.pt").write_bytes(shipped.read_bytes())
    with pytest.raises(InputError, match=r"last\.pt: shipped without what resuming needs; --init starts a new run"):
        train.main(small(copy, epochs=3, resume=True))


def test_a_run_begins_with_the_weights_it_is_given_and_a_loss_of_its_own(shipped, tmp_path):
    cfg = small(tmp_path, init=str(shipped), **OTHER_LOSS)
    state = TrainingState(cfg, TrainingSet(["x", "y"], Preprocessing(16, 20.0)), 4, torch.device("cpu"))
    assert same(state.network.state_dict(), load_checkpoint(shipped)["state_dict"])
    fresh = TrainingState(
        dataclasses.replace(cfg, init=""), TrainingSet(["x", "y"], Preprocessing(16, 20.0)), 4, torch.device("cpu")
    )
    assert same(state.criterion.state_dict(), fresh.criterion.state_dict())
    averaged = TrainingState(
        dataclasses.replace(cfg, ema=0.9), TrainingSet(["x"], Preprocessing(16, 20.0)), 4, torch.device("cpu")
    )
    assert same(averaged.network.state_dict(), state.network.state_dict())


def test_a_run_of_no_steps_to_speak_of_keeps_the_weights(copy, shipped, capsys):
    train.main(small(copy, init=str(shipped), epochs=1, lr=1e-12, weight_decay=0.0))
    assert f"starts from the network of {shipped} (epoch " in capsys.readouterr().out
    before, after = load_checkpoint(shipped), load_checkpoint(copy / "model_save" / "last.pt")
    assert after["config"]["init"] == str(shipped)
    for name, value in before["state_dict"].items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after["state_dict"][name], value, atol=1e-7, rtol=0)


def slabs(seed):
    """Volumes (9, 1, 16, 16, 16), three of each class: noise with a slab across z, y or x."""
    volumes = torch.randn(9, 1, 16, 16, 16, generator=torch.Generator().manual_seed(seed))
    for label in range(3):
        volumes[3 * label : 3 * label + 3].movedim(2 + label, 2)[:, :, 6:10] += 2
    return (volumes - volumes.mean()) / volumes.std()


def losses_of(state, labels, steps):
    """The loss of each of some steps on slabs."""
    state.start_epoch()
    found = []
    for step in range(steps):
        state.optimizer.zero_grad()
        loss = state.module(slabs(step), labels).total
        loss.backward()
        state.advance()
        found.append(loss.item())
    return found


def test_a_run_that_starts_from_a_network_learns_other_classes_faster_than_one_from_nothing(tmp_path):
    cfg = small(tmp_path, schedule="plateau", **OTHER_LOSS)
    data, cpu, labels = TrainingSet(["z", "y", "x"], Preprocessing(16, None)), torch.device("cpu"), torch.arange(9) // 3
    source = TrainingState(cfg, data, 20, cpu)
    losses_of(source, labels, 20)
    source.save(tmp_path / "source.pt")
    cfg = dataclasses.replace(cfg, seed=5)
    mirrored = 2 - labels
    nothing = losses_of(TrainingState(cfg, data, 30, cpu), mirrored, 10)
    begun = TrainingState(dataclasses.replace(cfg, init=str(tmp_path / "source.pt")), data, 30, cpu)
    assert sum(losses_of(begun, mirrored, 10)) < 0.8 * sum(nothing)


def test_a_run_that_started_from_a_network_is_resumed_bit_for_bit(copy, shipped, capsys):
    options = {"epochs": 2, "init": str(shipped)}
    train.main(small(copy, **options))
    whole = load_checkpoint(copy / "model_save" / "last.pt")
    (copy / "model_save" / "last.pt").write_bytes((copy / "model_save" / "checkpoint1.pt").read_bytes())
    capsys.readouterr()
    train.main(small(copy, **options, resume=True))
    said = capsys.readouterr().out
    assert "goes on after epoch 1 of 2" in said and "starts from" not in said
    assert same(load_checkpoint(copy / "model_save" / "last.pt")["state_dict"], whole["state_dict"])


def test_the_networks_settings_are_those_of_the_file_and_no_others(copy, shipped, tmp_path):
    options = ("--init", str(shipped), "--batch-size", "16", "--epochs", "1", "--no-tensorboard")
    succeed("train.py", *options, "--lr", "0.001", cwd=copy)
    made = load_checkpoint(copy / "model_save" / "last.pt")["config"]
    assert {name: made[name] for name in TINY} == TINY and len(NETWORK) == 5
    said = refuse("train.py", *options, "--overwrite", "--width", "8", "--csv-dir", "nowhere", cwd=copy)
    assert said.endswith("small.pt: its network has width 4, not 8; leave these options out")
    assert "none.pt: no such file" in refuse("train.py", "--init", "none.pt", cwd=copy)


def test_volumes_unlike_those_of_the_network_are_warned_of():
    source = {"preprocessing": Preprocessing(32, 10.0)}
    assert init_warning("a.pt", source, Preprocessing(32, 10.001)) == ""
    assert init_warning("a.pt", source, Preprocessing(32, None)) == ""
    text = init_warning("a.pt", source, Preprocessing(24, 13.6))
    assert text == ("a.pt was trained on a box of 32 voxels, here 24 and voxels of 10 A, here 13.6 A; it may help less")
