"""What predict.py takes: files, stacks, folders and tables become rows, and keep what their source tells of them."""

import os

import mrcfile
import numpy as np
import pandas as pd
import pytest

from common.cli import InputError
from loader.volume import write_volume
from prediction.inputs import Inputs, find_inputs
from tests.picks import loop

SIDE = 4
COPIES = (("data1", "003"), ("data2", "inf"))  # folders of an SNR each


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with TS_01.mrcs, a stack of five volumes, which is also the current one."""
    volumes = np.random.default_rng(0).normal(size=(5, SIDE, SIDE, SIDE)).astype(np.float32)
    with mrcfile.new(tmp_path / "TS_01.mrcs") as mrc:
        mrc.set_data(volumes)
        mrc.voxel_size = 10.0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def columns(inputs: Inputs, *names: str) -> list[tuple[str, ...]]:
    return list(zip(*(inputs.table[name] for name in names), strict=True))


def test_a_stack_stands_for_all_of_its_volumes_given_or_in_a_folder(lab):
    expected = [f"{number}@{lab}/TS_01.mrcs" for number in range(1, 6)]
    assert list(find_inputs(["TS_01.mrcs"]).table["Input Data"]) == expected
    assert list(find_inputs(["."]).table["Input Data"]) == expected
    assert list(find_inputs(["2@TS_01.mrcs"]).table["Input Data"]) == expected[1:2]


def test_a_volume_with_the_suffix_of_a_stack_is_one_volume(lab):
    write_volume(lab / "one.mrcs", np.zeros((SIDE,) * 3, np.float32), 10.0)
    assert list(find_inputs(["one.mrcs"]).table["Input Data"]) == [f"{lab}/one.mrcs"]


def test_the_folder_of_extract_is_told_to_give_its_table(lab):
    (lab / "particles.csv").write_text("Input Data\n1@TS_01.mrcs\n")
    with pytest.raises(InputError, match=r"^\.: TS_01\.mrcs in it is a stack of 5 volumes; particles\.csv .* give"):
        find_inputs(["."])


def test_a_star_of_relion31_keeps_its_rows_names_sizes_and_places(lab):
    labels = "rlnImageName rlnMicrographName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnOriginXAngst"
    labels += " rlnOriginYAngst rlnOriginZAngst rlnOpticsGroup"
    rows = [f"{n}@TS_01.mrcs 00{n}.tomostar {n}.0 20.0 30.0 5.0 -5.0 0.0 1" for n in (3, 1)]
    optics = loop("rlnOpticsGroup rlnImagePixelSize", ["1 10.0"], "optics")
    (lab / "run.star").write_text(optics + loop(labels, rows, "particles"))
    found = find_inputs(["run.star", "5@TS_01.mrcs"])
    source = str(lab / "run.star")
    assert columns(found, "Input Data", "Tomogram", "Particle", "Source File", "Source Row") == [
        (f"3@{lab}/TS_01.mrcs", "003.tomostar", "3@TS_01.mrcs", source, "1"),
        (f"1@{lab}/TS_01.mrcs", "001.tomostar", "1@TS_01.mrcs", source, "2"),
        (f"5@{lab}/TS_01.mrcs", "", "", "", ""),
    ]
    places = found.table[["Position Z", "Position Y", "Position X"]][:2].astype(float)
    np.testing.assert_allclose(places, [[300, 205, 25], [300, 205, 5]])  # coordinate x 10 A, less the origin
    assert [found[row].voxel_size for row in range(3)] == [10.0, 10.0, None]
    assert [given.voxel_size for given in find_inputs(["run.star"], voxel_size=8.0)] == [8.0, 8.0]


def test_a_star_of_warp_and_one_without_coordinates_are_read(lab):
    rows = [f"{n}.0 20.0 30.0 TS_01.tomostar 10000.0 7.0 {n}@TS_01.mrcs 7.0" for n in (1, 2)]
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnMicrographName rlnMagnification rlnDetectorPixelSize"
    (lab / "warp.star").write_text(loop(f"{labels} rlnImageName rlnPixelSize", rows))
    found = find_inputs(["warp.star"])
    assert columns(found, "Tomogram", "Position X") == [("TS_01.tomostar", "7.0"), ("TS_01.tomostar", "14.0")]
    (lab / "bare.star").write_text(loop("rlnImageName", ["2@TS_01.mrcs"]))
    found = find_inputs(["bare.star"])
    assert columns(found, "Input Data", "Position X", "Source Row") == [(f"2@{lab}/TS_01.mrcs", "", "1")]


def test_a_csv_tells_its_own_rows_or_those_that_it_was_made_from(lab):
    (lab / "own.csv").write_text("Input Data,Tomogram\n1@TS_01.mrcs,a\n2@TS_01.mrcs,b\n")
    found = find_inputs(["own.csv"])
    assert columns(found, "Tomogram", "Source File", "Source Row") == [
        ("a", str(lab / "own.csv"), "1"),
        ("b", str(lab / "own.csv"), "2"),
    ]
    rows = {"Input Data": "1@TS_01.mrcs", "Source File": "/picks/run.star", "Source Row": "17", "Position Z": "3.5"}
    pd.DataFrame([rows]).to_csv(lab / "extracted.csv", index=False)
    found = find_inputs(["extracted.csv"])
    assert columns(found, "Source File", "Source Row", "Position Z") == [("/picks/run.star", "17", "3.5")]


def test_copies_at_several_snrs_are_told_by_the_paths_of_the_original_layout_unless_a_table_says_more(lab):
    files = [f"{part}_SNR{snr}/subtomogram_mrc/tomotarget{n}.mrc" for n in (0, 1) for part, snr in COPIES]
    for name in files:
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(lab / name, np.zeros((SIDE,) * 3, np.float32), 10.0)
    (lab / "TS_01.mrcs").unlink()
    told = find_inputs(["."]).table.sort_values("Input Data")
    particles, levels = (dict(zip(told["Input Data"], told[name], strict=True)) for name in ("Particle", "SNR Level"))
    assert [particles[f"{lab}/{name}"] for name in files] == [f"{lab}/tomotarget{n}.mrc" for n in (0, 0, 1, 1)]
    assert [levels[f"{lab}/{name}"] for name in files] == ["003", "infinity"] * 2
    rows = [f"{files[0]},,", f"{files[1]},p,1.5", "other.mrc,,"]
    write_volume(lab / "other.mrc", np.zeros((SIDE,) * 3, np.float32), 10.0)
    (lab / "own.csv").write_text("\n".join(["Input Data,Particle,SNR Level", *rows, ""]))
    expected = [(f"{lab}/tomotarget0.mrc", "003"), ("p", "1.5"), ("", "")]
    assert columns(find_inputs(["own.csv"]), "Particle", "SNR Level") == expected


def test_some_inputs_are_taken_with_all_that_belongs_to_them(lab):
    (lab / "own.csv").write_text("Input Data,Voxel Size\n1@TS_01.mrcs,8\n2@TS_01.mrcs,\n3@TS_01.mrcs,9\n")
    some = find_inputs(["own.csv"]).take(np.array([2, 0]))
    assert [(given.address[:2], given.voxel_size) for given in some] == [("3@", 9.0), ("1@", 8.0)]
    assert list(some.table.index) == [0, 1] and list(some.table["Source Row"]) == ["3", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            loop("rlnCoordinateX rlnCoordinateY", ["1 2"], "particles"),
            r"which names the volumes; found data_particles: rlnCoordinateX, rlnCoordinateY; .* extract\.py",
        ),
        (loop("rlnTomoName", ["a"]), r"0 tables with rlnImageName, .*; found data_: rlnTomoName$"),
        ("\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n", "2-D stacks of tilts"),
        (loop("rlnImageName", ["9@none.mrcs"]), r"row 1: 9@none\.mrcs: no such file in any of /"),
    ],
)
def test_a_star_that_names_no_volume_says_what_is_in_it(lab, text, message):
    (lab / "a.star").write_text(text)
    with pytest.raises(InputError, match=message):
        find_inputs(["a.star"])


def test_rows_of_a_table_whose_file_is_not_there_are_kept_in_their_place(lab):
    (lab / "job").mkdir()
    names = ["1@none.mrcs", "2@TS_01.mrcs", "none.mrc"]
    (lab / "job" / "a.star").write_text(loop("rlnImageName", names))
    expected = [f"1@{lab}/none.mrcs", f"2@{lab}/TS_01.mrcs", f"{lab}/none.mrc"]
    assert columns(find_inputs(["job/a.star"]), "Input Data", "Source Row") == list(zip(expected, "123", strict=True))
    (lab / "a.csv").write_text("\n".join(["Input Data,Particle", *(f"{name},p" for name in [*names, ""]), ""]))
    found = columns(find_inputs(["a.csv"]), "Input Data", "Source Row")
    assert found == list(zip([*expected, ""], "1234", strict=True))


def test_the_first_row_whose_file_is_anywhere_tells_the_folder_of_a_star(lab):
    for folder in ("job", "other"):
        (lab / folder).mkdir()
        write_volume(lab / folder / "late.mrc", np.zeros((SIDE,) * 3, np.float32), 10.0)
    (lab / "job" / "a.star").write_text(loop("rlnImageName", ["none.mrc", "2@TS_01.mrcs", "late.mrc"]))
    found = find_inputs(["job/a.star"]).table["Input Data"]
    assert list(found) == [f"{lab}/none.mrc", f"2@{lab}/TS_01.mrcs", f"{lab}/late.mrc"]


def test_a_name_that_is_nowhere_is_told_with_the_folder_it_was_looked_for_in(lab):
    with pytest.raises(InputError, match=f"^new: no such file or folder in {os.getcwd()}; expected an MRC file, "):
        find_inputs(["new"])
