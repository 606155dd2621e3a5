"""Predictions in STAR files: every row of the source as it was, what is said of it beside, one file per class."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

import extract
import predict
from loader.star import read_star
from loader.volume import read_volume
from prediction.enrol import Enrolling
from prediction.inputs import COLUMNS, Inputs
from prediction.predicted import Predicted
from prediction.star import class_numbers, write_stars
from tests import picks

CLASSES = ["ribosome", "big class"]
STAR_WRITERS = [
    write for write in picks.WRITERS if write not in (picks.tomotwin_coords, picks.copick, picks.dynamo, picks.csv)
]
OURS = {"rlnClassNumber", "rlnAutopickFigureOfMerit", "lmcclGivenClassNumber"}


def predicted_rows(*sources: tuple[Path, list[int]], clusters: bool = False) -> Predicted:
    """Predictions of rows (from 1) of STAR files, in turn ribosome, big class, unknown."""
    rows = [(str(path), str(row)) for path, places in sources for row in places]
    names = [[*CLASSES, "unknown"][number % 3] for number in range(len(rows))]
    known = {"Input Data": "a.mrc", "Source File": [path for path, _ in rows], "Source Row": [row for _, row in rows]}
    inputs = Inputs(pd.DataFrame({name: known.get(name, "") for name in COLUMNS}), np.full(len(rows), np.nan))
    scores = 0.5 + 0.01 * np.arange(len(rows))
    table = pd.DataFrame({"Prediction": names, "Score": scores, "Nearest Class": "big class", "Nearest Cosine": scores})
    if clusters:
        table["Cluster"] = ["cluster_1" if name == "unknown" else "" for name in names]
    return Predicted(table, np.zeros((len(rows), 2)), inputs, None, {"classes": CLASSES})


def relion_table(path: Path, name: str) -> list[dict[str, str]]:
    """A table as RELION 5 reads it: the first block of that name; a label ends before `#`; an empty line ends it."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    lines = lines[
        next(number for number, line in enumerate(lines) if "data_" in line and line.partition("data_")[2] == name) :
    ]
    lines = lines[lines.index("loop_") + 1 :]
    labels = [line[1 : line.index("#") - 1] for line in lines if line.startswith("_")]
    rows = [line.split() for line in lines[len(labels) :]]
    rows = rows[: next(number for number, row in enumerate(rows) if not row)]
    assert {len(row) for row in rows} == {len(labels)}
    return [dict(zip(labels, row, strict=True)) for row in rows]


def warp_table(path: Path, name: str) -> list[dict[str, str]]:
    """A table as Warp reads it: values are what white space parts; a row of another length ends it."""
    lines = path.read_text().splitlines()
    if name:
        lines = lines[next(number for number, line in enumerate(lines) if line.startswith(f"data_{name}")) :]
    lines = lines[next(number for number, line in enumerate(lines) if "loop_" in line) + 1 :]
    labels = {}
    while not lines[0] or lines[0][0] == "_":
        parts = lines.pop(0).split()
        if parts:
            labels[int(parts[1][1:]) - 1] = parts[0][1:]
    rows = []
    while lines and len(lines[0].split()) == len(labels):
        rows.append({labels[number]: value for number, value in enumerate(lines.pop(0).split())})
    return rows


def source_block(blocks: dict) -> str:
    """The particles' block."""
    return "particles" if "particles" in blocks else ""


@pytest.mark.parametrize("write", STAR_WRITERS, ids=lambda write: write.__name__)
def test_all_of_the_source_comes_back_text_for_text_and_every_row_is_in_one_class(write, tmp_path):
    sources = write(tmp_path)
    counts = [len(read_star(path)[source_block(read_star(path))]) for path in sources]
    out = tmp_path / "out"
    names, notes = write_stars(
        out, predicted_rows(*((path, list(range(1, n + 1))) for path, n in zip(sources, counts, strict=True)))
    )
    assert sorted(names[:-1]) == sorted(path.name for path in out.glob("*.star")) and names[-1] == "stars"
    assert len(names) - 1 == len(sources)
    for path, name in zip(sources, names[:-1], strict=True):
        before, after = read_star(path), read_star(out / name)
        block = source_block(before)
        assert list(after) == list(before)
        assert all(after[other] == before[other] for other in before if isinstance(before[other], dict))
        for other in {*before} - {block}:
            if isinstance(before[other], pd.DataFrame):
                pd.testing.assert_frame_equal(after[other], before[other])
        kept = after[block].copy()
        if "rlnClassNumber" in before[block]:
            kept["rlnClassNumber"] = kept["lmcclGivenClassNumber"]
            assert any("rlnClassNumber" in note and str(path) in note for note in notes)
        pd.testing.assert_frame_equal(kept[list(before[block])], before[block])
        added = [label for label in kept if label not in before[block]]
        assert all(label in OURS or label.startswith("lmccl") for label in added)
        assert "# version" in (out / name).read_text() or "# version" not in path.read_text()

        prefix = "" if len(sources) == 1 else name.removeprefix("predictions_").removesuffix(".star") + "_"
        parts = [read_star(part) for part in sorted((out / "stars").glob(f"{prefix}class*.star"))]
        assert all(list(part) == list(before) for part in parts)
        together = pd.concat([part[block] for part in parts])
        key = ["lmcclScore"]  # unlike in every row
        expected = after[block].sort_values(key).reset_index(drop=True)
        pd.testing.assert_frame_equal(together.sort_values(key).reset_index(drop=True), expected)
        for part in (out / name, *(out / "stars").glob(f"{prefix}class*.star")):
            text = read_star(part)[block].to_dict("records")
            assert warp_table(part, block) == text
            assert relion_table(part, block) == text
            found = starfile.read(part, always_dict=True)[block]
            assert found["rlnClassNumber"].tolist() == [int(row["rlnClassNumber"]) for row in text]


def test_numbers_names_and_scores_stand_in_the_rows_of_the_particles(tmp_path):
    (source,) = picks.relion31(tmp_path)
    predicted = predicted_rows((source, [5, 2, 1]))  # of five rows
    assert class_numbers(predicted) == {"ribosome": 1, "big class": 2, "unknown": 3}
    write_stars(tmp_path, predicted)
    table = read_star(tmp_path / "predictions.star")["particles"]
    assert list(table["rlnClassNumber"]) == ["3", "2", "0", "0", "1"]
    assert list(table["lmcclGivenClassNumber"]) == ["1", "2", "1", "2", "1"]
    assert list(table["lmcclClass"]) == ["unknown", "big_class", "not_predicted", "not_predicted", "ribosome"]
    assert list(table["lmcclNearestClass"]) == ["big_class", "big_class", "none", "none", "big_class"]
    assert list(table["lmcclScore"]) == ["0.520000", "0.510000", "0", "0", "0.500000"]
    assert list(table["rlnAutopickFigureOfMerit"]) == list(table["lmcclScore"])
    files = {path.name: len(read_star(path)["particles"]) for path in (tmp_path / "stars").iterdir()}
    assert files == {
        "class000_not_predicted.star": 2,
        "class001_ribosome.star": 1,
        "class002_big_class.star": 1,
        "class003_unknown.star": 1,
    }


def test_a_figure_of_merit_of_the_source_stays_and_other_predictions_have_numbers_of_their_own(tmp_path):
    sources = picks.warp_match(tmp_path)
    predicted = predicted_rows((sources[0], [1, 2, 3]))
    predicted.table["Prediction"] = ["junk", "unknown", "ribosome"]
    assert class_numbers(predicted) == {"ribosome": 1, "big class": 2, "unknown": 3, "junk": 4}
    write_stars(tmp_path / "out", predicted)
    table = read_star(tmp_path / "out" / "predictions.star")[""]
    assert list(table["rlnAutopickFigureOfMerit"]) == ["6.5"] * 3 and "0.500000" in table["lmcclScore"].tolist()
    assert list(table["rlnClassNumber"]) == ["4", "3", "1"] and "lmcclGivenClassNumber" not in table


def test_each_cluster_has_a_file(tmp_path):
    (source,) = picks.m(tmp_path)
    write_stars(tmp_path, predicted_rows((source, [1, 2, 3, 4, 5]), clusters=True))
    table = read_star(tmp_path / "predictions.star")[""]
    assert list(table["lmcclCluster"]) == ["none", "none", "cluster_1", "none", "none"]
    assert read_star(tmp_path / "stars" / "cluster_1.star")[""].equals(table[2:3].reset_index(drop=True))


def test_predictions_of_predictions_replace_them_and_keep_the_first_class_numbers(tmp_path):
    (source,) = picks.relion31(tmp_path)
    write_stars(tmp_path / "a", predicted_rows((source, [1, 2, 3, 4, 5])))
    first = tmp_path / "a" / "predictions.star"
    _, notes = write_stars(tmp_path / "b", predicted_rows((first, [3, 4, 5, 1, 2])))
    found, before = (read_star(path)["particles"] for path in (tmp_path / "b" / "predictions.star", first))
    assert list(found) == list(before)
    assert list(found["lmcclGivenClassNumber"]) == list(before["lmcclGivenClassNumber"])
    assert list(found["rlnClassNumber"]) == ["1", "2", "1", "2", "3"]
    assert "lmcclClass, of an earlier prediction, which is replaced" in notes[0]


def test_files_of_before_go_and_a_source_that_has_changed_is_said(tmp_path):
    (source,) = picks.relion5(tmp_path)
    write_stars(tmp_path / "out", predicted_rows((source, [1, 2])))
    other = picks.tomotwin(tmp_path)
    names, notes = write_stars(tmp_path / "out", predicted_rows(*((path, [1, 2]) for path in other)))
    stars = sorted(path.name for path in (tmp_path / "out" / "stars").iterdir())
    assert not (tmp_path / "out" / "predictions.star").exists() and len(names) == 3 and not notes
    assert stars[0] == "TS_01_cluster_0_relion3_class000_not_predicted.star" and len(stars) == 5
    names, notes = write_stars(tmp_path / "out", predicted_rows((source, [1, 9])))
    assert names == [] and "has 5 rows; the particles are of rows up to 9" in notes[0]
    assert not list((tmp_path / "out").rglob("*.star"))
    source.unlink()
    assert "not a readable STAR file" in write_stars(tmp_path / "out", predicted_rows((source, [1])))[1][0]


def test_files_of_one_name_from_two_folders_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picks.m(tmp_path / folder)
    both = predicted_rows(*((tmp_path / folder / "m.star", [1]) for folder in ("a", "b")))
    assert write_stars(tmp_path, both)[0] == ["predictions_m.star", "predictions_m_2.star", "stars"]


def test_a_star_of_volumes_and_one_of_coordinates_come_back_with_their_classes(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "draw", lambda *_: False)
    volumes = sorted((trained / "data_").glob("data1_SNR*/subtomogram_mrc/*.mrc"))[:4]
    (tmp_path / "run.star").write_text(
        picks.loop("rlnImageName rlnText", [f"{name} 00{n}" for n, name in enumerate(volumes)])
    )
    picks.write_tomogram(tmp_path / "TS_01.mrc", picks.blobs(picks.PLACES["TS_01"]))
    (tmp_path / "picks.star").write_text(
        picks.loop(
            "rlnMicrographName rlnCoordinateX rlnCoordinateY rlnCoordinateZ", ["TS_01.mrc 1 1 1", "TS_01.mrc 24 20 12"]
        )
    )
    cut = {"tomograms": (str(tmp_path / "TS_01.mrc"),), "out": str(tmp_path / "cut"), "box": 16}
    extract.main(extract.Config((str(tmp_path / "picks.star"),), **cut))
    inputs = (str(tmp_path / "run.star"), str(tmp_path / "cut" / "particles.csv"))
    predict.main(
        predict.Config(str(trained / "model_save/checkpoint.pt"), inputs, results_dir=str(tmp_path / "r"), device="cpu")
    )
    folder = tmp_path / "r" / "model_save-checkpoint" / "predict"
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    numbers = json.loads((folder / "predictions.json").read_text())["class_numbers"]
    expected = table["Prediction"].map(numbers).astype(str).tolist()
    assert len(expected) == 5
    assert list(read_star(folder / "predictions_run.star")[""]["rlnClassNumber"]) == expected[:4]
    assert list(read_star(folder / "predictions_picks.star")[""]["rlnClassNumber"]) == ["0", expected[4]]


@pytest.mark.parametrize("kind", ["star", "csv"])
@pytest.mark.parametrize("missing", [0, 2])
def test_a_volume_that_is_not_there_is_listed_and_the_others_are_predicted(
    kind, missing, trained, tmp_path, monkeypatch
):
    for name in ("draw", "draw_page"):
        monkeypatch.setattr(predict, name, lambda *_: False)
    volumes = sorted((trained / "data_").glob("data1_SNR*/subtomogram_mrc/*.mrc"))[:3]
    names = list(map(str, volumes))
    names.insert(missing, f"{tmp_path}/none.mrc")
    source = tmp_path / f"run.{kind}"
    source.write_text(picks.loop("rlnImageName", names) if kind == "star" else "\n".join(["Input Data", *names, ""]))
    checkpoint = str(trained / "model_save/checkpoint.pt")
    call = predict.Config(checkpoint, (str(source),), results_dir=str(tmp_path / "r"), device="cpu")
    with pytest.raises(SystemExit) as end:
        predict.main(call)
    assert end.value.code == 3
    folder = tmp_path / "r" / "model_save-checkpoint" / "predict"
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    assert list(table["Input Data"]) == list(map(str, volumes))
    failed = pd.read_csv(folder / "failed.csv", dtype=str).to_dict("records")
    none = f"{tmp_path}/none.mrc"
    row = {"Source File": str(source), "Source Row": str(missing + 1)}
    assert failed == [{"Input Data": none, **row, "Reason": f"{none}: no such file"}]
    if kind == "star":
        numbers = json.loads((folder / "predictions.json").read_text())["class_numbers"]
        expected = table["Prediction"].map(numbers).astype(str).tolist()
        expected.insert(missing, "0")
        written = read_star(folder / "predictions.star")[""]
        assert list(written["rlnImageName"]) == names and list(written["rlnClassNumber"]) == expected
        assert written["lmcclClass"][missing] == "not_predicted"
        left_out = read_star(folder / "stars" / "class000_not_predicted.star")[""]
        assert list(left_out["rlnImageName"]) == [none]

    (tmp_path / "none.mrc").write_bytes(volumes[0].read_bytes())
    predict.main(call)
    assert not (folder / "failed.csv").exists() and len(pd.read_csv(folder / "predictions.csv")) == 4


def test_structures_are_enrolled_at_the_voxel_size_of_the_volumes_that_are_there(trained, tmp_path, monkeypatch):
    for name in ("draw", "draw_page"):
        monkeypatch.setattr(predict, name, lambda *_: False)
    seen = []
    monkeypatch.setattr(
        predict, "enrolled", lambda known, *others: (known, seen.append(others[-1].of_data), "")
    )  # enrolment itself is tested elsewhere
    monkeypatch.setattr(predict, "enrolment_text", lambda *_: "")
    volume = next((trained / "data_").glob("data1_SNR*/subtomogram_mrc/*.mrc"))
    (tmp_path / "run.csv").write_text(f"Input Data\nnone.mrc\n{volume}\n")
    call = predict.Config(
        str(trained / "model_save/checkpoint.pt"),
        (str(tmp_path / "run.csv"),),
        results_dir=str(tmp_path / "r"),
        enrolling=Enrolling(enrol=(f"new={volume.parent}",)),
        device="cpu",
    )
    with pytest.raises(SystemExit):
        predict.main(call)
    assert seen == [read_volume(volume)[1]] and seen[0] > 0
