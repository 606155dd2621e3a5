"""`--enrol` and enrol.py on real files: what names stand for, what a checkpoint then answers, what is refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import enrol
import predict
from common.cli import InputError
from evaluation.rejection import calibrate
from loader.columns import CLUSTER
from loader.dataset import load_split
from loader.rows import read_split
from loader.star import write_star
from loader.volume import read_volume, write_volume
from model import embed, load_checkpoint, load_model, trained_classes
from physics.grid import Grid
from prediction import structures
from prediction.enrol import Enrolling, Setting, examples_of, read_wanted
from simulation import as_trained, auxiliary, cohort
from simulation.structures import procedural_complex
from tests.scripts import refuse, succeed

CPU = torch.device("cpu")
KNOWN = ["complex00", "complex01", "complex02"]


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    """The trained checkpoint, its batch statistics and calibration those of the whole of train.csv."""
    content = load_checkpoint(trained / "model_save" / "checkpoint.pt")
    model, loaded = load_model(trained / "model_save" / "checkpoint.pt", CPU)
    split = load_split(trained / "csv_split" / "train.csv", loaded["preprocessing"])
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm3d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(split.images.float())
    embedded = embed(model.eval(), split.images, CPU), split.labels.numpy()
    content |= {"calibration": calibrate(embedded, embedded, 3, 0.05).content(), "state_dict": model.state_dict()}
    path = tmp_path_factory.mktemp("enrol") / "model_save" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(content, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Few shapes, few volumes, no pictures, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (structures, "POSES", 16),
            (structures, "SHAPES", 3),
            (structures, "PER_SHAPE", 4),
            (structures, "ALL_SIZES", 6),
            (structures, "ALIKE", 3),
            (cohort, "POOL", 6),
            (auxiliary, "NEIGHBOURS", 3),
            (as_trained, "SNR", (0.5, 1.0)),
        ):
            patch.setattr(module, name, value)
        patch.setattr(predict, "draw", lambda *_: True)
        yield


@pytest.fixture(scope="module")
def volumes(trained):
    """Noise-free volumes of each class, known or held out."""
    rows = pd.concat([read_split(trained / "csv_split" / f"{part}.csv") for part in ("test", "unseen")])
    rows = rows[rows["SNR Level"] == "infinity"]
    return {name: list(part["Input Data"]) for name, part in rows.groupby("Actual Label")}


@pytest.fixture(scope="module")
def density(tmp_path_factory):
    """A map of a complex that no data set has."""
    path = tmp_path_factory.mktemp("maps") / "spoke.mrc"
    write_volume(path, procedural_complex(77, 3, Grid(16, 20.0, 20.0)), 20.0)
    return path


def written(folder: Path) -> tuple[pd.DataFrame, dict]:
    """predictions.csv and predictions.json."""
    folder = folder / "model_save-checkpoint" / "predict"
    table = pd.read_csv(folder / "predictions.csv", keep_default_na=False)
    return table, json.loads((folder / "predictions.json").read_text())


def predicted(folder: Path, checkpoint: Path, inputs: list[str], **options: object) -> tuple[pd.DataFrame, dict]:
    cfg = predict.Config(
        str(checkpoint),
        tuple(inputs),
        results_dir=str(folder),
        device="cpu",
        page=False,
        enrolling=Enrolling(**options),
    )
    predict.main(cfg)
    return written(folder)


def wanted(*texts: object):
    return read_wanted(Enrolling(enrol=tuple(map(str, texts))))


def test_what_a_name_stands_for_follows_from_stated_rules(tmp_path, volumes, density):
    files = volumes["complex04"]
    (tmp_path / "in.pdb").write_text("")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "a.mrc").write_bytes(density.read_bytes())
    found = wanted(f"a={files[0]}", f"a={files[1]}", f"b={tmp_path}/examples", f"c=examples:{files[0]}")
    assert found.examples == {"a": files[:2], "b": [f"{tmp_path}/examples"], "c": [files[0]]} and not found.structures
    found = wanted(f"p={tmp_path}/in.pdb", f"m=structure:{density}", f"{tmp_path}/in.pdb")
    assert found.structures == {"p": tmp_path / "in.pdb", "m": density, "in": tmp_path / "in.pdb"}
    (tmp_path / "maps").mkdir()
    for name in ("one.cif", "two.mrc.gz"):
        (tmp_path / "maps" / name).write_bytes(b"")
    assert list(wanted(f"structure:{tmp_path}/maps").structures) == ["one", "two"]


def test_what_could_be_two_things_is_refused(tmp_path, volumes, density):
    (tmp_path / "structures").mkdir()
    (tmp_path / "structures" / "one.cif").write_text("")
    refused = {
        f"m={density}": r"one MRC file, which may be a map or a subtomogram; say which: m=structure:\S+ or m=examples:",
        f"{density}": r"expected NAME=FILES, a \.pdb or \.cif file, or a folder of structures",
        f"{density.parent}": r"holds spoke\.mrc; if that is a map, not a subtomogram: structure:",
        f"m={tmp_path}/structures": "a folder of structures; leave the name out",
        f"m=structure:{tmp_path}/structures": "a folder; its structures keep the names of their files",
        f"m={tmp_path}/none.cif": r"none\.cif: no such file; expected a structure or examples",
        "=a.mrc": "expected NAME=FILES",
    }
    for text, message in refused.items():
        with pytest.raises(InputError, match=message):
            wanted(text)
    with pytest.raises(InputError, match="m has examples and a structure"):
        wanted(f"m=structure:{density}", f"m={volumes['complex04'][0]}", f"m={volumes['complex04'][1]}")
    with pytest.raises(InputError, match="m is there already"):
        wanted(f"m=structure:{density}", f"m=structure:{density}")
    for option, message in (
        ({"tilt_range": (60.0, -60.0)}, "--tilt-range 60 -60: expected two numbers, the smaller first"),
        ({"false_acceptance_rate": 0.0}, "expected a share between 0 and 1"),
        ({"only_enrolled": True}, "leaves no class"),
    ):
        with pytest.raises(InputError, match=message):
            read_wanted(Enrolling(**option))


def test_examples_make_a_class_beside_the_known_ones_and_the_checkpoint_stays(checkpoint, volumes, tmp_path, capsys):
    before = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    inputs = [*volumes["complex04"], *volumes["complex00"]]
    table, record = predicted(tmp_path, checkpoint, inputs, enrol=tuple(f"new={name}" for name in volumes["complex04"]))
    assert set(table["Prediction"]) <= {*KNOWN, "new", "unknown"}
    count = len(volumes["complex04"])
    assert (table["Nearest Class"][:count] == "new").mean() > 0.6  # they made its prototype
    np.testing.assert_array_equal(table["Score"] >= table["Threshold"], table["Prediction"] != "unknown")
    (one,) = record["enrolled"]
    assert (one["name"], one["n"], one["source"]) == ("new", count, f"{count} examples")
    assert one["rival"] in KNOWN and one["cohort_n"] >= 12 and "3 most alike of" in one["cohort"]
    said = capsys.readouterr().out
    assert "enrolled classes:" in said and "new: the 3 most alike" in said and "known classes' reference" in said
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() == before


def test_a_structure_alone_makes_a_class_under_the_declared_imaging(checkpoint, volumes, density, tmp_path, capsys):
    options = {"tilt_range": (-50.0, 50.0), "defocus": (3.0, 4.0), "only_enrolled": True}
    table, record = predicted(
        tmp_path, checkpoint, volumes["complex00"], enrol=(f"spoke=structure:{density}",), **options
    )
    assert set(table["Nearest Class"]) == {"spoke"} and set(table["Runner-up"]) == {""}
    (one,) = record["enrolled"]
    assert one["n"] >= 16 and one["rival"] is None and "made-up shapes of its size" in one["cohort"]
    assert one["false_acceptance"] <= 0.1
    said = capsys.readouterr().out
    assert "imaging as declared: tilts of -50 to 50 degrees, defocus 3 to 4 um; of any kind" in said and " kDa" in said


def test_the_particles_of_a_star_file_are_examples_as_their_files_are(checkpoint, volumes, tmp_path):
    table = starred(tmp_path, volumes["complex04"])
    inputs = [*volumes["complex04"], *volumes["complex00"]]
    by_table, record = predicted(tmp_path / "table", checkpoint, inputs, enrol=(f"new={table}",))
    by_files, same = predicted(tmp_path / "files", checkpoint, inputs, enrol=(f"new={tmp_path / 'new'}",))
    pd.testing.assert_frame_equal(by_table, by_files, atol=1e-5, rtol=0)
    count = len(volumes["complex04"])
    assert (by_table["Nearest Class"][:count] == "new").mean() > 0.6
    assert record["enrolled"][0]["source"] == same["enrolled"][0]["source"] == f"{count} examples"


def test_examples_that_cannot_be_read_are_left_out_and_counted(checkpoint, volumes, tmp_path, capsys):
    table = starred(tmp_path, volumes["complex04"])
    model, loaded = load_model(checkpoint, CPU)
    setting = Setting(model, loaded["preprocessing"], CPU, 8)
    whole = examples_of("new", [str(table)], setting)
    (tmp_path / "new" / "01.mrc").unlink()
    (tmp_path / "new" / "03.mrc").write_bytes(b"MAP")
    count = len(volumes["complex04"])
    some = examples_of("new", [str(table)], setting)
    told = f"--enrol new: 2 of {count} examples cannot be read; {count - 2} are left. The first that cannot: "
    reason = f"{tmp_path}/new/01.mrc: no such file"
    assert f"warning: {told}{table}, row 2: {reason}\n" in capsys.readouterr().err
    kept = [number for number in range(count) if number not in (1, 3)]
    np.testing.assert_allclose(some.embeddings, whole.embeddings[kept], atol=1e-6)
    assert some.source == f"{count - 2} examples of {count}" and [*some.particles] == [*whole.particles[kept]]
    for number in range(count):
        (tmp_path / "new" / f"{number:02d}.mrc").write_bytes(b"MAP")
    with pytest.raises(InputError, match=rf"^--enrol new: {table}, row 1: .*\(none of {count} examples can be read\)$"):
        examples_of("new", [str(table)], setting)
    (tmp_path / "one.csv").write_text("Input Data\nnone.mrc\n")
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/none\.mrc: no such file; named in {tmp_path}/one\.csv, line 2$"
    ):
        examples_of("new", [str(tmp_path / "one.csv")], setting)


def starred(folder: Path, names: list[str]) -> Path:
    """A STAR file of copies of volumes, which says the voxel size of their headers."""
    (folder / "new").mkdir()
    copies = [f"new/{number:02d}.mrc" for number in range(len(names))]
    for name, copy in zip(names, copies, strict=True):
        (folder / copy).write_bytes(Path(name).read_bytes())
    optics = pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["one"], "rlnImagePixelSize": ["20.0"]})
    rows = pd.DataFrame({"rlnImageName": copies, "rlnOpticsGroup": "1"})
    write_star(folder / "new.star", {"optics": optics, "particles": rows}, "50001")
    return folder / "new.star"


def test_the_voxel_size_that_is_given_overrides_headers_and_tables_of_examples(checkpoint, volumes, tmp_path):
    table = starred(tmp_path, volumes["complex04"])
    (tmp_path / "coarse").mkdir()
    for number, name in enumerate(volumes["complex04"]):
        write_volume(tmp_path / "coarse" / f"{number:02d}.mrc", read_volume(name)[0], 30.0)
    model, loaded = load_model(checkpoint, CPU)

    def embedded(path: Path, voxel_size: float) -> np.ndarray:
        return examples_of("new", [str(path)], Setting(model, loaded["preprocessing"], CPU, 8, voxel_size)).embeddings

    expected = embedded(tmp_path / "coarse", 0.0)
    for path in (table, tmp_path / "new"):
        np.testing.assert_allclose(embedded(path, 30.0), expected, atol=1e-5)
        assert np.abs(embedded(path, 0.0) - expected).max() > 0.01


def test_a_folder_of_structures_makes_the_classes_that_its_files_make(
    checkpoint, volumes, atom_files, tmp_path, capsys
):
    inputs = [*volumes["complex00"], *volumes["complex04"]]
    table, record = predicted(tmp_path / "r", checkpoint, inputs, enrol=(str(atom_files),), only_enrolled=True)
    named = (f"ring={atom_files}/ring.cif.gz", f"rod={atom_files}/rod.pdb.gz")
    by_name, same = predicted(tmp_path / "named", checkpoint, inputs, enrol=named, only_enrolled=True)
    pd.testing.assert_frame_equal(table, by_name, atol=1e-5, rtol=0)
    assert {*table["Nearest Class"]} | {*table["Runner-up"]} == {"ring", "rod"}
    for one, other, file in zip(record["enrolled"], same["enrolled"], ("ring.cif.gz", "rod.pdb.gz"), strict=True):
        assert one["name"] == file.split(".")[0] and one["source"].endswith(f"simulated volumes of {file}")
        assert one["threshold"] == pytest.approx(other["threshold"], abs=1e-5)
    capsys.readouterr()
    beside, _ = predicted(tmp_path / "beside", checkpoint, inputs, enrol=(str(atom_files),))
    assert {*beside["Nearest Class"]} <= {*KNOWN, "ring", "rod"}
    assert (
        "of the known classes' reference volumes (training files; not the validation volumes)"
        in capsys.readouterr().out
    )


def test_names_that_are_taken_or_mean_something_else_are_refused(checkpoint, density, volumes, tmp_path):
    for name, message in (("complex01", "a known class"), ("unknown", "what predict.py calls"), ("junk", "what pre")):
        with pytest.raises(InputError, match=f"--enrol {name}: {message}"):
            predicted(tmp_path, checkpoint, volumes["complex00"], enrol=(f"{name}=structure:{density}",))


def test_a_checkpoint_with_more_classes_is_one_as_any_other(trained, checkpoint, volumes, density, tmp_path):
    target = tmp_path / "model_save" / "checkpoint.pt"
    examples = tuple(f"complex04={name}" for name in volumes["complex04"])
    options = ("--enrol", *examples, f"spoke=structure:{density}", "--device", "cpu")
    said = succeed("enrol.py", str(checkpoint), str(target), *options, cwd=tmp_path)
    assert "5 classes, 2 of them enrolled now" in said
    content = load_model(target, CPU)[1]
    assert content["classes"] == [*KNOWN, "complex04", "spoke"] and trained_classes(content) == KNOWN
    assert [one["name"] for one in content["config"]["enrolled"]] == ["complex04", "spoke"]

    direct, _ = predicted(tmp_path / "direct", checkpoint, volumes["complex04"], enrol=(*examples, options[-3]))
    table, record = predicted(tmp_path / "r", target, volumes["complex04"])
    pd.testing.assert_frame_equal(table, direct, atol=1e-5, rtol=0)
    assert len(record["enrolled"]) == 2

    split = tmp_path / "csv_split"
    succeed("csv_split.py", "--data-dir", str(trained / "data_"), "--unseen", "complex05", cwd=tmp_path)
    rows = {part: read_split(split / f"{part}.csv") for part in ("train", "valid", "test")}
    for part, table in rows.items():  # the class set of the new checkpoint, in its order: a split of the user's own
        table = table[table["Actual Label"].isin([*KNOWN, "complex04"])]
        table.loc[table["Actual Label"] == "complex04", "Class"] = 3
        table.to_csv(split / f"{part}.csv", index=False)
    only = tmp_path / "four" / "checkpoint.pt"
    succeed("enrol.py", str(checkpoint), str(only), "--enrol", *examples, cwd=tmp_path)
    options = ("--bootstrap", "2", "--no-umap", "--no-discovery", "--device", "cpu")
    succeed("open_set.py", str(only), *options, cwd=tmp_path)
    report = json.loads((tmp_path / "results" / "four-checkpoint" / "open_set.json").read_text())
    assert report["known_classes"] == [*KNOWN, "complex04"]
    assert set(report["unseen"]["rejection"]["scores"]) == {"max_cosine", "knn_cosine", "mahalanobis"}
    succeed("test.py", str(only), "--device", "cpu", cwd=tmp_path)
    succeed("ship.py", str(only), "small.pt", cwd=tmp_path)
    small = load_model(tmp_path / "small.pt", CPU)[1]
    assert small["classes"] == [*KNOWN, "complex04"] and len(small["criterion"]["head.bias"]) == 3
    assert small["calibration"].class_thresholds is not None


def test_a_found_cluster_becomes_a_class(checkpoint, volumes, tmp_path):
    inputs = [*volumes["complex04"], *volumes["complex05"]]
    table, _ = predicted(tmp_path / "results", checkpoint, inputs)
    folder = tmp_path / "results" / "model_save-checkpoint" / "predict"
    count = len(volumes["complex04"])
    table[CLUSTER] = ["cluster_1"] * count + ["cluster_2"] * (len(inputs) - count)
    table.to_csv(folder / "predictions.csv", index=False)
    target = tmp_path / "model_save" / "checkpoint.pt"
    cfg = enrol.Config(str(checkpoint), str(target), promote=(str(folder), "cluster_2=spoke"), device="cpu")
    enrol.main(cfg)
    assert load_checkpoint(target)["classes"] == [*KNOWN, "spoke"]
    again, record = predicted(tmp_path / "again", target, volumes["complex05"])
    assert (again["Nearest Class"] == "spoke").mean() > 0.6
    assert record["enrolled"][0]["source"] == f"{len(volumes['complex05'])} examples in cluster_2"
    more = enrol.Config(str(target), str(tmp_path / "more.pt"), promote=(str(folder), "cluster_1=hub"), device="cpu")
    enrol.main(more)  # the network is the same
    assert load_checkpoint(tmp_path / "more.pt")["classes"] == [*KNOWN, "spoke", "hub"]
    assert len(load_checkpoint(tmp_path / "more.pt")["config"]["enrolled"]) == 2


def test_clusters_that_are_not_there_and_predictions_of_other_networks_are_refused(
    trained, checkpoint, volumes, tmp_path
):
    predicted(tmp_path / "results", checkpoint, volumes["complex04"])
    folder = tmp_path / "results" / "model_save-checkpoint" / "predict"

    def said(*words: str, of: Path = checkpoint) -> str:
        return refuse("enrol.py", str(of), "new.pt", "--promote", *words, "--device", "cpu", cwd=tmp_path)

    table = pd.read_csv(folder / "predictions.csv")
    table.drop(columns=CLUSTER, errors="ignore").to_csv(folder / "predictions.csv", index=False)
    assert "no column Cluster" in said(str(folder), "cluster_1=a")
    table.assign(**{CLUSTER: "cluster_7"}).to_csv(folder / "predictions.csv", index=False)
    assert "no cluster cluster_1; it has cluster_7" in said(str(folder), "cluster_1=a")
    assert "expected a folder of predictions, then CLUSTER=NAME" in said(str(folder))
    assert "not a folder of predictions" in said(str(tmp_path), "cluster_1=a")
    other = trained / "model_save" / "checkpoint.pt"
    assert "whose network is another one" in said(str(folder), "cluster_7=a", of=other)
    assert "nothing to enrol" in refuse("enrol.py", str(checkpoint), "new.pt", cwd=tmp_path)
    assert "the checkpoint itself" in refuse(
        "enrol.py", str(checkpoint), str(checkpoint), "--promote", "a", "b=c", cwd=tmp_path
    )
    assert not (tmp_path / "new.pt").exists()


def test_what_is_no_particle_is_called_junk(checkpoint, volumes, tmp_path):
    content = load_checkpoint(checkpoint)
    inputs = [*volumes["complex00"], *volumes["complex01"]]
    plain, _ = predicted(tmp_path / "plain", checkpoint, inputs)
    assert "Junk Score" not in plain
    prototypes = content["calibration"]["prototypes"]
    content["junk"] = {"particles": prototypes[1:], "junk": prototypes[:1], "threshold": 0.0}  # complex00 is junk here
    path = tmp_path / "model_save" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(content, path)
    table, _ = predicted(tmp_path / "r", path, inputs)
    junk = table["Prediction"] == "junk"
    assert junk.any() and not junk.all()
    np.testing.assert_array_equal(junk, table["Junk Score"] >= 0)
    np.testing.assert_array_equal(junk, table["Nearest Class"] == "complex00")
    pd.testing.assert_frame_equal(table.drop(columns=["Junk Score", "Prediction"]), plain.drop(columns="Prediction"))
    with np.load(tmp_path / "r" / "model_save-checkpoint" / "predict" / "embeddings.npz") as kept:
        np.testing.assert_array_equal(kept["predictions"] == -2, junk)


def test_inputs_under_imaging_that_training_had_not_are_warned_of(checkpoint, volumes, tmp_path, capsys):
    content = load_checkpoint(checkpoint)
    ranges = {"tilt": [55.0, 65.0], "lopsided": 0.0, "no_band_limit": 1.0, "voxel_size_error": 0.0, "voxel_size": 20.0}
    content["config"]["imaging"] = ranges
    path = tmp_path / "model_save" / "checkpoint.pt"
    path.parent.mkdir()
    torch.save(content, path)
    table = pd.DataFrame({"Input Data": volumes["complex00"], "Tilt Min": "-60", "Tilt Max": "60"})
    for name, tilt in (("inside", "60"), ("outside", "40")):
        table.assign(**{"Tilt Max": tilt}).to_csv(tmp_path / f"{name}.csv", index=False)
    predicted(tmp_path / "r", path, [str(tmp_path / "inside.csv")])
    assert "imaging" not in capsys.readouterr().err
    predicted(tmp_path / "r", path, [str(tmp_path / "outside.csv")])
    assert "tilts of -60 to 40 degrees: training had largest tilts of 55 to 65" in capsys.readouterr().err
