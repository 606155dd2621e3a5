"""Real tomograms: two microtubules of the tests of cylindra (BSD-3), cut by places as each program writes them.

The files are not in the repository. SOFTLMCCL_REAL is their folder; without it they are sought in ../shared/real.
"""

import gzip
import json
import os
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image, ImageSequence

from loader.columns import POSITION, SOURCE_ROW
from loader.dataset import contrast_warning
from loader.volume import central_brightness, normalise, skewness
from tests import picks
from tests.scripts import REPOSITORY, succeed

REAL = Path(os.environ.get("SOFTLMCCL_REAL", REPOSITORY.parent / "shared" / "real"))
VOXEL = 10.52  # A
SHAPES = {"cylindra_13pf_MT": (36, 206, 94), "cylindra_14pf_MT": (44, 136, 84)}  # voxels (z, y, x)
SIDE = 32  # voxels
CORNERS = {  # (z, y, x), the first voxel of each box; the last box leaves the tomogram
    "cylindra_13pf_MT": [(2, 10, 31), (2, 60, 20), (3, 110, 61), (1, 173, 1), (2, 180, 30)],
    "cylindra_14pf_MT": [(6, 1, 26), (11, 50, 51), (1, 103, 1), (6, 30, 20), (-1, 30, 20)],
}
FIRST, SECOND = SHAPES
pytestmark = pytest.mark.skipif(
    not all((REAL / f"{name}.tif").is_file() for name in SHAPES),
    reason=f"no real tomograms in {REAL} (SOFTLMCCL_REAL says where they are)",
)


def voxels(name: str) -> np.ndarray:
    """The tomogram, (z, y, x)."""
    with Image.open(REAL / f"{name}.tif") as file:
        return np.stack([np.array(page) for page in ImageSequence.Iterator(file)]).astype(np.float32)


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory) -> Path:
    """A folder with both as MRC files."""
    folder = tmp_path_factory.mktemp("real")
    for name, shape in SHAPES.items():
        assert voxels(name).shape == shape
        picks.write_tomogram(folder / f"{name}.mrc", voxels(name), VOXEL)
    return folder


def places(name: str) -> np.ndarray:
    """The centres of the boxes, (n, 3) = (x, y, z) in A."""
    return (np.array(CORNERS[name])[:, ::-1] + (SIDE - 1) / 2) * VOXEL


@pytest.fixture
def of_first(monkeypatch) -> None:
    """What programs write is of the first tomogram."""
    monkeypatch.setattr(picks, "VOXEL", VOXEL)
    monkeypatch.setattr(picks, "SHAPE", SHAPES[FIRST])
    monkeypatch.setattr(picks, "PLACES", {FIRST: places(FIRST)})
    monkeypatch.setattr(picks, "ROWS", [(FIRST, place) for place in places(FIRST)])
    centre = np.array(SHAPES[FIRST][::-1]) / 2 * VOXEL
    monkeypatch.setattr(picks, "CORNER_TO_CENTRE", centre)
    monkeypatch.setattr(picks.relion5, "__defaults__", (centre,))


def check_boxes(name: str, out: Path) -> None:
    """The boxes are slices of the tomogram, less the Nyquist frequency, and not those a voxel aside."""
    table = pd.read_csv(out / "particles.csv")
    assert list(table[SOURCE_ROW]) == [1, 2, 3, 4]
    np.testing.assert_allclose(table[[*POSITION]], places(name)[:4, ::-1], atol=0.01)
    tomogram, boxes = voxels(name), mrcfile.read(out / f"{name}.mrcs")
    assert boxes.shape == (4, SIDE, SIDE, SIDE)
    for box, (z, y, x) in zip(boxes, CORNERS[name], strict=False):
        alike = [
            np.corrcoef(box.ravel().astype(float), tomogram[z : z + SIDE, y + n : y + n + SIDE, x : x + SIDE].ravel())
            for n in (-1, 0, 1)
        ]
        before, here, behind = (pair[0, 1] for pair in alike)
        assert here > 0.98 and max(before, behind) < 0.9


@pytest.mark.usefixtures("of_first", "empty_pictures")
@pytest.mark.parametrize("write", picks.WRITERS, ids=lambda write: write.__name__)
def test_every_programs_places_cut_the_same_voxels_of_a_real_tomogram(write, tomograms, tmp_path):
    options = ("--coordinates", *write(tmp_path), "--tomograms", tomograms / f"{FIRST}.mrc", "--out", tmp_path / "cut")
    said = succeed("extract.py", *options, "--dry-run", cwd=tmp_path)
    assert f"--flavour {picks.WRITERS[write]}" in said and "5 particles: 4 taken, 1 at the edge, 0 outside" in said
    assert f"{FIRST}: 36 x 206 x 94 voxels (z, y, x) of 10.52 A" in said and not (tmp_path / "cut").exists()
    succeed("extract.py", *options, cwd=tmp_path)
    check_boxes(FIRST, tmp_path / "cut")


def write_zarr(path: Path, tomogram: np.ndarray) -> Path:
    """OME-Zarr 0.4, in nanometres, with a coarser level."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    levels = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [VOXEL / 10 * 2**n] * 3}]}
        for n in (0, 1)
    ]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    for n in (0, 1):
        group.create_array(str(n), data=tomogram[:: 2**n, :: 2**n, :: 2**n], chunks=(32, 64, 64))
    return path


@pytest.mark.usefixtures("empty_pictures")
@pytest.mark.parametrize("kind", ["mrc", "mrc.gz", "zarr"])
def test_every_kind_of_tomogram_gives_the_same_voxels(kind, tomograms, tmp_path):
    path = tmp_path / f"{SECOND}.{kind}"
    if kind == "zarr":
        write_zarr(path, voxels(SECOND))
    elif kind == "mrc.gz":
        path.write_bytes(gzip.compress((tomograms / f"{SECOND}.mrc").read_bytes(), 1))
    else:
        path = tomograms / f"{SECOND}.mrc"
    picks.csv_picks(tmp_path / "a.csv", places(SECOND) / VOXEL, SECOND)
    options = ("--coordinates", tmp_path / "a.csv", "--tomograms", path, "--out", tmp_path / "cut")
    said = succeed("extract.py", *options, "--dry-run", cwd=tmp_path)
    assert f"{SECOND}: 44 x 136 x 84 voxels (z, y, x) of 10.52 A" in said
    assert "5 particles: 4 taken, 1 at the edge, 0 outside" in said
    succeed("extract.py", *options, cwd=tmp_path)
    check_boxes(SECOND, tmp_path / "cut")


@pytest.mark.parametrize("name", SHAPES)
def test_microtubules_whose_middle_is_dark_are_taken_as_bright_as_they_are(name):
    tomogram = voxels(name)
    first = (len(tomogram) - SIDE) // 2
    corners = [(y, x) for y in range(0, tomogram.shape[1] - SIDE + 1, 16) for x in range(0, SIDE, 16)]
    boxes = [normalise(tomogram[first : first + SIDE, y : y + SIDE, x : x + SIDE], name) for y, x in corners]
    found = np.array([skewness(box) for box in boxes])
    assert not contrast_warning(found, "bright") and "look dark" in contrast_warning(-found, "bright")
    assert np.median(found) > 2 and np.median([central_brightness(box) for box in boxes]) < 0


@pytest.mark.usefixtures("of_first")
def test_the_shipped_network_names_boxes_of_a_real_tomogram_and_gives_the_star_back(tomograms, tmp_path):
    (star,) = picks.relion5(tmp_path)
    options = ("--coordinates", star, "--tomograms", tomograms / f"{FIRST}.mrc", "--out", tmp_path / "cut")
    succeed("extract.py", *options, cwd=tmp_path)
    network = REPOSITORY / "pretrained" / "universal.pt"
    options = ("--results-dir", tmp_path / "results", "--device", "cpu")
    said = succeed("predict.py", network, tmp_path / "cut" / "particles.csv", *options, cwd=tmp_path)
    assert "10.52 A resampled to 10 A" in said
    (out,) = (tmp_path / "results").glob("*/predict")
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == 4 and np.isfinite(table[["Score", "Nearest Cosine"]].to_numpy()).all()
    assert (table["Nearest Cosine"].abs() <= 1).all() and table["Input Data"].str.contains("@").all()
    text = (out / "predictions.star").read_text()
    kept = [line for line in star.read_text().splitlines() if line.startswith(FIRST)]
    assert len(kept) == 5 and all(" ".join(line.split()) in " ".join(text.split()) for line in kept)
    assert json.loads((out / "predictions.json").read_text())["volumes"] == 4
    assert (out / "report.html").stat().st_size > 10_000
