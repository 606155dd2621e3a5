"""Class numbers that are missing, 0 or no numbers: extract.py and predict.py read them, or say in a line why not."""

from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from loader.columns import LABEL, SOURCE_ROW
from loader.star import read_star, write_star
from tests import picks
from tests.scripts import call_script, refuse, succeed

STAR_WRITERS = [
    write for write in picks.WRITERS if write not in (picks.tomotwin_coords, picks.copick, picks.dynamo, picks.csv)
]
MISSING = ["nan", "0", "<NA>", "3", ""]  # a row each
SIDE = 16  # voxels


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tomograms")
    for name, places in picks.PLACES.items():
        picks.write_tomogram(folder / f"{name}.mrc", picks.blobs(places))
    return folder


def with_classes(path: Path, values: list[str]) -> list[str]:
    """Give the particles of a file these class numbers, in turn; returns those of each row."""
    blocks = read_star(path)
    (block,) = (name for name, table in blocks.items() if isinstance(table, pd.DataFrame) and name != "optics")
    told = [values[number % len(values)] for number in range(len(blocks[block]))]
    write_star(path, {**blocks, block: blocks[block].assign(rlnClassNumber=told)})
    return told


def predict(trained: Path, folder: Path, *inputs: Path) -> Path:
    """The folder of the predictions."""
    options = ("--results-dir", folder / "results", "--device", "cpu", "--no-page")
    succeed("predict.py", trained / "model_save/checkpoint.pt", *inputs, *options, cwd=folder)
    return folder / "results" / "model_save-checkpoint" / "predict"


@pytest.mark.usefixtures("empty_pictures")
@pytest.mark.parametrize("write", STAR_WRITERS, ids=lambda write: write.__name__)
def test_every_programs_missing_classes_are_none_and_come_back_text_for_text(write, trained, tomograms, tmp_path):
    sources = write(tmp_path)
    told = {str(path): with_classes(path, MISSING) for path in sources}
    options = ("--coordinates", *sources, "--tomograms", tomograms, "--box", picks.SIDE, "--out", tmp_path / "cut")
    options = (*options, "--edge", "pad")
    assert "nothing is written" in succeed("extract.py", *options, "--dry-run", cwd=tmp_path)
    succeed("extract.py", *options, cwd=tmp_path)
    table = pd.read_csv(tmp_path / "cut" / "particles.csv", dtype=str, keep_default_na=False)
    pairs = list(zip(table["Source File"], table[SOURCE_ROW].astype(int), strict=True))
    assert sorted(pairs) == sorted((path, row) for path in told for row in range(1, len(told[path]) + 1))
    names = {"nan": "", "<NA>": "", "": "", "0": "class000", "3": "class003"}
    assert list(table[LABEL]) == [names[told[path][row - 1]] for path, row in pairs]
    assert list(table["rlnClassNumber"]) == [told[path][row - 1] for path, row in pairs]

    out = predict(trained, tmp_path, tmp_path / "cut" / "particles.csv")
    for path in sources:
        name = "predictions.star" if len(sources) == 1 else f"predictions_{path.stem}.star"
        before, after = read_star(path), read_star(out / name)
        (block,) = (name for name, block in after.items() if "lmcclClass" in block)
        assert list(after[block]["lmcclGivenClassNumber"]) == told[str(path)]
        assert all(number.isdigit() and int(number) for number in after[block]["rlnClassNumber"])
        kept = before[block].drop(columns="rlnClassNumber")
        pd.testing.assert_frame_equal(after[block][list(kept)], kept)


def volumes(folder: Path, flavour: str) -> tuple[Path, list[str]]:
    """A STAR file of three volumes as a program writes it, with places, its class numbers written by starfile."""
    stack = np.random.default_rng(0).normal(size=(3, SIDE, SIDE, SIDE)).astype(np.float32)
    with mrcfile.new(folder / "a.mrcs") as mrc:
        mrc.set_data(stack)
        mrc.voxel_size = 20.0
    table = pd.DataFrame({"rlnImageName": [f"{n}@a.mrcs" for n in (1, 2, 3)], "rlnClassNumber": [1.0, None, 0.0]})
    table = table.astype({"rlnClassNumber": "Int64"})
    table[["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]] = 5.0
    if flavour == "relion31":
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [20.0]})
        blocks = {"optics": optics, "particles": table.assign(rlnOpticsGroup=1, rlnMicrographName="TS_01.mrc")}
    elif flavour == "relion4":
        optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [20.0], "rlnTomoTiltSeriesPixelSize": [2.5]})
        blocks = {"optics": optics, "particles": table.assign(rlnOpticsGroup=1, rlnTomoName="TS_01")}
    else:  # WarpTools
        own = {"rlnMicrographName": "TS_01.tomostar", "rlnMagnification": 10000.0, "rlnPixelSize": 20.0}
        blocks = {"": table.assign(**own, rlnDetectorPixelSize=20.0)}
    starfile.write(blocks, folder / "run.star")
    return folder / "run.star", ["1", "<NA>", "0"]


@pytest.mark.usefixtures("empty_pictures")
@pytest.mark.parametrize("flavour", ["relion31", "relion4", "warp-export"])
def test_volumes_without_a_class_are_predicted_and_keep_what_stood_there(flavour, trained, tmp_path):
    path, told = volumes(tmp_path, flavour)
    out = predict(trained, tmp_path, path)
    (table,) = (block for block in read_star(out / "predictions.star").values() if "lmcclClass" in block)
    assert list(table["lmcclGivenClassNumber"]) == told
    told = with_classes(path, ["ribosome", "1.5", "two words"])
    out = predict(trained, tmp_path, path)
    (table,) = (block for block in read_star(out / "predictions.star").values() if "lmcclClass" in block)
    assert list(table["lmcclGivenClassNumber"]) == told
    assert len(pd.read_csv(out / "predictions.csv")) == 3


@pytest.mark.parametrize("text", ["ribosome", "1.5", "two words", "inf", "1e3"])
def test_extract_refuses_a_class_number_that_is_text_in_one_line(text, tomograms, tmp_path):
    (path,) = picks.relion31(tmp_path)
    with_classes(path, ["nan", text])
    for option in ("--dry-run", "--no-dry-run"):
        said = refuse(
            "extract.py", "--coordinates", path, "--tomograms", tomograms, "--out", tmp_path / "o", option, cwd=tmp_path
        )
        assert f"run_data.star, row 2: rlnClassNumber {text!r}; expected a whole" in said
    assert not (tmp_path / "o").exists()


def test_a_table_of_dynamo_whose_classes_are_missing_is_read_or_refused(tomograms, tmp_path):
    (path,) = picks.dynamo(tmp_path)
    rows = [line.split() for line in path.read_text().splitlines()]
    for row, text in zip(rows, ["nan", "0", "3.0", "1e0", "2"], strict=True):
        row[21] = text
    path.write_text("\n".join(map(" ".join, rows)) + "\n")
    options = ("--coordinates", path, "--tomograms", tomograms, "--box", picks.SIDE, "--out", tmp_path / "cut")
    succeed("extract.py", *options, cwd=tmp_path)
    table = pd.read_csv(tmp_path / "cut" / "particles.csv", dtype=str, keep_default_na=False)
    assert list(table[LABEL]) == ["", "class000", "class003", "class001", "class002"]
    rows[1][21] = "1.5"
    path.write_text("\n".join(map(" ".join, rows)) + "\n")
    done = call_script("extract.py", *options, "--overwrite", cwd=tmp_path)
    assert done.returncode == 2 and "picks.tbl, row 2: class '1.5'; expected a whole number" in done.stderr
