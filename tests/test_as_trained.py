"""Volumes under a checkpoint's imaging or a declared one, and shapes of a structure's size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.cli import InputError
from loader.prepare import Preprocessing
from physics.grid import Grid
from simulation import cohort
from simulation.as_trained import AsTrained, Declared, junk_volumes
from simulation.cohort import Pool, protein_volume
from simulation.conditions import ImagingRanges, outside_training
from simulation.junk import JUNK
from simulation.procedural import RESIDUE_VOLUME
from simulation.structures import procedural_complex

PREPROCESSING = Preprocessing(16, 20.0, tilt_range=(-60.0, 60.0))
RECORD = {
    "imaging": ImagingRanges(neighbours=0, shift=1.0).content() | {"voxel_size": 20.0, "voltage": 200.0, "cs": 2.7}
}


def conditions(imaging: AsTrained, n: int = 40) -> list:
    generator = torch.Generator().manual_seed(0)
    return [imaging.draw(generator).imaging for _ in range(n)]


def test_imaging_is_the_checkpoints_record():
    imaging = AsTrained.read(RECORD, PREPROCESSING, Declared())
    drawn = conditions(imaging)
    assert {(one.voltage, one.cs, one.neighbours, one.shift) for one in drawn} == {(200.0, 2.7, 0, 1.0)}
    assert min(one.tilt_max for one in drawn) < 50 and max(one.tilt_max for one in drawn) > 60
    assert imaging.grid == Grid(16, 20.0, 20.0) and "as the checkpoint was trained" in imaging.text()


def test_what_the_user_declares_takes_the_records_place():
    declared = Declared((-50.0, 62.0), (3.0, 3.5), 25.0)
    drawn = conditions(AsTrained.read(RECORD, PREPROCESSING, declared))
    assert {(one.tilt_min, one.tilt_max) for one in drawn} == {(-50.0, 62.0)}
    assert all(3 <= one.defocus[0] <= 3.5 for one in drawn)
    assert {one.band_limit for one in drawn} == {20 / 25}  # coarser data are resampled: their detail ends there
    finer = conditions(AsTrained.read(RECORD, PREPROCESSING, Declared(voxel_size=10.0)))
    assert max(one.band_limit for one in finer) == 1


def test_the_words_tell_what_is_declared_from_what_is_as_in_training_and_the_voxel_size():
    def said(*declared: object, config: dict = RECORD) -> str:
        return AsTrained.read(config, PREPROCESSING, Declared(*declared)).text()

    rest = "up to 0 neighbours, and all else; SNR 0.05 to 1 and none; voxels of 20 A"
    trained = "tilts to 40 to 68 degrees", "defocus 2 to 8 um"
    assert said() == f"imaging as the checkpoint was trained: {', '.join(trained)}, {rest}"
    assert said((-50.0, 50.0), (3.0, 4.0), 25.0) == (
        f"imaging as declared: tilts of -50 to 50 degrees, defocus 3 to 4 um; as the checkpoint was trained: {rest}, "
        "to which data of 25 A are brought, so without finer detail than these hold"
    )
    assert said(None, (3.0, 4.0), 12.0) == (
        f"imaging as declared: defocus 3 to 4 um; as the checkpoint was trained: {trained[0]}, {rest}, "
        "to which data of 12 A are brought"
    )
    assert said((-50.0, 50.0), None, 20.0) == (
        f"imaging as declared: tilts of -50 to 50 degrees; as the checkpoint was trained: {trained[1]}, {rest}"
    )
    unknown = "of any kind, as the checkpoint does not say which: "
    assert f"imaging {unknown}tilts of -60 to 60 degrees (those of its training files), " in said(config={})
    assert f"imaging as declared: tilts of -50 to 50 degrees; {unknown}defocus" in said((-50.0, 50.0), config={})


def test_without_a_record_imaging_is_any_under_the_tilt_range_of_the_volumes():
    imaging = AsTrained.read({}, PREPROCESSING, Declared())
    assert {(one.tilt_min, one.tilt_max) for one in conditions(imaging)} == {(-60.0, 60.0)}
    assert "does not say which" in imaging.text()


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(InputError, match="voxel size of the checkpoint's volumes is unknown; give --voxel-size"):
        AsTrained.read(RECORD, replace(PREPROCESSING, voxel_size=None), Declared())
    assert (
        AsTrained.read(RECORD, replace(PREPROCESSING, voxel_size=None), Declared(voxel_size=12.0)).grid.voxel_size == 12
    )
    with pytest.raises(InputError, match="tilt_min, tilt_max"):
        AsTrained.read(RECORD, PREPROCESSING, Declared(tilt_range=(-95.0, 60.0)))


def test_volumes_are_normalised_of_every_label_and_the_same_again():
    imaging = AsTrained.read(RECORD, PREPROCESSING, Declared())
    grid = imaging.grid
    simulator = imaging.simulator(torch.from_numpy(np.stack([procedural_complex(k, 9, grid) for k in (0, 1)])))
    labels = torch.tensor([0] * 10 + [1] * 3 + [2 + kind for kind in range(len(JUNK))])  # and junk
    found = [torch.cat(parts) for parts in zip(*imaging.volumes(simulator, labels, 5), strict=True)]
    volumes, drawn = found
    assert volumes.shape == (24, 1, 16, 16, 16)  # filled up to whole pieces
    counts = torch.bincount(drawn, minlength=2 + len(JUNK))
    assert (counts >= torch.bincount(labels)).all() and counts.sum() == 24
    assert volumes.mean((1, 2, 3, 4)).abs().max() < 1e-4 and volumes.std((1, 2, 3, 4)).sub(1).abs().max() < 1e-3
    again = torch.cat([part for part, _ in imaging.volumes(simulator, labels, 5)])
    assert torch.equal(again, volumes)
    other = torch.cat([part for part, _ in imaging.volumes(simulator, labels, 6)])
    assert not torch.equal(other, volumes)


def test_junk_is_of_all_kinds_under_the_checkpoints_imaging():
    volumes, kinds = junk_volumes(RECORD, PREPROCESSING, 14, 3, torch.device("cpu"))
    assert volumes.shape == (16, 1, 16, 16, 16) and volumes.isfinite().all() and volumes.dtype == torch.float16
    assert {*kinds} == {*JUNK} and len(kinds) == 16
    assert torch.equal(junk_volumes(RECORD, PREPROCESSING, 14, 3, torch.device("cpu"))[0], volumes)


def test_a_cohort_has_the_size_asked_for_and_other_shapes(monkeypatch):
    monkeypatch.setattr(cohort, "POOL", 8)
    pool = Pool(Grid(16, 20.0, 20.0))
    sizes = [len(residues) * RESIDUE_VOLUME for residues in pool.residues]
    assert sizes == sorted(sizes)
    volume = 1.3 * sizes[4]
    shapes = pool.of_size(volume, 3)
    assert shapes.shape == (3, 16, 16, 16)
    for shape in shapes:
        assert protein_volume(shape, 20.0) == pytest.approx(volume, rel=0.02)
        assert 0.5 < float(shape.max()) < 1.6  # as dense as protein is, whatever the scale
    rows = shapes.flatten(1) - shapes.flatten(1).mean(dim=1, keepdim=True)
    assert torch.nn.functional.cosine_similarity(rows[:1], rows[1:]).max() < 0.98
    assert torch.equal(Pool(Grid(16, 20.0, 20.0)).of_size(volume, 3), shapes)
    assert len(pool.of_size(200 * sizes[-1], 3)) == 0  # nothing of that size fits the box
    assert len(pool.of_all_sizes(4)) == 4


def test_data_outside_of_the_training_imaging_are_said():
    assert outside_training(RECORD, 20.0, [(-60.0, 60.0)]) == ""
    assert outside_training({}, 99.0, [(-20.0, 20.0)]) == ""  # nothing is known
    text = outside_training(RECORD, 60.0, [(-60.0, 60.0), (-30.0, 30.0)])
    assert "voxels of 60 A" in text and "tilts of -30 to 30 degrees" in text and "may not hold" in text
