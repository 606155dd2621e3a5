"""Embeddings averaged over half-turned views: what they are, and that every maker of embeddings takes the same."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import train
from common.cli import InputError
from evaluation.rejection import calibrated_score, fit_threshold, unit
from loader.augment import HALF_TURNS
from loader.dataset import load_split
from loader.prepare import Preprocessing
from model import Conv3D, Views, embed, load_checkpoint, load_model, with_views
from tests.scripts import small

CPU = torch.device("cpu")
SYMMETRIC, LOPSIDED = (Preprocessing(16, 10.0, tilt_range=tilts) for tilts in ((-60.0, 60.0), (-40.0, 60.0)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Conv3D("resnet", 10, 8, 8).eval()


@pytest.fixture
def volumes():
    return torch.randn(5, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


def test_views_give_the_normalised_mean_of_unit_embeddings(network, volumes):
    units = [embed(network, turned, CPU) for turned in (volumes, *map(volumes.flip, HALF_TURNS.values()))]
    found = embed(Views(network, tuple(HALF_TURNS)), volumes, CPU, batch_size=2)
    np.testing.assert_allclose(found, unit(np.mean(units, axis=0)), atol=1e-6)
    assert not np.allclose(found, units[0], atol=1e-3)


def test_the_raw_output_has_the_same_direction_and_the_length_of_a_mean(network, volumes):
    views = Views(network, ("y",))
    raw = embed(views, volumes, CPU, normalised=False)
    np.testing.assert_allclose(unit(raw), embed(views, volumes, CPU), atol=1e-6)
    ones = [embed(network, turned, CPU, normalised=False) for turned in (volumes, volumes.flip(HALF_TURNS["y"]))]
    lengths = [np.linalg.norm(one, axis=1) for one in ones]
    agreement = np.linalg.norm(np.mean([unit(one) for one in ones], axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), np.mean(lengths, axis=0) * agreement, rtol=1e-5)


def test_where_all_views_are_equally_long_the_logits_are_the_mean_logits(volumes):
    class Direction(nn.Module):
        embedding_dim = 16

        def forward(self, batch):
            return 3 * F.normalize(batch[:, 0, 0, 0])

    head = torch.randn(16, 4, generator=torch.Generator().manual_seed(2))
    expected = (Direction()(volumes) @ head + Direction()(volumes.flip(HALF_TURNS["x"])) @ head) / 2
    torch.testing.assert_close(Views(Direction(), ("x",))(volumes) @ head, expected)


def test_over_all_half_turns_the_order_of_views_is_all_that_a_turn_changes(network, volumes):
    views = Views(network, tuple(HALF_TURNS))
    for axes in HALF_TURNS.values():
        np.testing.assert_allclose(embed(views, volumes.flip(axes), CPU), embed(views, volumes, CPU), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "preprocessing", "turns"),
    [
        ({"views": True}, SYMMETRIC, ("z", "y", "x")),
        ({"views": True}, LOPSIDED, ("y",)),
        ({"views": True}, dataclasses.replace(SYMMETRIC, tilt_range=None), ()),
        ({"views": False}, SYMMETRIC, ()),
        ({}, SYMMETRIC, ()),
    ],
)
def test_views_are_those_that_keep_the_wedge_where_they_are_asked_for(network, config, preprocessing, turns):
    found = with_views(network, config, preprocessing)
    assert getattr(found, "turns", ()) == turns
    assert turns or found is network


@pytest.mark.parametrize("training", [True, False])
def test_views_leave_the_mode_and_the_weights_of_the_network_alone(network, volumes, training):
    network.train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    embed(Views(network, ("y",)), volumes, CPU)
    assert all(layer.training == training for layer in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_calibration_and_whoever_loads_the_checkpoint_use_the_same_views(copy):
    train.main(small(copy, epochs=1, views=True, backbone="resnet"))
    path = copy / "model_save" / "checkpoint.pt"
    model, checkpoint = load_model(path, CPU)
    assert model.turns == ("z", "y", "x") and not model.training
    calibration, preprocessing = checkpoint["calibration"], checkpoint["preprocessing"]
    split, valid = (load_split(copy / "csv_split" / f"{part}.csv", preprocessing) for part in ("train", "valid"))
    np.testing.assert_allclose(embed(model, split.images, CPU), calibration.reference, atol=1e-5)
    scores = calibrated_score(embed(model, valid.images, CPU, normalised=False), calibration)
    assert fit_threshold(scores, checkpoint["config"]["false_rejection_rate"]) == pytest.approx(
        calibration.threshold, abs=1e-5
    )
    one_view = embed(model.model, split.images, CPU)
    assert not np.allclose(one_view, calibration.reference, atol=1e-3)


def test_views_of_volumes_with_an_unknown_tilt_range_are_refused(copy):
    for path in (copy / "csv_split").glob("*.csv"):
        pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="Tilt Min").to_csv(path, index=False)
    with pytest.raises(InputError, match="--views: the tilt range of the volumes is unknown"):
        train.main(small(copy, views=True, backbone="resnet"))


def test_a_run_from_before_the_option_goes_on_with_one_view_and_not_with_more(copy):
    train.main(small(copy, epochs=2, backbone="resnet"))
    path = copy / "model_save" / "last.pt"
    saved = load_checkpoint(path)
    del saved["config"]["views"]
    torch.save(saved, path)
    train.main(small(copy, epochs=2, resume=True, backbone="resnet"))
    assert isinstance(load_model(copy / "model_save" / "checkpoint.pt", CPU)[0], Conv3D)
    with pytest.raises(InputError, match=r"last\.pt: views was False, is True"):
        train.main(small(copy, epochs=2, resume=True, views=True, backbone="resnet"))
