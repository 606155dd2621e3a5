"""The margin that follows the SNR: which SNR a volume of a stock has, and what share of the margin that is."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

import train
from common.cli import InputError
from model import load_checkpoint
from simulation.stream import GROUP, Stock
from tests.scripts import refuse, same
from tests.test_stream import BASE, correlation, drawn_as_stored, generator, maker
from tests.test_stream_training import settings, source


def test_under_one_level_of_noise_a_particle_has_an_snr_of_its_own(densities):
    """Two draws of a particle correlate by SNR / (1 + SNR): here by its own, of small ones and of large ones."""
    stock = Stock(maker(densities, BASE, one_level=True), 16)
    stock.advance(0)
    rows = torch.arange(16 * GROUP)
    draw = drawn_as_stored(rows, torch.full((len(rows),), 0.5**-0.5), 1)
    snr = stock.snr(draw)
    assert snr.max() > 1.3 * snr.min()
    pair = [stock.read(drawn_as_stored(rows, draw.factors, seed))[0] for seed in (1, 2)]
    found, order = correlation(*pair), snr.argsort()
    for half in order.split(len(order) // 2):
        assert found[half].mean().item() == pytest.approx((snr / (1 + snr))[half].mean().item(), rel=0.06)


@pytest.mark.parametrize("convention", ["variance", "lab"])
def test_a_particle_with_a_level_of_its_own_has_the_snr_that_was_drawn(densities, convention):
    stock = Stock(maker(densities, replace(BASE, snr_convention=convention)), 4)
    stock.advance(0)
    draw = stock.draw(4 * GROUP, (0.01, 1.0), 0.25, generator(3))
    expected = [1 / factor**2 if factor else math.inf for factor in draw.factors.tolist()]
    assert expected.count(math.inf) > 2
    assert stock.snr(draw).tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("imaging", ["fixed", "random"])
def test_the_share_goes_with_the_logarithm_of_the_snr_and_is_whole_without_noise(shared, imaging):
    low, high = 0.02, 0.5
    batches = source(shared, online_imaging=imaging, online_snr=(low, high), online_noise_free=0.3)
    shares, expected = [], []
    for number in range(4):
        draw = batches._draw(0, number)
        shares += batches.margins(0, number).tolist()
        for row, factor in zip(draw.rows.tolist(), draw.factors.tolist(), strict=True):
            level = factor * batches.stock.levels.flatten()[row].item()
            snr = 1 / level**2 if level else math.inf
            place = 1.0 if snr >= high else math.log(snr / low) / math.log(high / low)
            expected.append(max(place, 0.0))
    assert shares == pytest.approx(expected, abs=1e-5)
    assert 0.15 < shares.count(1.0) / len(shares) < 0.55 and min(shares) < 0.2
    assert len(set(shares)) > 0.4 * len(shares)


def test_a_cut_off_run_whose_margin_follows_the_snr_ends_with_the_same_weights(shared, tmp_path):
    options = {"epochs": 2, "online_imaging": "random", "margin_snr": True, "clean_twin": 0.2}
    train.main(settings(shared, save_dir=str(tmp_path / "whole"), **options))
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), keep=9, **options))
    shutil.copy(tmp_path / "parts" / "checkpoint1.pt", tmp_path / "parts" / "last.pt")
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), resume=True, **options))
    train.main(settings(shared, save_dir=str(tmp_path / "off"), **options | {"margin_snr": False}))
    whole, parts, off = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts", "off"))
    assert same(whole["state_dict"], parts["state_dict"]) and same(whole["criterion"], parts["criterion"])
    assert not same(whole["state_dict"], off["state_dict"])
    first = (run["metrics"]["log"][0]["margin"] for run in (whole, off))
    assert next(first) < next(first)  # less margin costs less
    with pytest.raises(InputError, match=r"last\.pt: margin_snr was True, is False"):
        train.main(settings(shared, save_dir=str(tmp_path / "whole"), resume=True, **options | {"margin_snr": False}))


def test_a_margin_that_cannot_follow_the_snr_is_refused_before_anything_is_read(shared, tmp_path):
    options = ("--csv-dir", "nowhere", "--save-dir", str(tmp_path / "run"), "--margin-snr")
    online = (*options, "--simulate-online", "--online-renewal", "0.25")
    cases = {
        options: "--margin-snr: of volumes that are simulated; give --simulate-online too",
        (*options, "--simulate-online"): "--margin-snr: of a stock of particles; give --online-renewal below 1 too",
        (*online, "--loss", "arcface"): "has no margin that volumes share in; expected one of soft_lmccl",
        (*online, "--online-snr", "0.1", "0.1"): "--margin-snr: --online-snr 0.1 0.1 is no range",
    }  # fmt: skip
    for given, expected in cases.items():
        assert expected in refuse("train.py", *given, cwd=shared)
