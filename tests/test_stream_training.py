"""The stream as train.py uses it: its batches, its processes, its junk, and that a run on it can be taken up."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

import train
from common.cli import InputError
from common.group import Group
from loader.prepare import Preprocessing
from model import load_checkpoint, load_model
from physics.filters import geometry
from physics.imaging import Imaging
from simulation.conditions import ImagingRanges
from simulation.junk import JUNK
from simulation.stream import GROUP
from tests.scripts import same, small
from training.online import OnlineBatches, StreamBatches, load_shapes

CPU = torch.device("cpu")
CLASSES = ["complex00", "complex01", "complex02"]


def settings(folder, **options):
    places = {"data_dir": str(folder / "data_"), "simulate_online": True, "batch_size": 16}
    stock = {"online_renewal": 0.25, "online_stock": 32, "online_neighbours": 0}
    return small(folder, **{**places, **stock, **options})


def source(folder, group=None, volumes=64, **options):
    cfg = settings(folder, **options)
    shapes = load_shapes(cfg, CLASSES, Preprocessing(16, 20.0, tilt_range=(-60.0, 60.0)), CPU)
    return StreamBatches(cfg, shapes, len(CLASSES), volumes, group or Group())


@pytest.mark.parametrize("imaging", ["fixed", "random"])
def test_batches_are_normalised_and_follow_from_the_step(shared, imaging):
    batches = source(shared, online_imaging=imaging, auxiliary=2)
    volumes, labels = batches.batch(0, 3)
    assert volumes.shape == (16, 1, 16, 16, 16) and volumes.dtype == torch.float32
    assert volumes.mean(dim=(1, 2, 3, 4)).abs().max() < 1e-4
    assert volumes.std(dim=(1, 2, 3, 4), correction=0).sub(1).abs().max() < 1e-4
    assert set(labels.tolist()) <= {0, 1, 2, 3, 4}
    again = source(shared, online_imaging=imaging, auxiliary=2).batch(0, 3)
    assert torch.equal(again[0], volumes) and torch.equal(again[1], labels)
    assert not torch.equal(batches.batch(1, 3)[0], volumes)


def test_processes_draw_from_stocks_of_their_own(shared):
    parts = [source(shared, Group(rank, 2), batch_size=19).batch(0, 0)[0] for rank in range(2)]
    assert [len(part) for part in parts] == [10, 9]
    assert not torch.equal(parts[0][:9], parts[1])


def test_with_a_renewal_of_1_every_particle_is_drawn_once(shared):
    batches = source(shared, online_imaging="random", online_renewal=1.0)
    assert batches.stock.count == 2
    drawn = []
    read = batches.stock.read
    batches.stock.read = lambda draw: drawn.extend(batches.stock.numbers[row // 8] for row in draw.rows) or read(draw)
    for number in range(3):
        batches.batch(0, number)
    assert Counter(drawn) == dict.fromkeys(range(6), GROUP)


def test_drawn_from_a_stock_volumes_have_the_law_of_those_drawn_afresh(shared):
    """Mean power spectra of many volumes of the two sources agree, with noise and without.

    Under a window: where shifts move signal over the box's border its leakage differs, as the shifts' law does.
    """
    window = torch.hann_window(18)[1:-1]
    window = window[:, None, None] * window[:, None] * window
    for noise in ({"online_noise_free": 1.0}, {"online_noise_free": 0.0, "online_snr": (0.1, 0.1)}):
        options = {"batch_size": 160, "volumes": 160, "online_stock": 160, "online_defocus": (4.0, 6.0), **noise}
        stream = source(shared, **options).batch(0, 0)[0]
        cfg = settings(shared, **{k: v for k, v in options.items() if k != "volumes"})
        shapes = load_shapes(cfg, CLASSES, Preprocessing(16, 20.0, tilt_range=(-60.0, 60.0)), CPU)
        afresh = OnlineBatches(cfg, shapes, len(CLASSES), 160, Group()).batch(0, 0)[0]
        powers = [torch.fft.rfftn(v[:, 0] * window, dim=(1, 2, 3)).abs().square().mean(0) for v in (stream, afresh)]
        shell = geometry(16, Imaging(), CPU).shell.sqrt().round().long().flatten()
        sums = [torch.zeros(int(shell.max()) + 1).index_add_(0, shell, power.flatten()) for power in powers]
        assert sums[0][1:8].numpy() == pytest.approx(sums[1][1:8].numpy(), rel=0.2)


def test_junk_has_its_share_and_classes_after_the_auxiliary_ones(shared):
    batches = source(shared, online_imaging="random", online_junk=0.3, auxiliary=2, online_stock=256)
    labels = torch.cat([batches.batch(0, number)[1] for number in range(8)])
    assert (labels >= 5).float().mean() == pytest.approx(0.3, abs=0.1)
    assert labels.max() < 5 + len(JUNK) and len(set(labels[labels >= 5].tolist())) > 3


def test_a_cut_off_run_on_a_stream_ends_with_the_same_weights(shared, tmp_path):
    options = {"epochs": 3, "auxiliary": 4, "online_imaging": "random", "online_junk": 0.25}
    train.main(settings(shared, save_dir=str(tmp_path / "whole"), **options))
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), keep=9, **options))
    shutil.copy(tmp_path / "parts" / "checkpoint1.pt", tmp_path / "parts" / "last.pt")
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), resume=True, **options))
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])
    assert ImagingRanges.read(whole["config"]["imaging"]) == ImagingRanges(neighbours=0)
    assert whole["config"]["imaging"]["voxel_size"] == 20.0
    assert whole["criterion"]["head.weight"].shape[0] == 3 + 4 + len(JUNK) and whole["classes"] == CLASSES
    assert whole["junk"]["threshold"] == parts["junk"]["threshold"]
    junk = load_model(tmp_path / "whole" / "last.pt", CPU)[1]["junk"]
    assert junk.particles.shape[0] == 3 + 4 and junk.junk.shape[0] == len(JUNK)


def test_what_a_stream_cannot_be_is_refused(shared, tmp_path):
    with pytest.raises(InputError, match="--online-imaging any: expected one of fixed, random"):
        train.main(settings(shared, save_dir=str(tmp_path / "run"), online_imaging="any"))
    for option, value in (("online_renewal", 0.0), ("online_renewal", 1.5), ("online_stock", 0)):
        with pytest.raises(InputError, match="expected a renewal above 0, up to 1, and a stock of 1 or more"):
            train.main(settings(shared, save_dir=str(tmp_path / "run"), **{option: value}))
    with pytest.raises(InputError, match="of fixed imaging"):
        train.main(settings(shared, online_imaging="random", online_tilt=(50.0, 60.0)))
    cfg = settings(shared)
    shapes = load_shapes(cfg, CLASSES, Preprocessing(16, 20.0), CPU)
    series = replace(shapes, imaging=replace(shapes.imaging, tilt_step=3.0))
    with pytest.raises(InputError, match="not for a tilt series"):
        StreamBatches(cfg, series, 3, 64, Group())
