"""Training on volumes that are simulated as they are needed, with and without auxiliary classes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import train
from common.cli import InputError
from common.group import Group
from loader.prepare import Preprocessing
from model import load_checkpoint
from physics.grid import Grid
from simulation.auxiliary import FIRST_AUXILIARY, auxiliary_densities, fitting
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_complex
from tests.scripts import refuse, same, small, succeed
from training.online import OnlineBatches, draw_labels, load_shapes

CPU = torch.device("cpu")
CLASSES = ["complex00", "complex01", "complex02"]


def settings(folder, **options):
    places = {"data_dir": str(folder / "data_"), "simulate_online": True, "batch_size": 12}
    return small(folder, **{**places, **options})


def source(folder, group=None, volumes=36, **options):
    cfg = settings(folder, **options)
    preprocessing = Preprocessing(16, 20.0, tilt_range=(-60.0, 60.0))
    return OnlineBatches(cfg, load_shapes(cfg, CLASSES, preprocessing, CPU), len(CLASSES), volumes, group or Group())


def test_batches_are_normalised_volumes_of_known_classes_and_follow_from_epoch_and_number(shared):
    batches = source(shared)
    assert (batches.count, batches.volumes) == (3, 36)
    volumes, labels = batches.batch(2, 1)
    assert volumes.shape == (12, 1, 16, 16, 16)
    assert volumes.mean(dim=(1, 2, 3, 4)).abs().max() < 1e-4
    assert volumes.std(dim=(1, 2, 3, 4), correction=0).sub(1).abs().max() < 1e-4
    assert set(labels.tolist()) <= {0, 1, 2}
    assert torch.equal(source(shared).batch(2, 1)[0], volumes)
    assert not torch.equal(batches.batch(2, 2)[0], volumes)
    assert not torch.equal(batches.batch(3, 1)[0], volumes)


def test_processes_draw_different_volumes_that_make_up_the_batch(shared):
    parts = [source(shared, Group(rank, 2), batch_size=13).batch(0, 0)[0] for rank in range(2)]
    assert [len(part) for part in parts] == [7, 6]
    assert not torch.equal(parts[0][:6], parts[1])


def test_noise_free_volumes_have_the_stated_share_and_the_snr_is_in_its_range(shared):
    """Of one class at one pose count, noise-free volumes are smooth: their highest frequencies are empty."""
    clean = source(shared, online_noise_free=1.0).batch(0, 0)[0]
    noisy = source(shared, online_noise_free=0.0, online_snr=(0.02, 0.02)).batch(0, 0)[0]
    mild = source(shared, online_noise_free=0.0, online_snr=(1.0, 1.0)).batch(0, 0)[0]

    def neighbours_correlation(volumes):
        return float((volumes[..., :-1] * volumes[..., 1:]).mean())

    levels = [neighbours_correlation(volumes) for volumes in (noisy, mild, clean)]
    assert levels == sorted(levels)
    some = source(shared, online_noise_free=0.5, online_snr=(1e-6, 1e-6), batch_size=200, volumes=200)
    smooth = [neighbours_correlation(volume[None]) > 0.5 for volume in some.batch(0, 0)[0]]
    assert np.mean(smooth) == pytest.approx(0.5, abs=0.15)


def test_each_batch_has_a_tilt_range_of_its_own(shared):
    batches = source(shared, online_tilt=(30.0, 70.0), online_noise_free=1.0)
    tilts = []
    under = batches.simulator.under
    batches.simulator.under = lambda imaging: tilts.append((imaging.tilt_min, imaging.tilt_max)) or under(imaging)
    for number in range(12):
        batches.batch(0, number)
    assert len(set(tilts)) > 4
    assert all(low == -high and 30 <= high <= 70 for low, high in tilts)


def test_neighbours_fill_the_surroundings(shared):
    alone, crowded = (
        source(shared, online_neighbours=count, online_noise_free=1.0, online_defocus=(4.0, 6.0)).batch(0, 0)[0]
        for count in (0, 3)
    )
    shell = torch.ones(16, 16, 16, dtype=torch.bool)
    shell[3:13, 3:13, 3:13] = False
    assert crowded[:, 0, shell].var() > 1.5 * alone[:, 0, shell].var()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7])
def test_the_share_of_auxiliary_labels_is_the_stated_one(share):
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([draw_labels(10, 3, 5, share, generator) for _ in range(400)])
    assert (labels >= 3).float().mean() == pytest.approx(share, abs=0.02)
    assert set(labels[labels < 3].tolist()) == {0, 1, 2}
    assert set(labels[labels >= 3].tolist()) == (set(range(3, 8)) if share else set())


def test_without_auxiliary_classes_all_labels_are_known():
    assert draw_labels(50, 3, 0, 0.7, torch.Generator().manual_seed(0)).max() == 2


def test_auxiliary_densities_are_kept_and_a_longer_list_begins_with_a_shorter_one(tmp_path):
    grid = Grid(16, 20.0, 20.0, margin=2.0)
    few = auxiliary_densities(2, grid, 9, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "auxiliary1_16_20A_20A_2_seed9.npz"  # files of before are read
    more = auxiliary_densities(3, grid, 9, tmp_path)
    assert torch.equal(more[:2], few)
    expected = procedural_complex(FIRST_AUXILIARY + 2, 9, grid)
    np.testing.assert_allclose(more[2].numpy(), expected, atol=2e-3)
    again = path.stat().st_mtime_ns
    assert torch.equal(auxiliary_densities(2, grid, 9, tmp_path), few)
    assert path.stat().st_mtime_ns == again
    path.write_bytes(b"not an array")
    with pytest.raises(InputError, match="not readable"):
        auxiliary_densities(2, grid, 9, tmp_path)


def test_complexes_that_do_not_fit_the_box_are_left_out():
    """None of the first six is too large for a box of 16 voxels of 20 A; for voxels of 12 A some are."""
    assert fitting(6, FIRST_AUXILIARY, Grid(16, 20.0, 20.0), 9)[1] == FIRST_AUXILIARY + 6
    tight, after = fitting(6, FIRST_AUXILIARY, Grid(16, 12.0, 20.0), 9)
    assert len(tight) == 6 and after > FIRST_AUXILIARY + 6
    with pytest.raises(InputError, match="hardly a procedural complex fits"):
        fitting(2, FIRST_AUXILIARY, Grid(8, 5.0, 20.0), 9)


def test_online_imaging_is_that_of_the_files(shared, tmp_path):
    """Also where shifts take the ends of complexes out of the box, and where all classes have one noise level."""
    options = ("--procedural", "3", "--per-class", "2", "--snr", "0.5", "--box", "16", "--voxel-size", "20")
    hard = ("--shift", "5", "--crop", "--common-noise", "--defocus", "3", "4", "--tilt-max", "50", "--data-dir", "hard")
    succeed("simulate.py", *options, *hard, cwd=tmp_path)
    cfg = settings(shared, data_dir=str(tmp_path / "hard"), auxiliary=2)
    preprocessing = Preprocessing(16, 20.0)
    batches = OnlineBatches(cfg, load_shapes(cfg, CLASSES[:2], preprocessing, CPU), 2, 24, Group())
    record = json.loads((tmp_path / "hard" / "simulation.json").read_text())
    for name in ("shift", "tilt_min", "tilt_max", "common_noise", "voltage", "band_limit"):
        assert getattr(batches.imaging, name) == record[name]
    densities = load_densities(tuple(CLASSES), "", Grid(16, 20.0, 20.0), 9)  # all three classes of the files
    assert batches.simulator.common_variance == Simulator(densities, batches.imaging).common_variance
    assert batches.batch(0, 0)[0].shape == (12, 1, 16, 16, 16)


def test_auxiliary_classes_train_with_weights_of_their_own_and_are_no_classes_of_the_checkpoint(shared, tmp_path):
    train.main(settings(shared, save_dir=str(tmp_path / "run"), epochs=2, auxiliary=4))
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert saved["classes"] == CLASSES
    assert saved["criterion"]["head.weight"].shape == (7, 16)
    assert saved["calibration"]["prototypes"].shape == (3, 16)
    path = str(tmp_path / "run" / "checkpoint.pt")
    options = ("--csv-dir", str(shared / "csv_split"), "--no-umap", "--bootstrap", "5")
    assert "valid_unseen" in succeed("open_set.py", path, *options, cwd=tmp_path)


def test_a_cut_off_online_run_ends_with_the_same_weights(shared, tmp_path):
    options = {"epochs": 3, "auxiliary": 4, "online_tilt": (50.0, 60.0)}
    train.main(settings(shared, save_dir=str(tmp_path / "whole"), **options))
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), keep=9, **options))
    shutil.copy(tmp_path / "parts" / "checkpoint1.pt", tmp_path / "parts" / "last.pt")
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), resume=True, **options))
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"])


def test_an_online_run_keeps_its_number_of_processes(shared, tmp_path):
    options = {"save_dir": str(tmp_path / "run"), "epochs": 1}
    train.main(settings(shared, **options))
    path = tmp_path / "run" / "last.pt"
    saved = load_checkpoint(path)
    assert saved["progress"].pop("processes") == 1
    torch.save(saved, path)
    train.main(settings(shared, resume=True, **options))  # a run of before the number was kept
    torch.save({**saved, "progress": {**saved["progress"], "processes": 2}}, path)
    with pytest.raises(InputError, match=r"last\.pt: processes was 2, is 1; give the same"):
        train.main(settings(shared, resume=True, **options))


def test_every_process_needs_two_volumes_of_a_batch(shared):
    with pytest.raises(InputError, match="--batch-size 7: expected 2 or more for each of 4 processes"):
        source(shared, Group(0, 4), batch_size=7)


def test_what_does_not_belong_together_is_refused(shared, tmp_path):
    run = ("train.py", "--simulate-online", "--csv-dir", str(shared / "csv_split"), "--width", "4")
    assert "simulation.json: no such file" in refuse(*run, "--data-dir", str(tmp_path), cwd=tmp_path)
    record = json.loads((shared / "data_" / "simulation.json").read_text())
    cases = [
        ({"classes": ["complex00"]}, "made without the classes complex01, complex02"),
        ({"box": 24}, "a box of 24 voxels; train.csv has volumes of 16"),
        ({"voxel_size": 10.0}, "voxels of 10 A; train.csv has 20 A"),
        ({"independent": True}, "made by the independent imaging, which is for evaluation alone"),
        ({"files": {"complex00": "0"}}, "say with --structures where they are"),
    ]
    for change, message in cases:
        (tmp_path / "simulation.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(InputError, match=message):
            train.main(settings(shared, data_dir=str(tmp_path), save_dir=str(tmp_path / "run")))
    with pytest.raises(InputError, match="was made from procedural complexes"):
        train.main(replace(settings(shared, save_dir=str(tmp_path / "run")), structures="anywhere"))
    assert not (tmp_path / "run").exists()
