"""What extract.py says of the boxes that it cut: where their mean is centred, of which contrast, and which are odd."""

import mrcfile
import numpy as np
import pytest
from matplotlib.figure import Figure

import extract
from loader.check_sheet import centre_of, check_sheet, glimpse, verdict
from loader.volume import normalise
from tests.picks import VOXEL, blobs, config, csv_picks, write_tomogram

SIDE = 32
PLACES = np.array([(x, y, 12.0) for x in (9.0, 24.0, 39.0) for y in (9.0, 20.0, 31.0)])  # voxels (x, y, z)


def particle(offset, side=SIDE, kind="solid"):
    """A solid or hollow ball that is off the middle by (z, y, x) voxels."""
    z, y, x = (np.arange(side) - (side - 1) / 2 - off for off in offset)
    radius = np.sqrt((z**2)[:, None, None] + (y**2)[:, None] + x**2) / side
    return np.exp(-((radius / 0.15) ** 2)) if kind == "solid" else np.exp(-(((radius - 0.25) / 0.05) ** 2))


def looked_at(folder, name, offset=(0, 0, 0), height=0.6, count=20):
    """A glimpse of noisy boxes of one tomogram."""
    rng = np.random.default_rng(len(name) + sum(map(ord, name)))
    boxes = [normalise(height * particle(offset) + rng.normal(size=(SIDE,) * 3), name) for _ in range(count)]
    with mrcfile.new(folder / f"{name}.mrcs") as mrc:
        mrc.set_data(np.stack(boxes))
    return glimpse(name, folder / f"{name}.mrcs")


@pytest.mark.parametrize("kind", ["solid", "hollow"])
@pytest.mark.parametrize(("side", "sign"), [(12, 1), (33, -1), (70, 1)])
def test_the_centre_of_a_mean_is_found_to_a_fraction_of_a_voxel(kind, side, sign):
    for offset in ((0, 0, 0), (0.3, -0.7, 0.1), (0.1 * side, -0.05 * side, 0)):
        noise = np.random.default_rng(0).normal(scale=0.02, size=(side,) * 3)
        found = centre_of(5 + sign * particle(offset, side, kind) + noise)
        np.testing.assert_allclose(found, offset, atol=0.01 * side)


@pytest.mark.parametrize(
    ("offset", "height", "reason"),
    [((0, 0, -3.5), 0.6, "centre at "), ((0, 0, 0), 0.0, "% of the others"), ((0, 0, 0), -0.6, "% of the others")],
)
def test_the_one_wrong_tomogram_of_several_is_named(offset, height, reason, tmp_path):
    seen = [looked_at(tmp_path, f"TS_{number:02d}") for number in range(5)]
    right = verdict(seen)
    assert not right.odd and not right.is_doubtful and right.contrast == "bright"
    seen[3] = looked_at(tmp_path, "wrong", offset, height)
    found = verdict(seen)
    assert list(found.odd) == ["wrong"] and reason in found.odd["wrong"]
    assert found.text.startswith("the mean of 100 boxes: ")
    assert not found.is_doubtful, "the mean of all does not show it"


@pytest.mark.parametrize("sign", [1, -1])
def test_the_contrast_of_hollow_particles_is_not_that_of_their_middle(sign, tmp_path):
    radius = np.sqrt(sum(np.square(part) for part in np.ogrid[-15.5:16:1, -15.5:16:1, -15.5:16:1]))
    shell = sign * (np.exp(-((radius - 10) ** 2) / 4) - 0.8 * np.exp(-(radius**2) / 18))
    rng = np.random.default_rng(0)
    with mrcfile.new(tmp_path / "shells.mrcs") as mrc:
        mrc.set_data(np.stack([normalise(shell + rng.normal(size=shell.shape), "shell") for _ in range(50)]))
    found = verdict([glimpse("shells", tmp_path / "shells.mrcs")])
    middle, contrast = ("dark", "bright") if sign > 0 else ("bright", "dark")
    assert f"standard errors {middle}er than the box" in found.text and f"what stands out is {contrast}" in found.text
    assert found.is_doubtful
    assert f"if the particles are hollow, they are {contrast}, --contrast {contrast};" in found.text


def test_noise_alone_and_few_boxes_name_no_tomogram(tmp_path):
    noise = [looked_at(tmp_path, f"noise{number}", height=0.0, count=4 + number) for number in range(6)]
    found = verdict(noise)
    assert not found.odd and found.is_doubtful and "wrong places, or few and noisy particles?" in found.text
    assert "(not clear) voxels (z, y, x) from there" in found.text
    one = verdict([looked_at(tmp_path, "one", count=1)])
    assert one.text.startswith("the mean of 1 box: ") and not one.odd


def test_a_mean_that_is_off_by_more_than_two_voxels_of_32_is_doubted_and_one_that_is_off_by_less_is_not(tmp_path):
    far, near = (verdict([looked_at(tmp_path, name, (off, 0, 0))]) for name, off in (("far", 2.6), ("near", -1.4)))
    assert far.is_doubtful and "centre at +2." in far.text and "; not centred: look at check.png" in far.text
    assert not near.is_doubtful and "centre at -1." in near.text and "; centred; the particles are bright" in near.text


def test_the_picture_shows_odd_tomograms_first(tmp_path, monkeypatch):
    seen = [looked_at(tmp_path, f"TS_{number:02d}", count=6) for number in range(10)]
    seen[9] = looked_at(tmp_path, "off", (0, 5, 0))
    labels = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: labels.append(figure))
    monkeypatch.setattr("loader.check_sheet.atomic_path", lambda path: open(tmp_path / "a", "w"))  # noqa: SIM115
    check_sheet(tmp_path / "check.png", seen, "32 voxels", list(verdict(seen).odd))
    rows = [axis.get_ylabel().split("\n")[0] for axis in labels[0].axes if axis.get_ylabel()]
    assert rows == ["! off", *(f"TS_{number:02d}" for number in range(7))]


def test_extract_names_the_tomogram_whose_places_are_wrong(tmp_path, capsys):
    rng, files, wrong = np.random.default_rng(0), [], np.array([1.8, 0, 0])
    for name in ("TS_01", "TS_02", "TS_03"):
        volume = 3 - blobs(PLACES * VOXEL) + rng.normal(scale=0.1, size=(24, 40, 48))
        write_tomogram(tmp_path / f"{name}.mrc", volume.astype(np.float32))
        files += csv_picks(tmp_path / f"{name}.csv", PLACES + wrong * (name == "TS_02"), name)
    tomograms = tuple(str(tmp_path / f"TS_0{number}.mrc") for number in (1, 2, 3))
    extract.main(config(tmp_path, tmp_path / "out", coordinates=tuple(files), tomograms=tomograms))
    said = capsys.readouterr()
    assert "1 of 3 tomograms look wrong: TS_02 (centre at " in said.err and ", -1.8 +- " in said.err
    assert "centred; the particles are dark" in said.out
    assert said.out.splitlines()[-1].endswith("particles.csv --contrast dark")
