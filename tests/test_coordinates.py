"""Each program's coordinates against blobs at known places: the box cut for a particle has the blob in its middle."""

import json
import re

import numpy as np
import pandas as pd
import pytest

import extract
from common.cli import InputError
from loader.columns import LABEL
from loader.coordinates import read_all, read_picks
from loader.extraction import particles
from loader.flavours import FLAVOURS
from loader.star import write_star
from tests import picks
from tests.picks import PLACES, SIDE, VOXEL, WRITERS, blobs, loop, middle_of_mass, write_tomogram, xyz
from tests.scripts import REPOSITORY


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory):
    """Two tomograms, named as RELION 5 and as WarpTools name theirs."""
    folder = tmp_path_factory.mktemp("tomograms")
    write_tomogram(folder / "rec_TS_01.mrc", blobs(PLACES["TS_01"]))
    write_tomogram(folder / "TS_02_10.00Apx.mrc", blobs(PLACES["TS_02"]))
    return folder


def plans(coordinates, tomograms, **options):
    """What extract.py plans to cut."""
    options = {"box": SIDE, "target_voxel_size": VOXEL, **options}
    names = tuple(map(str, coordinates))
    return extract.prepare(extract.Config(names, tuple(map(str, tomograms)), **options))[0]


def offsets(planned, folder):
    """How far each blob is from the middle of its box, voxels."""
    return np.array([middle_of_mass(box) for made in planned for box in made.boxes(folder)])


def test_every_flavour_is_tried_and_explained():
    assert set(WRITERS.values()) == set(FLAVOURS)
    explained = re.findall(r"^\| `(\w[\w-]*)` \|", (REPOSITORY / "docs" / "coordinates.md").read_text(), re.MULTILINE)
    assert set(explained) == set(FLAVOURS)


@pytest.mark.parametrize(("write", "flavour"), WRITERS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_boxes_of_every_program_have_the_particle_in_the_middle(write, flavour, tomograms, tmp_path, capsys):
    files = write(tmp_path)
    planned = plans(files, [tomograms])
    assert f"(--flavour {flavour})" in capsys.readouterr().out
    assert [len(made.rows) for made in planned] == [2, 3]  # TS_02_10.00Apx.mrc comes before rec_TS_01.mrc
    assert np.abs(offsets(planned, tmp_path)).max() < 0.05


def test_boxes_at_other_voxels_have_the_particle_in_the_middle(tomograms, tmp_path):
    for side, voxel in ((16, 7.3), (11, 12.0), (9, 14.0)):
        planned = plans(picks.relion5(tmp_path), [tomograms], box=side, target_voxel_size=voxel)
        assert np.abs(offsets(planned, tmp_path)).max() < 0.05


def test_the_shift_of_a_subtomogram_turns_as_relion_turns_it():
    for number in range(len(picks.ANGLES)):
        np.testing.assert_allclose(picks.turned(number), picks.inverse_turned(number), atol=1e-12)


def test_the_centre_is_that_of_the_tomogram_before_binning_where_tomograms_star_tells_its_size(tmp_path, capsys):
    (tmp_path / "Tomograms").mkdir()
    write_tomogram(tmp_path / "Tomograms" / "rec_TS_01.mrc", blobs(PLACES["TS_01"]))
    labels = "rlnTomoName rlnTomoTiltSeriesPixelSize rlnTomoSizeX rlnTomoSizeY rlnTomoSizeZ rlnTomoTomogramBinning"
    row = "TS_01 2.5 195 161 99 4.0 Tomograms/rec_TS_01.mrc"
    listed = tmp_path / "Tomograms" / "tomograms.star"  # its paths are relative to the project's root, one folder above
    listed.write_text(loop(f"{labels} rlnTomoReconstructedTomogram", [row], "global"))
    files = picks.relion5(tmp_path, centre=np.array([195, 161, 99]) / 2 * 2.5)
    planned = plans(files, [listed], skip_missing=True)
    assert np.abs(offsets(planned, tmp_path)).max() < 0.05
    assert planned[0].binning == 4.0
    said = capsys.readouterr()
    assert "voxels (z, y, x) of 10 A, binning 4; 3 particles" in said.out and "binning" not in said.err
    listed.write_text(listed.read_text().replace(" 4.0 ", " 8.0 "))
    plans(files, [listed], skip_missing=True)
    assert f"rec_TS_01.mrc: binning 4 by its voxel size, 8 by {listed}; is the voxel size" in capsys.readouterr().err


def test_a_binning_is_that_of_the_tilt_series_or_else_of_coordinates_in_pixels(tomograms, tmp_path, capsys):
    for write, told in ((picks.relion5, ", binning 4;"), (picks.relion4, ", binning 4;"), (picks.pytom, ", binning 2;"),
                        (picks.m, " A;"), (picks.copick, " A;"), (picks.warp_match, " A;"),
                        (picks.csv, " A;"), (picks.tomotwin, " A;")):  # fmt: skip
        plans(write(tmp_path), [tomograms])
        assert f"voxels (z, y, x) of 10 A{told.removeprefix(' A')}" in capsys.readouterr().out


def test_relion_4_takes_the_tilt_series_pixel_size_from_tomograms_star(tmp_path):
    write_tomogram(tmp_path / "TS_01.mrc", blobs(PLACES["TS_01"]))
    labels = (
        "rlnTomoName rlnTomoTiltSeriesPixelSize rlnTomoSizeX rlnTomoSizeY rlnTomoSizeZ rlnTomoReconstructedTomogram"
    )
    (tmp_path / "tomograms.star").write_text(loop(labels, ["TS_01 2.5 192 160 96 TS_01.mrc"], "global"))
    rows = [f"TS_01 {xyz(place / 2.5)}" for place in PLACES["TS_01"]]
    star = tmp_path / "picks.star"
    star.write_text(loop("rlnTomoName rlnCoordinateX rlnCoordinateY rlnCoordinateZ", rows, "particles"))
    planned = plans([star], [tmp_path / "tomograms.star"])
    assert planned[0].binning == 4.0
    assert np.abs(offsets(planned, tmp_path)).max() < 0.05
    with pytest.raises(InputError, match="whose pixel size is not told; give --pixel-size"):
        plans([star], [tmp_path / "TS_01.mrc"])
    assert np.abs(offsets(plans([star], [tmp_path / "TS_01.mrc"], pixel_size=2.5), tmp_path)).max() < 0.05


def test_centred_coordinates_count_more_than_those_of_relion_4_beside_them(tomograms, tmp_path):
    rows = [f"{name} {xyz(place - picks.CORNER_TO_CENTRE)} 1 1 1 2.5" for name, place in picks.ROWS]
    labels = "rlnTomoName rlnCenteredCoordinateXAngst rlnCenteredCoordinateYAngst rlnCenteredCoordinateZAngst"
    labels = f"{labels} rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnTomoTiltSeriesPixelSize"
    (tmp_path / "a.star").write_text(loop(labels, rows, "particles"))
    assert np.abs(offsets(plans([tmp_path / "a.star"], [tomograms]), tmp_path)).max() < 0.05


def test_coordinates_in_angstrom_are_given_by_a_pixel_size_of_1(tomograms, tmp_path):
    lines = [f"{name},{','.join(map(str, place))}" for name, place in picks.ROWS]
    (tmp_path / "a.csv").write_text("\n".join(["tomogram,x,y,z", *lines]))
    assert np.abs(offsets(plans([tmp_path / "a.csv"], [tomograms], pixel_size=1.0), tmp_path)).max() < 0.05
    with pytest.raises(InputError, match=r"no box lies inside its tomogram: .* go from .*--pixel-size"):
        plans([tmp_path / "a.csv"], [tomograms])


def test_a_flavour_that_is_given_counts_more_than_the_labels(tomograms, tmp_path):
    rows = [f"{name} {xyz(place / VOXEL)}" for name, place in picks.ROWS]  # as RELION 5's picker writes annotations
    star = tmp_path / "a.star"
    star.write_text(loop("rlnTomoName rlnCoordinateX rlnCoordinateY rlnCoordinateZ", rows))
    assert read_picks(star).flavour == "relion4"
    assert np.abs(offsets(plans([star], [tomograms], flavour="relion3"), tmp_path)).max() < 0.05


def test_shifts_in_pixels_are_subtracted_too(tomograms, tmp_path):
    rows = [
        f"{name}.mrc {xyz(place / VOXEL + picks.OFFSETS[n] / VOXEL)} {xyz(picks.OFFSETS[n] / VOXEL)}"
        for n, (name, place) in enumerate(picks.ROWS)
    ]
    labels = "rlnMicrographName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnOriginX rlnOriginY rlnOriginZ"
    (tmp_path / "a.star").write_text(loop(labels, rows))
    assert np.abs(offsets(plans([tmp_path / "a.star"], [tomograms]), tmp_path)).max() < 0.05


def test_classes_come_from_class_numbers_objects_and_columns(tmp_path):
    assert list(read_picks(picks.relion31(tmp_path)[0]).classes) == [f"class00{n % 2 + 1}" for n in range(5)]
    assert set(read_picks(picks.copick(tmp_path)[0]).classes) == {"ribosome"}
    assert list(read_picks(picks.dynamo(tmp_path)[0]).classes) == [f"class00{1 + n % 2}" for n in range(1, 6)]
    assert set(read_picks(picks.tomotwin(tmp_path)[0]).classes) == {""}
    (tmp_path / "a.csv").write_text("x,y,z,Actual Label\n1,2,3,proteasome\n")
    assert list(read_picks(tmp_path / "a.csv").classes) == ["proteasome"]


def test_a_prediction_of_predict_is_no_class(tmp_path, tomograms, capsys):
    source = read_picks(picks.relion31(tmp_path)[0])
    written = source.table.assign(rlnClassNumber="11", lmcclClass="unknown", lmcclScore="0.2")
    write_star(tmp_path / "predictions.star", {**source.blocks, "particles": written})
    made = plans([tmp_path / "predictions.star"], [tomograms])
    assert "; without classes: rlnClassNumber is of predict.py" in capsys.readouterr().out
    assert LABEL not in particles(made, {plan.name: [] for plan in made})
    given = written.assign(lmcclGivenClassNumber=source.table["rlnClassNumber"])
    write_star(tmp_path / "predictions.star", {**source.blocks, "particles": given})
    made = plans([tmp_path / "predictions.star"], [tomograms])
    assert "; classes from lmcclGivenClassNumber: rlnClassNumber is of predict.py" in capsys.readouterr().out
    table = particles(made, {plan.name: [] for plan in made})
    assert sorted(table[LABEL]) == ["class001"] * 3 + ["class002"] * 2 and set(table["rlnClassNumber"]) == {"11"}


def test_what_dynamo_leaves_nan_is_not_known(tomograms, tmp_path, capsys):
    (path,) = picks.dynamo(tmp_path)
    rows = [line.split() for line in path.read_text().splitlines()]
    for row in rows:
        row[35] = "NaN"  # pixel size
    rows[0][21] = rows[2][21] = "NaN"  # class
    path.write_text("\n".join(map(" ".join, rows)))
    planned = plans([path], [tomograms])
    assert "in voxels of the tomogram; 0 is" in capsys.readouterr().out
    assert np.abs(offsets(planned, tmp_path)).max() < 0.05
    assert list(read_picks(path).classes) == ["", "class001", "", "class001", "class002"]
    path.write_text("\n".join(" ".join([*row[:21], "NaN", *row[22:]]) for row in rows))
    assert set(read_picks(path).classes) == {""}
    path.write_text("\n".join(" ".join([*row[:35], "5"]) for row in rows))
    assert set(read_picks(path).pixel_size) == {5.0}


def test_a_file_without_particles_is_warned_of_and_the_others_are_taken(tomograms, tmp_path, capsys):
    files = picks.copick(tmp_path)
    content = json.loads(files[0].read_text())
    for name, points in (("none.json", []), ("null.json", None)):
        (tmp_path / name).write_text(json.dumps({**content, "points": points}))
    for name, labels in (("picks.star", RUN), ("5.star", picks.relion5_labels())):
        (tmp_path / name).write_text(loop(labels, []))
    (tmp_path / "a.coords").write_text("")
    nothing = [tmp_path / name for name in ("none.json", "null.json", "picks.star", "5.star", "a.coords")]
    assert [len(made.rows) for made in plans([nothing[0], *files, *nothing[1:]], [tomograms])] == [2, 3]
    assert f"without a particle, left out: {', '.join(map(str, nothing))}" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["", "ExperimentRuns", "ExperimentRuns/TS_01", "ExperimentRuns/TS_01/Picks"])
def test_a_folder_of_copick_stands_for_all_picks_in_it(part, tomograms, tmp_path, capsys):
    for name, file in zip(PLACES, picks.copick(tmp_path), strict=True):
        folder = tmp_path / "ExperimentRuns" / name / "Picks"
        folder.mkdir(parents=True)
        file.rename(folder / "me_0_ribosome.json")
    made = plans([tmp_path / part], [tomograms])
    assert [len(plan.rows) for plan in made] == ([3] if "TS_01" in part else [2, 3])
    assert "several picks" not in capsys.readouterr().err
    folder = tmp_path / "ExperimentRuns" / "TS_01" / "Picks"
    (folder / "you_1_ribosome.json").write_text((folder / "me_0_ribosome.json").read_text())
    assert len(plans([tmp_path / part], [tomograms])[-1].rows) == 6
    assert "several picks of one object, all taken: TS_01 ribosome (2); give files" in capsys.readouterr().err


def test_a_folder_without_picks_is_refused_with_what_it_holds(tmp_path):
    picks.relion3(tmp_path)
    message = "a folder without picks of copick, ExperimentRuns/*/Picks/*.json; it holds 1 .star; expected files of"
    with pytest.raises(InputError, match=re.escape(message)):
        read_all([str(tmp_path)])


@pytest.mark.parametrize(
    "name", ["Tomogram", "tomo_name", "rlnTomoName", "rlnMicrographName", "experiment", "tomo", "RLNTOMONAME"]
)
def test_a_csv_names_tomograms_in_a_column_of_several_names(name, tomograms, tmp_path):
    lines = [f"{tomogram}.mrc,{','.join(map(str, place / VOXEL))},5" for tomogram, place in picks.ROWS]
    (tmp_path / "a.csv").write_text("\n".join([f"{name},x,y,z,axis-0", *lines]))
    planned = plans([tmp_path / "a.csv"], [tomograms])
    assert [len(made.rows) for made in planned] == [2, 3] and np.abs(offsets(planned, tmp_path)).max() < 0.05


def test_the_csv_of_cryosiam_and_that_of_napari_are_read(tomograms, tmp_path):
    zyx = [(name, ",".join(map(str, place[::-1] / VOXEL))) for name, place in picks.ROWS]
    labels = "rlnMicrographName,rlnCoordinateZ,rlnCoordinateY,rlnCoordinateX"
    (tmp_path / "a.csv").write_text("\n".join([labels, *(f"{name}.mrc,{place}" for name, place in zyx)]))
    assert np.abs(offsets(plans([tmp_path / "a.csv"], [tomograms]), tmp_path)).max() < 0.05
    for tomogram in PLACES:
        lines = [f"{number}.0,{place}" for number, (name, place) in enumerate(zyx) if name == tomogram]
        (tmp_path / f"{tomogram}_points.csv").write_text("\n".join(["index,axis-0,axis-1,axis-2", *lines]))
    planned = plans([tmp_path / f"{name}_points.csv" for name in PLACES], [tomograms])
    assert len(planned) == 2 and np.abs(offsets(planned, tmp_path)).max() < 0.05


def test_a_csv_without_a_tomogram_says_which_column_would_tell_it(tomograms, tmp_path):
    (tmp_path / "a.csv").write_text("name,x,y,z\nTS_01,1,2,3\n")
    with pytest.raises(InputError, match=r"a\.csv: names no tomogram, .*, or a column Tomogram; found name, x, y, z$"):
        plans([tmp_path / "a.csv"], [tomograms])


def test_a_name_of_digits_stays_text(tmp_path):
    labels = "rlnTomoName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnTomoParticleName rlnTomoTiltSeriesPixelSize"
    (tmp_path / "a.star").write_text(loop(labels, ["00255 1 2 3 00255/01 2.50"], "particles"))
    found = read_picks(tmp_path / "a.star")
    assert list(found.tomograms) == ["00255"]
    assert found.table["rlnTomoParticleName"].iloc[0] == "00255/01"
    assert found.table["rlnTomoTiltSeriesPixelSize"].iloc[0] == "2.50"
    pd.testing.assert_frame_equal(found.table, found.blocks[found.block])


RUN = "rlnMicrographName rlnCoordinateX rlnCoordinateY rlnCoordinateZ"
BAD = {
    "a.star: 0 tables with coordinates; expected one with rlnCoordinateX": loop("rlnAngleRot", ["1"]),
    "a.star: 0 tables with coordinates; it lists tomograms: give it to --tomograms": loop(
        "rlnTomoName rlnTomoReconstructedTomogram", ["a b"]
    ),
    "a.star: 0 tables with coordinates; it has images but no coordinates": loop("rlnImageName", ["a.mrc"]),
    "a.star: no column rlnCoordinateZ; found": loop("rlnMicrographName rlnCoordinateX rlnCoordinateY", ["a 1 2"]),
    "a.star, row 2: rlnCoordinateY 'two'; expected a number": loop(RUN, ["a 1 2 3", "a 1 two 3"]),
    "a.star, row 1: rlnClassNumber '1.5'; expected a whole number": loop(f"{RUN} rlnClassNumber", ["a 1 2 3 1.5"]),
    "a.star: holds no row": loop(RUN, []),
    "a.star: optics group 2 of the particles is not in data_optics": loop("rlnOpticsGroup", ["1"], "optics")
    + loop(f"{RUN} rlnOpticsGroup", ["a 1 2 3 2"], "particles"),
    "a.star: columns wrpCoordinate: 2 of X, 1 of Y, 1 of Z; expected as many": loop(
        "wrpCoordinateX1 wrpCoordinateX2 wrpCoordinateY1 wrpCoordinateZ1", ["1 2 3 4"]
    ),
    "a.json: no key pickable_object_name": '{"run_name": "a", "points": []}',
    "a.json: not a copick file of picks": '{"pickable_object_name": "a", "run_name": "a", "points": [{}]}',
    "a.json: unit 'nanometer'; expected angstrom": '{"pickable_object_name": "a", "run_name": "a", "points": [], '
    '"unit": "nanometer"}',
    "a.json: holds no row": '{"pickable_object_name": "a", "run_name": "a", "points": null}',
    "a.coords: holds no row": "\n",
    "a.csv: no column z; found x, y": "x,y\n1,2\n",
    "a.tbl: rows of [2, 3] values": "1 2\n1 2 3\n",
    "a.tbl: 2 tomograms and 0 table maps": "\n".join(" ".join(["1"] * 19 + [n] + ["1"] * 16) for n in "12"),
    "a.coords: 'x'; expected numbers alone": "1 2 x\n",
    "a.txt: coordinates in a .txt file; expected one of .star": "1 2 3\n",
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_coordinates_is_refused_in_one_line(message, tmp_path):
    path = tmp_path / re.match(r"a\.\w+", message)[0]
    path.write_text(BAD[message])
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        read_all([str(path)])
    assert "\n" not in str(refused.value)


def test_a_flavour_or_pixel_size_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(InputError, match="--flavour imod: expected one of relion3"):
        read_picks(picks.relion3(tmp_path)[0], "imod")
    with pytest.raises(InputError, match=r"picks\.tbl: --flavour csv: a \.tbl file is of the dynamo flavour"):
        read_picks(picks.dynamo(tmp_path)[0], "csv")
    with pytest.raises(InputError, match="--pixel-size 5: coordinates of the relion5 flavour are in A"):
        read_picks(picks.relion5(tmp_path)[0], pixel_size=5.0)
    with pytest.raises(InputError, match=r"none\.star: no such file"):
        read_picks(tmp_path / "none.star")


def test_of_many_tables_without_places_a_message_names_the_first_ones(tmp_path):
    text = "".join(loop("rlnTomoXTilt rlnDefocusU", ["1 2"], f"TS_{number}") for number in range(60))
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(InputError) as refused:
        read_picks(tmp_path / "a.star")
    said = str(refused.value)
    assert "found data_TS_0 (rlnTomoXTilt, rlnDefocusU), data_TS_1 (" in said and said.endswith("and 57 more")
