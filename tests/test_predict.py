"""predict.py on real files: the answers of the library, whatever the volumes are called, cut to or sampled on."""

import json
import os
import re
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

import predict
from common.cli import InputError
from evaluation.rejection import calibrate, calibrated_score, classify
from loader.dataset import load_split
from loader.prepare import Input, prepare
from loader.rows import read_split
from loader.volume import read_volume, write_volume
from model import embed, load_checkpoint, load_model
from physics.resample import fourier_resample
from prediction.inputs import find_inputs
from tests.scripts import refuse, succeed

BOX, VOXEL_SIZE = 16, 20.0  # of the training volumes
COUNT = 6  # volumes of most tests


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    """The trained checkpoint, its batch statistics and calibration those of the whole of train.csv.

    After so few steps the running statistics hardly let one volume differ from another.
    """
    model, content = load_model(trained / "model_save" / "checkpoint.pt", torch.device("cpu"))
    split, valid = (
        load_split(trained / "csv_split" / f"{name}.csv", content["preprocessing"]) for name in ("train", "valid")
    )
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm3d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(split.images.float())
    model.eval()
    embedded = [(embed(model, part.images, torch.device("cpu")), part.labels.numpy()) for part in (split, valid)]
    content = load_checkpoint(trained / "model_save" / "checkpoint.pt")
    content["calibration"] = calibrate(*embedded, len(content["classes"]), 0.5).content()
    content["state_dict"] = model.state_dict()
    return saved(content, tmp_path_factory.mktemp("checkpoint"))


def saved(content: dict, folder: Path) -> Path:
    """A checkpoint in a folder of its own."""
    path = folder / "model_save" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(content, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def without_pictures():
    """In this process: they take longer than the predictions. Where predict.py runs as a process, it draws."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw", "draw_page"):
            patch.setattr(predict, name, lambda *_: True)
        yield


@pytest.fixture(scope="module")
def files(trained):
    """Two noise-free volumes of each class of test.csv, not in the order of their names."""
    rows = read_split(trained / "csv_split" / "test.csv")
    chosen = rows[rows["SNR Level"] == "infinity"].groupby("Class").head(COUNT // rows["Class"].nunique())
    return list(chosen["Input Data"])[::-1]


@pytest.fixture(scope="module")
def expected(checkpoint, files, tmp_path_factory):
    """Their predictions."""
    return predicted(tmp_path_factory.mktemp("expected"), checkpoint, *files)


def predicted(folder: Path, checkpoint: Path, *inputs: str | Path, **options: object) -> pd.DataFrame:
    """predictions.csv of a call in this process, its results in `folder`."""
    settings = {"device": "cpu", "results_dir": str(folder), **options}
    predict.main(predict.Config(checkpoint=str(checkpoint), inputs=tuple(map(str, inputs)), **settings))
    return pd.read_csv(folder / "model_save-checkpoint" / "predict" / "predictions.csv", keep_default_na=False)


def same(first: pd.DataFrame, second: pd.DataFrame, atol: float = 1e-5) -> None:
    """The same predictions in the same order, whatever the volumes are called and wherever they are listed."""
    parts = (table.loc[:, "Prediction":"Runner-up Cosine"].reset_index(drop=True) for table in (first, second))
    pd.testing.assert_frame_equal(*parts, rtol=0, atol=atol)


def copies(files: list[str], folder: Path, change, voxel_size: float) -> Path:
    """A folder with a changed copy of each file, their names in the order of `files`."""
    for number, name in enumerate(files):
        write_volume(folder / f"{number}.mrc", change(read_volume(name)[0]), voxel_size)
    return folder


def test_predictions_are_those_of_the_library_in_the_order_of_the_rows(trained, checkpoint):
    output = succeed(
        "predict.py", "model_save/checkpoint.pt", str(trained / "csv_split/test.csv"), cwd=checkpoint.parents[1]
    )
    folder = checkpoint.parents[1] / "results" / "model_save-checkpoint" / "predict"
    table = pd.read_csv(folder / "predictions.csv")

    model, content = load_model(checkpoint, torch.device("cpu"))
    split = load_split(trained / "csv_split" / "test.csv", content["preprocessing"])
    embeddings = embed(model, split.images, torch.device("cpu"))
    class_prototypes = content["calibration"].prototypes
    nearest, cosines = classify(embeddings, class_prototypes)
    names = np.array(content["classes"])
    assert list(table["Input Data"]) == list(split.rows["Input Data"])
    assert set(table["Threshold"]) == {round(content["calibration"].threshold, 6)}
    np.testing.assert_array_equal(table["Score"] >= table["Threshold"], table["Prediction"] != "unknown")
    for column in ("Score", "Nearest Cosine", "Runner-up Cosine"):
        assert pd.read_csv(folder / "predictions.csv", dtype=str)[column].str.fullmatch(r"-?\d\.\d{1,6}").all()
    np.testing.assert_array_equal(table["Nearest Class"], names[nearest])
    np.testing.assert_allclose(table["Nearest Cosine"], cosines, atol=1e-6)
    scores = calibrated_score(embeddings, content["calibration"])
    np.testing.assert_allclose(table["Score"], scores, atol=1e-6)
    assert np.ptp(cosines) > 0.1 and np.ptp(scores) > 0.1  # volumes differ, so that to agree means something
    known = scores >= content["calibration"].threshold
    assert set(known) == {True, False}
    np.testing.assert_array_equal(table["Prediction"], np.where(known, names[nearest], "unknown"))
    order = np.argsort(-(embeddings @ class_prototypes.T), axis=1)
    np.testing.assert_array_equal(table["Runner-up"], names[order[:, 1]])
    assert (table["Nearest Cosine"] >= table["Runner-up Cosine"]).all()

    with np.load(folder / "embeddings.npz") as kept:
        assert kept["embeddings"].dtype == np.float32
        np.testing.assert_allclose(kept["embeddings"], embeddings, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(kept["embeddings"], axis=1), 1, atol=1e-6)
        assert bytes(kept["inputs"]).decode().split("\0") == list(table["Input Data"])
        assert list(np.array([*kept["classes"], "unknown"])[kept["predictions"]]) == list(table["Prediction"])
        assert list(kept["classes"]) == content["classes"]
        assert str(kept["checkpoint"]) == "model_save/checkpoint.pt"
    assert min(imread(folder / "predictions.png").shape[:2]) > 500
    assert f"{len(table)} volumes" not in output  # nothing had to be done to them, so nothing is said
    for name, count in table["Prediction"].value_counts().items():
        assert f"{name} " in output and f" {count} " in output


def test_predictions_say_what_they_were_made_from_and_what_they_replace(checkpoint, files, tmp_path, capsys):
    predicted(tmp_path, checkpoint, *files[:4])
    said = capsys.readouterr().out
    assert "replaces" not in said and "unknown particles; 20 are needed" in said
    folder = tmp_path / "model_save-checkpoint"
    made = json.loads((folder / "predict" / "predictions.json").read_text())
    assert (made["checkpoint"], made["inputs"], made["volumes"]) == (str(checkpoint), files[:4], 4)
    assert made["clusters"]["n"] <= 4 and "20 are needed" in made["clusters"]["reason"]
    predicted(tmp_path, checkpoint, *files[4:], name="second")
    assert "replaces" not in capsys.readouterr().out
    assert len(pd.read_csv(folder / "predict" / "predictions.csv")) == 4
    assert len(pd.read_csv(folder / "second" / "predictions.csv")) == COUNT - 4
    predicted(tmp_path, checkpoint, *files[4:])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "replaces" in line]
    names = f"{', '.join(files[:3])} and 1 more"
    assert line.startswith(
        f"{folder}/predict: replaces the predictions of {names} by {checkpoint}, made {made['made']}"
    )
    (folder / "predict" / "predictions.json").unlink()
    predicted(tmp_path, checkpoint, *files[4:])
    assert "made from what is not recorded" in capsys.readouterr().out


def test_every_name_of_a_volume_gives_the_same(checkpoint, files, expected, tmp_path):
    assert [os.path.basename(name) for name in expected["Input Data"]] == [os.path.basename(name) for name in files]
    folder = copies(files, tmp_path / "new", lambda volume: volume, VOXEL_SIZE)
    with mrcfile.new(tmp_path / "stack.mrcs") as mrc:
        mrc.set_data(np.stack([read_volume(name)[0] for name in files]))
        mrc.voxel_size = VOXEL_SIZE
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "particles.csv"
    pd.DataFrame({"Input Data": [f"../new/{number}.mrc" for number in range(COUNT)]}).to_csv(table, index=False)
    stack = [f"{number}@{tmp_path}/stack.mrcs" for number in range(1, COUNT + 1)]
    for inputs in ([folder], [table], stack, [f"{folder}/0.mrc", *stack[1:3], *files[3:]]):
        found = predicted(tmp_path / "r", checkpoint, *inputs)
        same(found, expected)
    same(predicted(tmp_path / "r", checkpoint, *files[::-1]), expected[::-1])
    written = tmp_path / "r" / "model_save-checkpoint" / "predict" / "predictions.csv"
    same(predicted(tmp_path / "again", checkpoint, written), expected[::-1])


def test_of_a_folder_without_mrc_files_those_below_it_are_taken_but_no_masks(trained):
    found = find_inputs([str(trained / "data_")]).table["Input Data"].tolist()
    assert found == sorted(map(str, (trained / "data_").glob("data*/subtomogram_mrc/*.mrc")))


def test_another_box_is_cut_or_filled(checkpoint, files, expected, tmp_path, capsys):
    larger = copies(files, tmp_path / "larger", lambda volume: np.pad(volume, 3, mode="reflect"), VOXEL_SIZE)
    same(predicted(tmp_path / "r", checkpoint, larger), expected)
    assert f"{COUNT} volumes: box 22 -> 16\n" in capsys.readouterr().out
    smaller = copies(files[:2], tmp_path / "smaller", lambda volume: volume[2:-2, 2:-2, 2:-2], VOXEL_SIZE)
    predicted(tmp_path / "r", checkpoint, smaller, larger)
    assert f"{COUNT} volumes: box 22 -> 16\n2 volumes: box 12 -> 16\n" in capsys.readouterr().out
    image = prepare(
        Input(str(smaller / "0.mrc")), load_model(checkpoint, torch.device("cpu"))[1]["preprocessing"]
    ).image
    assert np.ptp(image[:2]) == 0 and np.ptp(image[2:-2]) > 1


def test_another_voxel_size_is_resampled(checkpoint, files, expected, tmp_path, capsys):
    finer = copies(files, tmp_path / "finer", lambda volume: fourier_resample(volume, 20, 16, 20), 16.0)
    found = predicted(tmp_path / "r", checkpoint, finer)
    assert f"{COUNT} volumes: 16 A resampled to 20 A, box 20 -> 16\n" in capsys.readouterr().out
    same(found, expected, atol=1e-3)
    wrong = copies(files, tmp_path / "wrong", lambda volume: volume, 1.0)
    same(predicted(tmp_path / "r", checkpoint, wrong, voxel_size=VOXEL_SIZE), expected)
    with pytest.raises(InputError, match=r"0\.mrc: 16 voxels of 1 A; .* 16 of 20 A .* give --voxel-size"):
        predicted(tmp_path / "r", checkpoint, wrong)


def test_a_table_may_state_the_voxel_size(checkpoint, files, expected, tmp_path, capsys):
    copies(files, tmp_path, lambda volume: fourier_resample(volume, 20, 16, 20), 1.0)
    rows = {"Input Data": [f"{number}.mrc" for number in range(COUNT)], "Voxel Size": "16"}
    pd.DataFrame(rows).to_csv(tmp_path / "particles.csv", index=False)
    same(predicted(tmp_path / "r", checkpoint, tmp_path / "particles.csv"), expected, atol=1e-3)
    assert "16 A resampled to 20 A" in capsys.readouterr().out


def test_an_unknown_voxel_size_is_taken_as_the_checkpoints_and_said(checkpoint, files, expected, tmp_path, capsys):
    folder = copies(files, tmp_path / "unknown", lambda volume: volume, 0.0)
    same(predicted(tmp_path / "r", checkpoint, folder), expected)
    assert f"{COUNT} volumes: voxel size unknown: taken as the checkpoint's 20 A\n" in capsys.readouterr().out
    content = torch.load(checkpoint, weights_only=True)
    content["preprocessing"]["voxel_size"] = None
    same(predicted(tmp_path / "s", saved(content, tmp_path), *files), expected)
    note = f"{COUNT} volumes: voxel size 20 A, the checkpoint's unknown: taken as the same\n"
    assert note in capsys.readouterr().out


def test_negated_copies_are_warned_of_and_the_originals_are_not(trained, checkpoint, tmp_path, capsys):
    rows = read_split(trained / "csv_split" / "test.csv")
    originals = predicted(tmp_path / "r", checkpoint, *rows["Input Data"])
    assert "the particles look" not in capsys.readouterr().err
    folder = copies(list(rows["Input Data"]), tmp_path / "dark", lambda volume: -volume, VOXEL_SIZE)
    dark = [folder / f"{number}.mrc" for number in range(len(rows))]
    predicted(tmp_path / "r", checkpoint, *dark)
    lines = capsys.readouterr().err.splitlines()
    assert any("warning: the particles look dark, not bright" in line and "--contrast dark" in line for line in lines)
    assert "do not trust these predictions: the particles look dark, not bright" in lines[-1]
    same(predicted(tmp_path / "r", checkpoint, *dark, contrast="dark"), originals)
    assert "the particles look" not in capsys.readouterr().err
    predicted(tmp_path / "r", checkpoint, *rows["Input Data"], contrast="dark")
    assert "warning: the particles look bright, not dark" in capsys.readouterr().err


def test_a_mistake_is_one_line_and_leaves_nothing(checkpoint, files, tmp_path):
    (tmp_path / "text.mrc").write_text("hello")
    line = refuse("predict.py", str(checkpoint), *files, "none.mrc", cwd=tmp_path)
    assert line.startswith("predict.py: error: none.mrc: no such file or folder")
    with pytest.raises(InputError, match=r"text\.mrc: not a checkpoint"):
        predicted(tmp_path / "results", tmp_path / "text.mrc", *files)
    assert not (tmp_path / "results").exists()


@pytest.fixture
def faulty(tmp_path):
    """A folder of things that are no input, and one volume that is."""
    rng = np.random.default_rng(0)
    good = rng.normal(size=(BOX,) * 3).astype(np.float32)
    write_volume(tmp_path / "good.mrc", good, VOXEL_SIZE)
    write_volume(tmp_path / "flat.mrc", np.ones_like(good), VOXEL_SIZE)
    write_volume(tmp_path / "brick.mrc", good[:8], VOXEL_SIZE)
    write_volume(tmp_path / "nan.mrc", good, VOXEL_SIZE)
    with mrcfile.mmap(tmp_path / "nan.mrc", mode="r+") as mrc:
        mrc.data[0, 0, 0] = np.nan
    (tmp_path / "text.mrc").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("File\ngood.mrc\n")
    (tmp_path / "gone.csv").write_text("Input Data\nnone.mrc\nneither.mrc\n")
    (tmp_path / "header.csv").write_text("Input Data\n")
    (tmp_path / "size.csv").write_text("Input Data,Voxel Size\ngood.mrc,ten\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "none.mrc",
            r"none\.mrc: no such file or folder in /.*; expected an MRC file, N@stack\.mrcs, a stack, a folder",
        ),
        ("3@none.mrcs", r"3@.*none\.mrcs: no such file in /"),
        ("empty", r"empty: neither it nor a folder below it holds an MRC file"),
        ("none.csv", r"none\.csv: no such file"),
        ("other.csv", r"other\.csv: no column Input Data; found File"),
        ("gone.csv", r"none\.mrc: no such file; named in .*gone\.csv, line 2 \(none of 2 volumes is there\)"),
        ("header.csv", r"header\.csv: holds no row"),
        ("size.csv", r"size\.csv, line 2: Voxel Size 'ten'; expected a number in A"),
    ],
)
def test_input_that_is_wrong_as_a_whole_is_named_before_anything_is_read(checkpoint, faulty, name, message):
    number, _, path = name.rpartition("@")
    with pytest.raises(InputError, match=message):
        predicted(
            faulty / "r", checkpoint, faulty / "good.mrc", f"{number}@{faulty / path}" if number else faulty / path
        )
    assert not (faulty / "r").exists()


BAD = {  # a volume, and why it cannot be read
    "nan.mrc": r"nan\.mrc: 1 values are NaN or infinite",
    "brick.mrc": r"brick\.mrc: a volume of \(8, 16, 16\) voxels \(z, y, x\); expected a cube",
    "flat.mrc": r"flat\.mrc: the volume is constant",
    "text.mrc": r"text\.mrc: not a readable MRC file",
}


def test_volumes_that_cannot_be_read_are_listed_and_the_others_are_predicted(
    checkpoint, faulty, files, expected, capsys
):
    rows = [*files[:2], faulty / "nan.mrc", faulty / "brick.mrc", *files[2:4], faulty / "flat.mrc", faulty / "text.mrc"]
    text = "\n".join(["Input Data", *map(str, rows), *files[4:], f"2@{faulty / 'good.mrc'}"])
    (faulty / "list.csv").write_text(f"{text}\n")
    with pytest.raises(SystemExit) as end:
        predicted(faulty / "r", checkpoint, faulty / "list.csv", batch_size=3)
    assert end.value.code == 3
    folder = faulty / "r" / "model_save-checkpoint" / "predict"
    same(pd.read_csv(folder / "predictions.csv", keep_default_na=False), expected)
    with np.load(folder / "embeddings.npz") as kept:
        assert len(kept["embeddings"]) == COUNT
    failed = pd.read_csv(folder / "failed.csv")
    assert list(failed["Source Row"]) == [3, 4, 7, 8, 11]
    for name, reason in zip(failed["Input Data"][:4], failed["Reason"][:4], strict=True):
        assert re.search(BAD[Path(name).name], reason)
    assert "needs a 4-D volume stack" in failed["Reason"][4]
    assert (
        "warning: 5 of 11 volumes could not be read and are left out, see failed.csv; the first: "
        in capsys.readouterr().err
    )
    assert not (folder / "parts").exists()
    predicted(faulty / "r", checkpoint, *files)
    assert not (folder / "failed.csv").exists()


@pytest.mark.parametrize("name", BAD)
def test_where_no_volume_can_be_read_the_first_reason_is_the_error(checkpoint, faulty, name):
    with pytest.raises(InputError, match=BAD[name] + r".*none of 2 volumes can be read"):
        predicted(faulty / "r", checkpoint, faulty / name, faulty / name)
    assert not [*(faulty / "r").rglob("predict*/*")]


def test_bad_options_and_calibrations_are_named(checkpoint, files, tmp_path):
    for options, message in (
        ({"contrast": "grey"}, "--contrast grey: expected one of bright, dark"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"voxel_size": -1.0}, "--voxel-size -1"),
        ({"name": "a/b"}, "--name 'a/b': expected the name of a folder"),
        ({"name": ""}, "--name '': expected the name of a folder"),
        ({"name": ".."}, "--name '..': expected the name of a folder"),
    ):
        with pytest.raises(InputError, match=message):
            predicted(tmp_path, checkpoint, *files, **options)
    with pytest.raises(InputError, match="no input"):
        predicted(tmp_path, checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    content["calibration"]["score"] = "luck"
    with pytest.raises(
        InputError, match=r"checkpoint\.pt: score 'luck' of the calibration: expected one of max_cosine"
    ):
        predicted(tmp_path, saved(content, tmp_path), *files)


def test_a_checkpoint_calibrated_by_neighbours_is_scored_by_them(checkpoint, files, tmp_path):
    """Where the reference is one volume, that volume alone is known."""
    model, content = load_model(checkpoint, torch.device("cpu"))
    image = torch.from_numpy(prepare(Input(files[0]), content["preprocessing"]).image)
    reference = torch.from_numpy(embed(model, image[None, None], torch.device("cpu")))
    content = load_checkpoint(checkpoint)
    one = {
        "reference": reference,
        "reference_labels": torch.zeros(1, dtype=torch.int64),
        "neighbours": torch.tensor([1]),
    }
    content["calibration"] |= {"score": "knn_cosine", "threshold": 0.9999, **one}
    table = predicted(tmp_path, saved(content, tmp_path), *files)
    assert table["Score"][0] == pytest.approx(1, abs=1e-4)
    assert list(table["Prediction"] == "unknown") == [False] + [True] * (COUNT - 1)


def test_a_checkpoint_at_chance_or_calibrated_on_few_volumes_is_warned_of(checkpoint, files, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    for accuracy, count, warned in ((0.34, 12, True), (0.8, 40, False)):
        content["metrics"]["log"][-1]["accuracy"] = accuracy
        content["calibration"] |= {"n": count, "false_rejection_rate": 0.05}
        (tmp_path / f"{accuracy}").mkdir()
        predicted(tmp_path / f"{accuracy}" / "r", saved(content, tmp_path / f"{accuracy}"), *files)
        said = capsys.readouterr()
        assert f"names {accuracy:.0%} of the validation volumes of known classes right (chance 33%)" in said.out
        assert (f"{accuracy:.0%} of the validation volumes of known classes are named right" in said.err) == warned
        assert ("so the threshold for unknowns is the lowest score of all" in said.err) == warned
