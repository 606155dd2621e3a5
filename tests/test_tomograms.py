"""Which tomograms extract.py reads, and which coordinates are of which tomogram."""

import tracemalloc

import mrcfile
import numpy as np
import pandas as pd
import pytest
import zarr

import extract
from common.cli import InputError
from loader.columns import LABEL, SOURCE_ROW
from loader.star import write_star
from loader.tomogram import find_tomograms, plain_name, read_header
from tests.picks import PLACES, SHAPE, VOXEL, blobs, config, csv_picks, loop, middle_of_mass, write_tomogram, xyz
from tests.scripts import call_script


@pytest.mark.parametrize("mode", [np.int8, np.int16, np.uint16, np.float16])
def test_tomograms_of_every_mode_and_order_of_axes_give_the_same_places(mode, tmp_path):
    volume = (blobs(PLACES["TS_01"]) * 25).astype(mode)
    with mrcfile.new(tmp_path / "TS_01.rec") as mrc:
        mrc.set_data(np.ascontiguousarray(np.transpose(volume, (2, 0, 1))))  # sections x, rows z, columns y
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 2, 3, 1
        mrc.voxel_size = VOXEL
        mrc.header.ispg = 0  # as IMOD writes it
    options = {"tomograms": (str(tmp_path / "TS_01.rec"),)}
    places = csv_picks(tmp_path / "a.csv", PLACES["TS_01"] / VOXEL)
    made = extract.prepare(config(tmp_path, tmp_path, coordinates=places, **options))[0][0]
    assert made.tomogram.shape == SHAPE
    for box in made.boxes(tmp_path):
        assert np.abs(middle_of_mass(box)).max() < 0.05


def test_a_compressed_tomogram_is_read(tmp_path):
    with mrcfile.new(tmp_path / "TS_01.mrc.gz", compression="gzip") as mrc:
        mrc.set_data(blobs(PLACES["TS_01"]))
        mrc.voxel_size = VOXEL
    places = csv_picks(tmp_path / "a.csv", PLACES["TS_01"] / VOXEL)
    extract.main(config(tmp_path, tmp_path / "out", coordinates=places, tomograms=(str(tmp_path / "TS_01.mrc.gz"),)))
    assert mrcfile.read(tmp_path / "out" / "TS_01.mrcs").shape[0] == 3


@pytest.mark.parametrize(("version", "unit", "factor"), [("0.4", "angstrom", 1.0), ("0.5", "nanometer", 10.0)])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "xyz"])
def test_ome_zarr_gives_the_same_boxes_as_mrc(version, unit, factor, axes, tmp_path):
    volume = blobs(PLACES["TS_01"])
    folder = tmp_path / "ExperimentRuns" / "TS_01" / "VoxelSpacing10.000" / "wbp.zarr"  # as copick lays it out
    write_zarr(folder, volume, version, unit, VOXEL / factor, axes)
    mrc = write_tomogram(tmp_path / "TS_01.mrc", volume)
    places = csv_picks(tmp_path / "a.csv", PLACES["TS_01"] / VOXEL)
    for name, tomogram in (("zarr", folder), ("mrc", mrc)):
        extract.main(config(tmp_path, tmp_path / name, coordinates=places, tomograms=(str(tomogram),)))
    stacks = [(tmp_path / name / "TS_01.mrcs").read_bytes() for name in ("zarr", "mrc")]
    assert stacks[0] == stacks[1]


def write_zarr(folder, volume, version, unit, voxel, axes):
    """An OME-Zarr image of two levels, as version 0.4 (Zarr 2) or 0.5 (Zarr 3) has it."""
    group = zarr.create_group(folder, zarr_format=2 if version == "0.4" else 3)
    order = ["zyx".index(axis) for axis in axes if axis != "c"]
    stored = np.transpose(volume, order)[(None,) * axes.count("c")]
    for level, step in (("0", 1), ("1", 2)):
        part = stored[tuple(slice(None, None, 1 if axis == "c" else step) for axis in axes)]
        array = group.create_array(level, shape=part.shape, chunks=(10,) * part.ndim, dtype=part.dtype)
        array[:] = part
    scale = [[1.0 if axis == "c" else voxel * step / 2 for axis in axes] for step in (1, 2)]
    image = {
        "axes": [
            {"name": axis, **({"type": "channel"} if axis == "c" else {"type": "space", "unit": unit})} for axis in axes
        ],
        "datasets": [
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale[n]}]} for n in range(2)
        ],
        "coordinateTransformations": [{"type": "scale", "scale": [1.0 if axis == "c" else 2.0 for axis in axes]}],
    }
    if version == "0.4":
        group.attrs["multiscales"] = [image]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def test_memory_does_not_grow_with_an_ome_zarr_tomogram(tmp_path):
    shape = (64, 256, 512)
    group = zarr.create_group(tmp_path / "TS_01.zarr", zarr_format=2)
    array = group.create_array("0", shape=shape, chunks=(32,) * 3, dtype=np.float32)
    rng = np.random.default_rng(0)
    array[16:48, :, :64] = rng.normal(size=(32, 256, 64))  # the rest of the 34 MB is stored nowhere
    axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [VOXEL] * 3}]}
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [level]}]
    places = csv_picks(tmp_path / "a.csv", rng.uniform((10, 10, 30), (50, 240, 34), size=(20, 3)))
    options = {"coordinates": places, "tomograms": (str(tmp_path / "TS_01.zarr"),), "box": 16}
    made = extract.prepare(config(tmp_path, tmp_path, **options))[0][0]
    tracemalloc.start()
    entry = extract.cut(made, tmp_path / "TS_01.mrcs", "float16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert entry["volumes"] == 20 and peak < 4e6, f"{peak / 1e6:.1f} MB, of a tomogram of 34 MB"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["TS_01.mrcs", "TS_01.zarr", "a.csv"]


def test_a_zarr_folder_that_is_no_tomogram_is_refused(tmp_path):
    zarr.create_group(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"a\.zarr: not a readable OME-Zarr image"):
        read_header(tmp_path / "a.zarr")
    write_zarr(tmp_path / "b.zarr", blobs(PLACES["TS_01"]), "0.4", "parsec", 1.0, "zyx")
    with pytest.raises(InputError, match=r"b\.zarr: its header states no voxel size; give --voxel-size"):
        find_tomograms([str(tmp_path / "b.zarr")], 0.0)


def test_names_are_compared_without_what_programs_put_around_them():
    names = "TS_01 TS_01.tomostar a/b/rec_TS_01.mrc TS_01_10.00Apx.mrc TS_01.mrc_9.98Apx.mrc TS_01.st TS_01_Vol.mrc"
    for name in f"{names} TS_01_rec.rec TS_01.ome.zarr TS_01.mrc.gz a/TS_01.st:mrc TS_01.mrc.tomostar".split():
        assert plain_name(name) == "TS_01"
    assert plain_name("00255") == "00255" and plain_name("rec_.mrc") == "rec_"


def test_a_miss_lists_the_names_of_both_sides(lab, tmp_path, capsys):
    one = {"tomograms": (str(lab / "tomograms" / "TS_01.mrc"), str(write_tomogram(tmp_path / "X.mrc", blobs([]))))}
    expected = "2 particles are of tomograms that were not given: TS_02; tomograms without particles: X; with: TS_01"
    with pytest.raises(InputError, match=f"{expected} .*; --skip-missing leaves them out"):
        extract.main(config(lab, tmp_path / "out", **one))
    extract.main(config(lab, tmp_path / "out", skip_missing=True, **one))
    assert expected in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "out" / "particles.csv")) == 3


def test_a_file_without_names_needs_one_tomogram_or_its_name(lab, tmp_path):
    star = tmp_path / "picks_relion3.star"
    star.write_text(loop("rlnCoordinateX rlnCoordinateY rlnCoordinateZ", [xyz(PLACES["TS_01"][0] / VOXEL)]))
    with pytest.raises(InputError, match=r"picks_relion3\.star: names no tomogram, and 2 are given \(TS_01, TS_02\)"):
        extract.main(config(lab, tmp_path / "out", coordinates=(str(star),)))
    one = (str(lab / "tomograms" / "TS_02.mrc"),)
    assert extract.prepare(config(lab, tmp_path / "out", coordinates=(str(star),), tomograms=one))[0][0].name == "TS_02"


def test_a_header_that_contradicts_is_warned_of_and_an_unknown_voxel_size_has_to_be_given(lab, tmp_path, capsys):
    wrong = write_tomogram(tmp_path / "TS_01_10.00Apx.mrc", blobs(PLACES["TS_01"]), voxel=1.0)
    options = {"tomograms": (str(wrong),), "coordinates": csv_picks(tmp_path / "a.csv", PLACES["TS_01"] / VOXEL)}
    extract.prepare(config(lab, tmp_path, target_voxel_size=0.0, **options))
    assert "voxels of 1 A by the header, 10 A by its name; taken from the header" in capsys.readouterr().err
    assert extract.prepare(config(lab, tmp_path, voxel_size=10.0, **options))[0][0].tomogram.voxel_size == 10
    assert "1 A by the header, 10 A by --voxel-size; taken from --voxel-size" in capsys.readouterr().err
    nothing = write_tomogram(tmp_path / "TS_01.mrc", blobs([]), voxel=0.0)
    with pytest.raises(InputError, match=r"TS_01\.mrc: its header states no voxel size; give --voxel-size"):
        extract.prepare(config(lab, tmp_path, **{**options, "tomograms": (str(nothing),)}))


def test_several_sources_of_one_tomogram_share_its_stack(lab, tmp_path):
    one = csv_picks(tmp_path / "a.csv", PLACES["TS_01"][:1] / VOXEL)
    other = tmp_path / "b.csv"
    other.write_text("tomogram,X,Y,Z,Particle,actual label\nTS_01,24.1,28.4,12.75,p7,ribosome\n")
    extract.main(config(lab, tmp_path / "out", coordinates=(*one, str(other))))
    table = pd.read_csv(tmp_path / "out" / "particles.csv", dtype=str, keep_default_na=False)
    assert list(table[LABEL]) == ["", "ribosome"] and list(table["Source Particle"]) == ["", "p7"]
    assert list(table[SOURCE_ROW]) == ["1", "1"] and list(table["X"]) == ["", "24.1"]
    assert mrcfile.read(tmp_path / "out" / "TS_01.mrcs").shape[0] == 2


def cut_with_a_broken_one(tmp_path, path, options=(), tomograms=()):
    """extract.py on picks of TS_01 and TS_02, of which TS_02 is `path`."""
    for name in PLACES:
        csv_picks(tmp_path / f"{name}.csv", PLACES[name] / VOXEL, name)
    write_tomogram(tmp_path / "TS_01.mrc", blobs(PLACES["TS_01"]))
    files = [str(tmp_path / f"{name}.csv") for name in PLACES]
    tomograms = map(str, tomograms or (tmp_path / "TS_01.mrc", path))
    given = ("--coordinates", *files, "--tomograms", *tomograms, "--box", "12")
    return call_script("extract.py", *given, *options, cwd=tmp_path)


@pytest.mark.parametrize("suffix", [".mrc", ".mrc.gz", ".zarr"])
def test_a_tomogram_that_cannot_be_read_is_listed_and_the_others_are_cut(suffix, tmp_path):
    path, whole = tmp_path / f"TS_02{suffix}", blobs(PLACES["TS_02"])
    if suffix == ".zarr":
        write_zarr(path, whole, "0.4", "angstrom", VOXEL, "zyx")
        broken = path / "0" / "1.1.1"
    else:
        with mrcfile.new(path, compression="gzip" if suffix.endswith("gz") else None) as mrc:
            mrc.set_data(whole)
            mrc.voxel_size = VOXEL
        broken = path
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) * 2 // 3])
    done = cut_with_a_broken_one(tmp_path, path)
    assert done.returncode == 3 and "its 2 particles are left out" in done.stderr
    assert set(pd.read_csv(tmp_path / "extracted" / "particles.csv")["Tomogram"]) == {"TS_01"}
    assert not (tmp_path / "extracted" / "TS_02.mrcs").exists()
    failed = pd.read_csv(tmp_path / "extracted" / "failed.csv").iloc[0]
    assert (failed["Tomogram"], failed["File"], failed["Particles"]) == ("TS_02", str(path), 2)
    assert f"TS_02{suffix}: not a readable " in failed["Reason"]
    broken.write_bytes(content)
    done = cut_with_a_broken_one(tmp_path, path)
    assert done.returncode == 0 and not (tmp_path / "extracted" / "failed.csv").exists(), done.stderr
    assert len(pd.read_csv(tmp_path / "extracted" / "particles.csv")) == 5


def test_a_tomogram_that_tomograms_star_lists_and_is_not_there_is_listed_and_the_others_are_cut(tmp_path):
    shape = blobs([]).shape
    sizes = {f"rlnTomoSize{axis}": [str(side)] * 2 for axis, side in zip("ZYX", shape, strict=True)}
    files = {"rlnTomoReconstructedTomogram": [f"{name}.mrc" for name in PLACES]}
    names = {"rlnTomoName": [*PLACES], "rlnTomoTiltSeriesPixelSize": [f"{VOXEL:g}"] * 2}
    star = tmp_path / "tomograms.star"
    write_star(star, {"global": pd.DataFrame(names | files | sizes)})
    done = cut_with_a_broken_one(tmp_path, star, tomograms=[star])
    reason = f"{star}, row 2: TS_02.mrc: no such file in {tmp_path}, the folders above it, or {tmp_path}"
    assert done.returncode == 3 and f"{reason}; its 2 particles are left out" in done.stderr
    assert set(pd.read_csv(tmp_path / "extracted" / "particles.csv")["Tomogram"]) == {"TS_01"}
    failed = pd.read_csv(tmp_path / "extracted" / "failed.csv").iloc[0]
    assert [*failed] == ["TS_02", str(tmp_path / "TS_02.mrc"), 2, reason]
    (tmp_path / "TS_01.mrc").unlink()
    with pytest.raises(InputError, match=r"tomograms\.star, row 1: TS_01\.mrc: no such file in "):
        find_tomograms([str(star)], 0.0)


def test_a_dry_run_tells_what_cannot_be_read_and_one_without_particles_is_warned_of_alone(tmp_path):
    (tmp_path / "TS_02.mrc").write_bytes(b"MAP")
    done = cut_with_a_broken_one(tmp_path, tmp_path / "TS_02.mrc", ["--dry-run"])
    assert done.returncode == 3 and "TS_02.mrc: not a readable MRC file" in done.stderr
    assert not (tmp_path / "extracted").exists()
    (tmp_path / "TS_02.mrc").rename(tmp_path / "TS_03.mrc")
    write_tomogram(tmp_path / "TS_02.mrc", blobs(PLACES["TS_02"]))
    options = ["--tomograms", *(str(tmp_path / f"TS_0{number}.mrc") for number in (1, 2, 3))]
    done = cut_with_a_broken_one(tmp_path, tmp_path / "TS_02.mrc", options)
    assert done.returncode == 0 and "it has no particles here" in done.stderr
    assert not (tmp_path / "extracted" / "failed.csv").exists()


def test_picks_without_a_name_are_not_taken_for_those_of_the_only_tomogram_that_can_be_read(tmp_path):
    write_tomogram(tmp_path / "TS_01.mrc", blobs(PLACES["TS_01"]))
    (tmp_path / "TS_02.mrc").write_bytes(b"MAP")
    (tmp_path / "picks.csv").write_text("x,y,z\n24,20,12\n")
    both = tuple(str(tmp_path / f"{name}.mrc") for name in PLACES)
    with pytest.raises(InputError, match=r"names no tomogram, and 2 are given \(TS_01, TS_02\)"):
        extract.prepare(config(tmp_path, tmp_path, coordinates=(str(tmp_path / "picks.csv"),), tomograms=both))
    one = csv_picks(tmp_path / "a.csv", [(24, 20, 12)], "TS_02")
    with pytest.raises(InputError, match=r"none of the tomograms with particles can be read: .*TS_02\.mrc: not a read"):
        extract.prepare(config(tmp_path, tmp_path, coordinates=one, tomograms=both))


def test_stacks_and_what_is_no_tomogram_are_refused(lab, tmp_path):
    cases = {
        "stack.mrcs": "a stack of images or of volumes; expected a tomogram .2-D stacks of particles",
        "text.mrc": "not a readable MRC file",
        "none.mrc": "no such file or folder; expected tomograms",
        "empty": "holds neither an MRC file nor an OME-Zarr folder, but nothing; expected tomograms",
        "stacks": "holds neither .* but 2 .mrcs; expected tomograms .2-D stacks of particles, .* coordinates and the",
        "pictures": "holds neither an MRC file nor an OME-Zarr folder, but 2 .tif, 1 .txt; expected tomograms",
    }
    write_tomogram(tmp_path / "stack.mrcs", blobs([]))
    (tmp_path / "text.mrc").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "stacks").mkdir()
    for name in ("1_stack2d.mrcs", "2_stack2d.mrcs"):
        write_tomogram(tmp_path / "stacks" / name, blobs([]))
    for name in ("a.tif", "b.TIF", "c.txt"):
        (tmp_path / "pictures" / name).write_text("")
    for name, message in cases.items():
        with pytest.raises(InputError, match=f"{name}: {message}"):
            extract.prepare(config(lab, tmp_path, tomograms=(str(tmp_path / name),)))
    with pytest.raises(InputError, match="tomograms of one name, TS_01; expected one of each"):
        twice = (str(lab / "tomograms" / "TS_01.mrc"), str(write_tomogram(tmp_path / "TS_01.mrc", blobs([]))))
        extract.prepare(config(lab, tmp_path, tomograms=twice))
