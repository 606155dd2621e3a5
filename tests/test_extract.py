"""extract.py from files to files: stacks, particles.csv, what is counted, refused, taken up again and said."""

import json
import os
import tracemalloc

import mrcfile
import numpy as np
import pandas as pd
import pytest

import csv_split
import extract
from common.cli import InputError
from loader.boxes import Box, cut_box
from loader.columns import INPUT, LABEL, PARTICLE, SOURCE_ROW, VOXEL_SIZE
from loader.star import read_star
from loader.volume import read_volume
from physics.resample import resample_about
from prediction.inputs import find_inputs
from tests import picks
from tests.picks import PLACES, SHAPE, SIDE, VOXEL, blobs, config, csv_picks, middle_of_mass, write_tomogram
from tests.scripts import refuse


def first(lab):
    """The first tomogram alone."""
    return (str(lab / "tomograms" / "TS_01.mrc"),)


@pytest.fixture(scope="module")
def extracted(lab, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "extracted"
    extract.main(config(lab, out))
    return out


def test_stacks_and_table_hold_every_particle_with_its_source(extracted, lab):
    table = pd.read_csv(extracted / "particles.csv", dtype=str, keep_default_na=False)
    assert list(table[INPUT]) == ["1@TS_01.mrcs", "2@TS_01.mrcs", "3@TS_01.mrcs", "1@TS_02.mrcs", "2@TS_02.mrcs"]
    assert list(table[PARTICLE]) == ["TS_01/1", "TS_01/2", "TS_01/3", "TS_02/1", "TS_02/2"]
    assert list(table[SOURCE_ROW]) == ["1", "2", "3", "4", "5"]
    assert list(table[LABEL]) == ["class001", "class002", "class001", "class002", "class001"]
    assert set(table[VOXEL_SIZE]) == {"10"}
    source = picks.relion31(lab)
    kept = read_star(source[0])["particles"]
    pd.testing.assert_frame_equal(table[list(kept.columns)], kept)
    found = table[["Position X", "Position Y", "Position Z"]].astype(float).to_numpy()
    np.testing.assert_allclose(found, np.concatenate(list(PLACES.values())), atol=0.01)
    for address in table[INPUT]:
        volume, voxel = read_volume(f"{address.partition('@')[0]}@{extracted / address.partition('@')[2]}")
        assert voxel == VOXEL and volume.shape == (SIDE,) * 3
        assert abs(volume.mean()) < 1e-6 and abs(volume.std() - 1) < 1e-5
        assert np.abs(middle_of_mass(volume)).max() < 0.05


def test_a_stack_is_a_volume_stack_whose_header_is_right(extracted):
    assert mrcfile.validate(extracted / "TS_01.mrcs")
    with mrcfile.open(extracted / "TS_01.mrcs") as mrc:
        assert mrc.is_volume_stack() and mrc.data.shape == (3, SIDE, SIDE, SIDE)
        assert mrc.header.dmin == mrc.data.min() and mrc.header.dmax == mrc.data.max()
        assert mrc.header.rms == pytest.approx(mrc.data.std(), rel=1e-4)


def test_the_folder_is_a_data_folder_of_csv_split_and_an_input_of_predict(lab, tmp_path):
    rows = [f"TS_0{1 + n % 2},{20 + n % 3},{16 + n},{11.5},{'ab'[n // 6]}" for n in range(12)]
    (tmp_path / "a.csv").write_text("\n".join(["Tomogram,x,y,z,Actual Label", *rows]))
    out = tmp_path / "extracted"
    extract.main(config(lab, out, coordinates=(str(tmp_path / "a.csv"),), tilt_range=(-60.0, 60.0)))
    given = find_inputs([str(out / "particles.csv")])
    assert len(given) == 12 and {found.voxel_size for found in given} == {VOXEL}
    csv_split.main(csv_split.Config(data_dir=str(out), csv_dir=str(tmp_path / "csv_split")))
    parts = [pd.read_csv(tmp_path / "csv_split" / f"{part}.csv", dtype=str) for part in ("train", "valid", "test")]
    assert sorted(name for part in parts for name in part[PARTICLE]) == sorted(
        f"TS_0{tomogram}/{number}" for tomogram in (1, 2) for number in range(1, 7)
    )
    assert {"x", "Position X", SOURCE_ROW, "Tilt Min"} <= set(parts[0])
    for given in find_inputs([str(tmp_path / "csv_split" / "train.csv")]):
        assert read_volume(given.address)[0].shape == (SIDE,) * 3


def test_a_file_given_by_the_name_of_a_class_gives_it_to_all_its_particles(lab, tmp_path):
    species = {"ribosome": PLACES["TS_01"][:2], "26S proteasome": PLACES["TS_01"][2:]}
    given = []
    for number, (name, places) in enumerate(species.items()):
        given += [f"{name}={csv_picks(tmp_path / f'{number}.csv', places / VOXEL)[0]}"]
    given.append(f"{name}={picks.relion31(tmp_path)[0]}")  # has classes of its own
    options = {"tomograms": first(lab), "skip_missing": True}
    extract.main(config(lab, tmp_path / "out", coordinates=tuple(given), **options))
    table = pd.read_csv(tmp_path / "out" / "particles.csv", dtype=str)
    assert list(table[LABEL]) == ["ribosome"] * 2 + ["26S proteasome"] * 4
    assert list(table["rlnClassNumber"].dropna()) == ["1", "2", "1"]
    before = (tmp_path / "out" / "TS_01.mrcs").stat().st_ino
    renamed = tuple(name.replace("ribosome=", "70S=") for name in given)
    extract.main(config(lab, tmp_path / "out", coordinates=renamed, **options))
    table = pd.read_csv(tmp_path / "out" / "particles.csv", dtype=str)
    assert set(table[LABEL]) == {"70S", "26S proteasome"} and (tmp_path / "out" / "TS_01.mrcs").stat().st_ino == before


def test_a_file_whose_name_has_the_mark_of_a_class_in_it_is_a_file(lab, tmp_path):
    (file,) = csv_picks(tmp_path / "defocus=4.csv", PLACES["TS_01"] / VOXEL)
    made = extract.prepare(config(lab, tmp_path / "out", coordinates=(file,), tomograms=first(lab)))[0]
    assert set(made[0].rows[LABEL]) == {""}
    for name in (f"={file}", f"unknown={file}"):
        with pytest.raises(InputError, match="expected the name of a class before '='; 'unknown' is none"):
            extract.prepare(config(lab, tmp_path / "out", coordinates=(name,), tomograms=first(lab)))
    with pytest.raises(InputError, match=r"^none\.star: no such file"):
        extract.prepare(config(lab, tmp_path / "out", coordinates=("ribosome=none.star",), tomograms=first(lab)))


def test_columns_of_the_source_that_have_names_of_ours_are_kept_beside_ours(lab, tmp_path):
    head = "tomogram,x,y,z,Actual Label,Particle,Source Tomogram"
    rows = [f"rec_TS_01.mrc,{x},{y},{z},ribosome,p{x},old" for x, y, z in PLACES["TS_01"] / VOXEL]
    (tmp_path / "a.csv").write_text("\n".join([head, *rows]))
    given = f"70S={tmp_path / 'a.csv'}"
    extract.main(config(lab, tmp_path / "out", coordinates=(given,), tomograms=first(lab)))
    table = pd.read_csv(tmp_path / "out" / "particles.csv", dtype=str)
    assert set(table["Tomogram"]) == {"TS_01"} and set(table["Source Source Tomogram"]) == {"rec_TS_01.mrc"}
    assert set(table["Source Tomogram"]) == {"old"} and "tomogram" not in table
    assert set(table[LABEL]) == {"70S"} and set(table[f"Source {LABEL}"]) == {"ribosome"}
    assert list(table["Source Particle"]) == [f"p{place[0] / VOXEL}" for place in PLACES["TS_01"]]
    again = config(lab, tmp_path / "again", coordinates=(str(tmp_path / "out/particles.csv"),), tomograms=first(lab))
    extract.main(again)
    assert set(table) <= set(pd.read_csv(tmp_path / "again" / "particles.csv"))


def test_half_precision_keeps_the_volumes(lab, tmp_path, extracted):
    extract.main(config(lab, tmp_path, dtype="float16"))
    half, full = (mrcfile.read(folder / "TS_01.mrcs") for folder in (tmp_path, extracted))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, full, atol=5e-3)


def test_boxes_that_leave_the_tomogram_are_dropped_or_padded_and_counted(lab, tmp_path, capsys):
    places = [(8.2, 9.6, 11.3), (5.4, 20, 12), (20, 20, 20), (60, 20, 12), (-0.4, 20, 12), (20, -3, 12)]  # x, y, z
    options = {
        "coordinates": csv_picks(tmp_path / "a.csv", places),
        "tomograms": first(lab),
    }
    extract.main(config(lab, tmp_path / "drop", **options))
    assert "6 particles: 1 taken, 3 at the edge, 2 outside" in capsys.readouterr().out
    assert mrcfile.read(tmp_path / "drop" / "TS_01.mrcs").shape[0] == 1
    extract.main(config(lab, tmp_path / "pad", edge="pad", **options))
    assert "6 particles: 4 taken, 3 of them at the edge and filled up, 2 outside" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "pad" / "particles.csv")
    assert list(table[SOURCE_ROW]) == [1, 2, 3, 5]
    assert (tmp_path / "pad" / "TS_01.mrcs").stat().st_size == 1024 + 4 * SIDE**3 * 4


def test_a_box_that_just_fits_is_taken(lab, tmp_path):
    half = SIDE / 2 - 0.5  # of a box whose first voxel is the tomogram's
    places = [(half, half, half), (47 - half, 39 - half, 23 - half), (half - 0.01, half, half)]
    options = {
        "coordinates": csv_picks(tmp_path / "a.csv", places),
        "tomograms": first(lab),
    }
    made = extract.prepare(config(lab, tmp_path, **options))[0][0]
    assert (len(made.rows), made.at_edge) == (2, 1)
    voxels = mrcfile.read(lab / "tomograms" / "TS_01.mrc")
    np.testing.assert_allclose(
        cut_box(voxels, np.full(3, half), VOXEL, made.box), voxels[:SIDE, :SIDE, :SIDE], atol=0.02
    )


def test_a_box_at_the_same_voxels_is_the_tomogram_there_and_a_shifted_one_follows():
    rng = np.random.default_rng(0)
    voxels = np.fft.ifftn(np.fft.fftn(rng.normal(size=(40, 40, 40))) * _band(40, 0.3)).real
    box = Box(12, VOXEL)
    found = cut_box(voxels, np.array([19.5, 20.5, 17.5]), VOXEL, box)
    np.testing.assert_allclose(found, voxels[14:26, 15:27, 12:24], atol=0.02 * voxels.std())
    moved = np.fft.ifftn(np.fft.fftn(voxels) * _shift(40, (0.3, -0.4, 0.25))).real
    found = cut_box(moved, np.array([19.8, 20.1, 17.75]), VOXEL, box)
    np.testing.assert_allclose(found, voxels[14:26, 15:27, 12:24], atol=0.02 * voxels.std())


def _shift(side, by):
    phases = [np.exp(-2j * np.pi * np.fft.fftfreq(side) * step) for step in by]
    return phases[0][:, None, None] * phases[1][:, None] * phases[2]


def _band(side, limit):
    at = np.fft.fftfreq(side)
    return (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2) ** 0.5 < limit


def test_resampling_about_a_place_gives_the_values_of_the_function_there():
    place, shape = np.array([14.3, 17.75, 20.1]), (30, 34, 42)
    z, y, x = (np.arange(length) * 8.0 for length in shape)
    centre = place * 8.0 + np.array([6.0, -9.0, 4.0])  # A, of a Gaussian off the place

    def gaussian(z, y, x):
        squares = (z - centre[0])[:, None, None] ** 2 + (y - centre[1])[:, None] ** 2 + (x - centre[2]) ** 2
        return np.exp(-squares / (2 * 25.0**2)) + 5

    at = (np.arange(15) - 7) * 11.0
    found = resample_about(gaussian(z, y, x).astype(np.float32), 8.0, 11.0, 15, place)
    np.testing.assert_allclose(found, gaussian(*(at + middle * 8.0 for middle in place)), atol=0.01)


def test_a_dry_run_says_all_and_writes_nothing(lab, tmp_path, capsys):
    extract.main(config(lab, tmp_path / "out", dry_run=True))
    said = capsys.readouterr().out
    assert (
        "RELION 3.1 (--flavour relion31); 5 particles, in voxels of 5 A (rlnImagePixelSize); 0 is the centre of" in said
    )
    assert "TS_01: 24 x 40 x 48 voxels (z, y, x) of 10 A, binning 2; 3 particles: 3 taken, 0 at the edge, 0" in said
    assert f"0 outside; {lab / 'tomograms' / 'TS_01.mrc'}\n" in said, "the file that the name was matched to"
    assert "boxes: 12 voxels of 10 A" in said and "nothing is written" in said
    assert not (tmp_path / "out").exists()


def test_finished_stacks_are_not_cut_again_and_other_options_are_refused(lab, tmp_path, capsys, monkeypatch):
    extract.main(config(lab, tmp_path))
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.glob("*.mrcs")}
    table = (tmp_path / "particles.csv").read_bytes()
    (tmp_path / "TS_02.mrcs").write_bytes(b"half")
    extract.main(config(lab, tmp_path, tilt_range=(-50.0, 50.0)))
    assert "TS_01.mrcs: already cut" in capsys.readouterr().out
    assert (tmp_path / "TS_01.mrcs").stat().st_ino == before["TS_01.mrcs"][0]
    assert (tmp_path / "TS_02.mrcs").read_bytes() == before["TS_02.mrcs"][1]
    assert set(pd.read_csv(tmp_path / "particles.csv")["Tilt Max"]) == {50}
    with pytest.raises(InputError, match="holds stacks cut with another --box; give another --out, or --overwrite"):
        extract.main(config(lab, tmp_path, box=10))
    extract.main(config(lab, tmp_path, box=10, overwrite=True))
    assert mrcfile.read(tmp_path / "TS_01.mrcs").shape == (3, 10, 10, 10)
    extract.main(config(lab, tmp_path, overwrite=True))
    assert (tmp_path / "particles.csv").read_bytes() == table


def test_a_run_that_was_cut_off_leaves_finished_stacks_and_goes_on(lab, tmp_path, monkeypatch):
    real = extract.cut

    def fails_at_the_second(made, stack, dtype):
        if made.name == "TS_02":
            raise KeyboardInterrupt
        return real(made, stack, dtype)

    monkeypatch.setattr(extract, "cut", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        extract.main(config(lab, tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TS_01.mrcs", "extract.json"]
    first = (tmp_path / "TS_01.mrcs").stat().st_ino
    monkeypatch.undo()
    extract.main(config(lab, tmp_path))
    assert (tmp_path / "TS_01.mrcs").stat().st_ino == first
    assert len(pd.read_csv(tmp_path / "particles.csv")) == 5


def test_a_folder_with_another_record_is_not_written_to(lab, tmp_path):
    (tmp_path / "extract.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match=r"extract\.json: not a record of extract\.py; give another --out"):
        extract.main(config(lab, tmp_path))


def test_other_places_or_another_tomogram_are_cut_again(tmp_path, capsys):
    tomogram = write_tomogram(tmp_path / "TS_01.mrc", blobs(PLACES["TS_01"]))
    options = {"tomograms": (str(tomogram),), "coordinates": csv_picks(tmp_path / "a.csv", [(8.2, 9.6, 11.3)])}
    extract.main(config(tmp_path, tmp_path / "out", **options))
    csv_picks(tmp_path / "a.csv", [(24.1, 28.4, 12.75)])
    extract.main(config(tmp_path, tmp_path / "out", **options))
    assert "already cut" not in capsys.readouterr().out
    os.utime(tomogram, ns=(1, 1))
    extract.main(config(tmp_path, tmp_path / "out", **options))
    assert "already cut" not in capsys.readouterr().out


def test_constant_and_broken_boxes_are_left_out_and_counted(tmp_path, capsys):
    volume = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    volume[:, :, :14] = 7
    tomogram = write_tomogram(tmp_path / "TS_01.mrc", volume)
    with mrcfile.mmap(tomogram, "r+") as mrc:
        mrc.data[12, 20, 40] = np.nan
    places = csv_picks(tmp_path / "a.csv", [(4, 20, 12), (24, 20, 12), (40, 20, 12), (34, 21, 11)])
    extract.main(config(tmp_path, tmp_path / "out", box=6, tomograms=(str(tomogram),), coordinates=places))
    assert "left out, as they are constant or not finite: 2 boxes" in capsys.readouterr().err
    table = pd.read_csv(tmp_path / "out" / "particles.csv")
    assert list(table[INPUT]) == ["1@TS_01.mrcs", "2@TS_01.mrcs"] and list(table[SOURCE_ROW]) == [2, 4]
    assert mrcfile.validate(tmp_path / "out" / "TS_01.mrcs")
    assert mrcfile.read(tmp_path / "out" / "TS_01.mrcs").shape == (2, 6, 6, 6)


@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_the_contrast_and_the_centre_of_the_mean_are_said(contrast, tmp_path, capsys):
    sign = 1 if contrast == "bright" else -1
    noise = np.random.default_rng(0).normal(scale=0.2, size=SHAPE)
    write_tomogram(tmp_path / "TS_01.mrc", (sign * blobs(PLACES["TS_01"]) + noise).astype(np.float32))
    options = {"tomograms": (str(tmp_path / "TS_01.mrc"),)}
    right = csv_picks(tmp_path / "a.csv", PLACES["TS_01"] / VOXEL)
    extract.main(config(tmp_path, tmp_path / "a", coordinates=right, **options))
    assert f"centred; the particles are {contrast}" in capsys.readouterr().out
    assert (tmp_path / "a" / "check.png").read_bytes().startswith(b"\x89PNG")
    wrong = csv_picks(tmp_path / "b.csv", PLACES["TS_01"] / VOXEL + np.array([3.0, 0, 0]))
    extract.main(config(tmp_path, tmp_path / "b", coordinates=wrong, **options))
    assert "from there; " in capsys.readouterr().err


def test_places_without_particles_are_doubted(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tomogram = write_tomogram(tmp_path / "TS_01.mrc", rng.normal(size=(24, 64, 64)).astype(np.float32))
    places = csv_picks(tmp_path / "a.csv", rng.uniform(10, 31, size=(25, 3)) * (1, 1, 0) + (0, 0, 11))
    extract.main(config(tmp_path, tmp_path / "out", coordinates=places, tomograms=(str(tomogram),)))
    assert "wrong places, or few and noisy particles?" in capsys.readouterr().err
    small = csv_picks(tmp_path / "b.csv", rng.uniform(6, 11, size=(25, 3)))
    extract.main(config(tmp_path, tmp_path / "small", coordinates=small, tomograms=(str(tomogram),)))
    assert "TS_01: all 25 particles are in one corner of it" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_tomogram_or_the_number_of_particles(tmp_path):
    shape, volume = (64, 256, 512), np.zeros((4, 4, 4), dtype=np.int8)
    path = write_tomogram(tmp_path / "TS_01.mrc", volume)
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.nz, mrc.header.ny, mrc.header.nx = mrc.header.mz, mrc.header.my, mrc.header.mx = shape
        mrc.header.cella = (512 * VOXEL, 256 * VOXEL, 64 * VOXEL)
        mrc.header.mode = 2
    os.truncate(path, 1024 + 4 * int(np.prod(shape)))  # 34 MB of zeros, none of it on the disk
    rng = np.random.default_rng(0)
    voxels = np.memmap(path, dtype=np.float32, mode="r+", offset=1024, shape=shape)
    voxels[20:44, :, :80] = rng.normal(size=(24, 256, 80))
    voxels.flush()
    places = csv_picks(tmp_path / "a.csv", rng.uniform((10, 10, 30), (70, 240, 34), size=(200, 3)))
    options = {"coordinates": places, "tomograms": (str(path),), "box": 16, "dtype": "float16"}
    made = extract.prepare(config(tmp_path, tmp_path, **options))[0][0]
    tracemalloc.start()
    entry = extract.cut(made, tmp_path / "TS_01.mrcs", "float16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entry["volumes"] == 200
    assert peak < 3e6 < (tmp_path / "TS_01.mrcs").stat().st_size * 2  # of a tomogram of 34 MB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"box": 1}, "--box 1"),
        ({"edge": "keep"}, "--edge keep"),
        ({"dtype": "int8"}, "--dtype int8"),
        ({"voxel_size": -1.0}, "--voxel-size -1"),
        ({"tilt_range": (60.0, -60.0)}, "--tilt-range"),
        ({"coordinates": ()}, "expected one file at least"),
    ],
)
def test_options_that_make_no_sense_are_refused(lab, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        extract.main(config(lab, tmp_path, **options))


def test_the_script_says_a_mistake_in_one_line_with_exit_code_2(lab, tmp_path):
    said = refuse("extract.py", "--coordinates", "none.star", "--tomograms", str(lab / "tomograms"), cwd=tmp_path)
    assert said == "extract.py: error: none.star: no such file; expected particles' coordinates"
