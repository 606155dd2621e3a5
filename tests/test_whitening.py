"""Within-class whitening: what it does to embeddings, and that every maker of embeddings does the same."""

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import train
from common.cli import InputError
from evaluation.junk import junk_of_loss, junk_score
from evaluation.rejection import calibrated_score, fit_threshold, unit
from evaluation.whitening import Whitening, fit_whitening
from loader.dataset import load_split
from model import Whitened, embed, load_checkpoint, load_model, network_code
from tests.scripts import refuse, same, small, succeed
from tests.test_stream_training import settings

CPU = torch.device("cpu")
CLASSES, EACH = 5, 400


def clouds(seed: int, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around five directions that share a part, `spread` (E,) along each axis, and their labels."""
    generator = np.random.default_rng(seed)
    centres = np.eye(len(spread))[:CLASSES] + 0.5
    labels = np.repeat(np.arange(CLASSES), EACH)
    return centres[labels] + generator.normal(size=(len(labels), len(spread))) * spread, labels


def within(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The covariance within classes, row by row."""
    total = np.zeros((embeddings.shape[1],) * 2)
    for label in np.unique(labels):
        own = embeddings[labels == label]
        for row in own:
            total += np.outer(row - own.mean(axis=0), row - own.mean(axis=0))
    return total / len(embeddings)


def test_at_full_strength_a_class_has_the_same_spread_in_all_directions_and_at_half_the_root_of_it():
    embeddings, labels = clouds(1, np.array([0.3, 0.05, 0.1, 0.1, 0.1, 0.2, 0.4, 0.1]))
    before = np.linalg.eigvalsh(within(unit(embeddings), labels))
    whole, half, none = (fit_whitening(embeddings, labels, CLASSES, strength) for strength in (1.0, 0.5, 0.0))
    after = [np.linalg.eigvalsh(within(found.apply(embeddings), labels)) for found in (whole, half, none)]
    assert after[0] == pytest.approx(np.ones(8), rel=0.15)  # the rule of Ledoit and Wolf shrinks a little
    assert after[1] == pytest.approx(np.sqrt(before), rel=0.15)
    np.testing.assert_allclose(after[2], before, rtol=1e-3)
    np.testing.assert_allclose(none.apply(embeddings), unit(embeddings) - unit(embeddings).mean(axis=0), atol=1e-5)


def test_whitening_is_of_the_direction_alone_and_takes_the_mean_off():
    embeddings, labels = clouds(2, np.full(8, 0.1))
    found = fit_whitening(7 * embeddings, labels, CLASSES, 0.5)
    lengths = np.random.default_rng(0).uniform(0.1, 9, size=(len(embeddings), 1))
    np.testing.assert_allclose(found.apply(lengths * embeddings), found.apply(embeddings), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.apply(embeddings).mean(axis=0), 0, atol=1e-4)


def test_pairs_are_told_better_where_one_direction_differs_within_classes_alone():
    spread = np.full(8, 0.05)
    spread[7] = 1.5  # what all classes vary along, and none is known by
    found = fit_whitening(*clouds(3, spread), CLASSES, 1.0)
    embeddings, labels = clouds(4, spread)

    def lead(embeddings: np.ndarray) -> float:
        cosines, same_class = unit(embeddings) @ unit(embeddings).T, labels[:, None] == labels
        return np.mean(cosines[same_class]) - np.mean(cosines[~same_class])

    assert lead(found.apply(embeddings)) > 3 * lead(embeddings)


def test_the_network_with_whitening_in_it_gives_what_the_arrays_give():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8)).eval()
    network.embedding_dim = 8
    volumes = torch.randn(9, 1, 4, 4, 4)
    found = fit_whitening(*clouds(5, np.linspace(0.05, 0.5, 8)), CLASSES, 0.7)
    whitened = Whitened(network, found)
    raw = embed(network, volumes, CPU, normalised=False)
    np.testing.assert_allclose(embed(whitened, volumes, CPU, normalised=False), found.apply(raw), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(embed(whitened, volumes, CPU), unit(found.apply(raw)), atol=1e-5)
    again = Whitening.read(found.content())
    assert np.array_equal(again.mean, found.mean) and np.array_equal(again.matrix, found.matrix)
    assert Whitening.read({}) is None


def test_directions_of_junk_are_whitened_as_the_embeddings_are():
    found = fit_whitening(*clouds(6, np.linspace(0.05, 0.5, 8)), CLASSES, 0.5)
    weights, known = torch.eye(8)[:6], found.apply(np.eye(8)[:3] + 0.1)
    junk = junk_of_loss({"weight": weights}, 2, known, found)
    directions = unit(found.apply(weights.numpy()))
    np.testing.assert_allclose(junk.particles, directions[:4], atol=1e-6)
    np.testing.assert_allclose(junk.score(known), junk_score(known, directions[:4], directions[4:]), atol=1e-6)


def test_calibration_and_whoever_loads_the_checkpoint_use_the_same_whitening(copy):
    """Training is that of a run without it, the best epoch apart; and a small copy whitens too."""
    train.main(small(copy, epochs=1, whiten=0.5))
    train.main(small(copy, epochs=1, save_dir=str(copy / "plain")))
    path = copy / "model_save" / "checkpoint.pt"
    (model, checkpoint), (plain, of_plain) = load_model(path, CPU), load_model(copy / "plain" / "checkpoint.pt", CPU)
    assert same(load_checkpoint(path)["state_dict"], of_plain["state_dict"])
    assert isinstance(model, Whitened) and not isinstance(plain, Whitened) and not of_plain["whitening"]
    logs = (content["metrics"]["log"][0] for content in (checkpoint, of_plain))
    assert next(logs)["valid_loss"] == next(logs)["valid_loss"]
    calibration, preprocessing = checkpoint["calibration"], checkpoint["preprocessing"]
    split, valid = (load_split(copy / "csv_split" / f"{part}.csv", preprocessing) for part in ("train", "valid"))
    raw = embed(plain, split.images, CPU)
    expected = fit_whitening(raw, split.labels.numpy(), 3, 0.5)
    np.testing.assert_allclose(checkpoint["whitening"]["matrix"], expected.matrix, rtol=1e-3, atol=1e-3)
    found = embed(model, split.images, CPU)
    np.testing.assert_allclose(found, calibration.reference, atol=1e-4)
    np.testing.assert_allclose(found, unit(expected.apply(raw)), atol=1e-3)
    scores = calibrated_score(embed(model, valid.images, CPU, normalised=False), calibration)
    rate = checkpoint["config"]["false_rejection_rate"]
    assert fit_threshold(scores, rate) == pytest.approx(calibration.threshold, abs=1e-4)
    assert network_code(checkpoint) != network_code(of_plain)

    succeed("ship.py", str(path), str(copy / "small.pt"), cwd=copy)
    shipped = load_model(copy / "small.pt", CPU)[0]
    assert (embed(shipped, valid.images, CPU) * embed(model, valid.images, CPU)).sum(axis=1).min() > 0.999


def test_open_set_and_predict_take_the_whitened_embeddings(copy):
    train.main(small(copy, epochs=1, whiten=0.5))
    succeed("open_set.py", "model_save/checkpoint.pt", "--bootstrap", "2", "--no-umap", "--no-discovery", cwd=copy)
    succeed("predict.py", "model_save/checkpoint.pt", "csv_split/valid.csv", cwd=copy)
    model, checkpoint = load_model(copy / "model_save" / "checkpoint.pt", CPU)
    valid = load_split(copy / "csv_split" / "valid.csv", checkpoint["preprocessing"])
    with np.load(next((copy / "results").rglob("embeddings.npz"))) as written:
        found = next(written[name] for name in written.files if written[name].shape == (len(valid.images), 16))
    np.testing.assert_allclose(found, F.normalize(torch.from_numpy(embed(model, valid.images, CPU))), atol=2e-3)
    report = next((copy / "results").rglob("open_set.json")).read_text()
    assert '"knn_cosine"' in report and '"max_logit"' not in report


def test_a_checkpoint_from_before_whitening_loads_and_its_run_may_go_on_with_it(copy):
    train.main(small(copy, epochs=2))
    path = copy / "model_save" / "last.pt"
    saved = load_checkpoint(copy / "model_save" / "checkpoint1.pt")
    del saved["whitening"], saved["config"]["whiten"]
    torch.save(saved, path)
    before = load_model(path, CPU)
    assert not isinstance(before[0], Whitened) and before[1]["whitening"] == {}
    train.main(small(copy, epochs=2, resume=True, whiten=1.0))
    assert isinstance(load_model(path, CPU)[0], Whitened)


def test_junk_and_whitening_of_a_stream_are_in_one_space_and_taken_up_again(shared, tmp_path):
    options = {"epochs": 2, "online_imaging": "random", "online_junk": 0.25, "whiten": 0.5, "reference": "simulated"}
    train.main(settings(shared, save_dir=str(tmp_path / "whole"), keep=9, **options))
    whole = load_checkpoint(tmp_path / "whole" / "last.pt")
    whitening = Whitening.read(whole["whitening"])
    directions = unit(whitening.apply(whole["criterion"]["head.weight"].numpy()))
    np.testing.assert_allclose(whole["junk"]["particles"], directions[:3], atol=1e-5)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.copy(tmp_path / "parts" / "checkpoint1.pt", tmp_path / "parts" / "last.pt")
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), resume=True, **options))
    parts = load_checkpoint(tmp_path / "parts" / "last.pt")
    for key in ("state_dict", "criterion", "whitening"):
        assert same(whole[key], parts[key])


def test_whitening_that_makes_no_sense_is_refused_before_anything_is_read(copy):
    options = ("--csv-dir", "nowhere", "--whiten")
    assert "--whiten 2.0: expected 0 to 1" in refuse("train.py", *options, "2", cwd=copy)
    expected = "--prototype-per-class 1: --whiten needs 2 or more"
    assert expected in refuse("train.py", *options, "1", "--prototype-per-class", "1", cwd=copy)
    path = copy / "csv_split" / "train.csv"
    lines = path.read_text().splitlines()
    classes = [line.split(",")[2] for line in lines[1:]]
    path.write_text("\n".join([lines[0], *(lines[1 + classes.index(label)] for label in "012")]) + "\n")
    with pytest.raises(InputError, match=r"--whiten: train\.csv has one volume of each class"):
        train.main(small(copy, whiten=0.5, batch_size=2))
