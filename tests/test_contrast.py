"""The benchmark of contrast: particles of both signs, counted, and what the table says."""

import json

import numpy as np
import torch

from benchmarks import contrast
from physics.grid import Grid


def test_a_shell_is_dense_between_its_radii_alone_and_a_tube_along_its_length():
    shell, tube = (contrast.hollow(Grid(32, 10.0, 20.0), length)[3] for length in (None, 260))  # radius 80, wall 25 A
    along = shell[15, 15]  # half a voxel beside the middle
    distance = np.sqrt(((np.arange(32) - 15.5) * 10) ** 2 + 2 * 5**2)
    assert along[(distance > 62) & (distance < 73)].min() > 0.8
    assert along[(distance < 40) | (distance > 100)].max() < 0.05
    torch.testing.assert_close(tube[15, 15], along, atol=0.05, rtol=0)
    assert tube[4, 15, 8:10].max() > 0.8 and shell[4].max() < 0.05 and tube[1].max() < 0.05


def test_bright_sets_are_warned_of_where_they_are_inverted(tmp_path, monkeypatch):
    monkeypatch.setattr(contrast, "KINDS", {name: contrast.KINDS[name] for name in list(contrast.KINDS)[:2]})
    contrast.main(
        contrast.Config(sets=2, volumes=8, complexes=3, snr=(0.5,), results=str(tmp_path / "c"), device="cpu")
    )
    found = json.loads((tmp_path / "c.json").read_text())
    assert [row["warned_inverted"] for row in found["rows"]] == [2, 2]
    assert [row["warned_right"] for row in found["rows"]] == [0, 0]
    assert [row["warned_inverted_centre"] for row in found["rows"]] == [2, 2]
    assert (tmp_path / "c.md").read_text().count("| 2 of 2 | 0 of 2 | 100.0% |") == 2


def test_a_set_follows_from_its_seed_and_has_at_most_so_many_classes(monkeypatch):
    cfg, drawn = contrast.Config(volumes=6, batch=4), []

    class Recording:
        device, fine = torch.device("cpu"), range(5)

        def __call__(self, labels, snr, generator):
            drawn.append(labels)
            return type("Made", (), {"volumes": torch.randn(len(labels), 1, 8, 8, 8, generator=generator)})

    (first, centres), (again, _), (other, _) = (
        contrast.measured(cfg, Recording(), 0.1, 2, (9, number)) for number in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and len(first) == len(centres) == 6
    assert [len(part) for part in drawn] == [4, 2] * 3
    assert all(len(torch.cat(drawn[start : start + 2]).unique()) <= 2 for start in (0, 2, 4))
