"""The five commands of the original work, on its own layout and as a user runs them."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import open_set
import predict
import test_req
from common.cli import InputError
from loader.volume import write_volume
from model import load_checkpoint
from tests.scripts import REPOSITORY, SMALL_RUN, refuse, run_script, succeed
from training.record import epochs_since_best, stopped_text

ORIGINAL_HEADER = ["Input Data", "Segmentation Ground Truth", "Class", "SNR Level", "Actual Label"]
PER_CLASS = 5


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A parent folder with data_ as the original has it: numbered files, no CSV, the SNRinf spelling."""
    parent = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:8, :8, :8] - 3.5
    shapes = [np.abs(z) + np.abs(y) < 3, np.hypot(z, np.hypot(y, x)) < 2.5, np.abs(x) < 1]
    for folder, noise in (("data1_SNR003", 1.0), ("data3_SNRinf", 0.0)):
        for number in range(3 * PER_CLASS):
            shape = shapes[number // PER_CLASS]
            volume = shape + noise * rng.normal(size=shape.shape) + rng.normal(0, 1e-3, size=shape.shape)
            target = parent / "data_" / folder
            write_volume(target / "subtomogram_mrc" / f"tomotarget{number}.mrc", volume.astype(np.float32), 10.0)
            write_volume(
                target / "processed_densitymap_mrc_mrc2binary" / f"packtarget{number}.mrc", shape.astype(np.int8), 10.0
            )
    return parent


@pytest.fixture(scope="module", params=["beside", "inside"])
def place(request, original, tmp_path_factory):
    """A copy of the repository, with data_ beside it or inside it, and the folder that commands are run from."""
    parent = tmp_path_factory.mktemp("place")
    repository = parent / "SoftLMCCL"
    ignore = shutil.ignore_patterns(
        ".*", "__pycache__", "demo", "data_", "csv_split", "model_save", "results", "bench", "tests", "docs"
    )
    shutil.copytree(REPOSITORY, repository, ignore=ignore)
    data = parent / "data_" if request.param == "beside" else repository / "data_"
    shutil.copytree(original / "data_", data)
    # from the repository where the data is inside, from its parent where it is beside
    return (repository, "") if request.param == "inside" else (parent, "SoftLMCCL/")


def test_the_five_commands_run_on_the_original_layout(place):
    cwd, prefix = place

    def succeed_at(script, *options):
        done = run_script(cwd / (prefix + script), *options, cwd=cwd)
        assert done.returncode == 0, f"{script} {options}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert "torch" in succeed_at("test_req.py")
    succeed_at("csv_split.py", "--per-class", str(PER_CLASS))
    succeed_at("check_split.py")
    succeed_at("train.py", *SMALL_RUN, "--epochs", "1")
    succeed_at("test.py", "model_save/checkpoint.pt")

    header = list(pd.read_csv(cwd / "csv_split" / "train.csv").columns)
    assert header[: len(ORIGINAL_HEADER)] == ORIGINAL_HEADER
    tables = {part: pd.read_csv(cwd / "csv_split" / f"{part}.csv", dtype=str) for part in ("train", "valid", "test")}
    assert {part: len(table) for part, table in tables.items()} == {"train": 12, "valid": 6, "test": 12}
    assert set(tables["train"]["SNR Level"]) == {"003", "infinity"}
    order = dict(map(tuple, tables["train"][["Class", "Actual Label"]].drop_duplicates().to_numpy()))
    assert order == {"0": "1bxn", "1": "1f1b", "2": "1yg6"}
    assert (cwd / "model_save" / "checkpoint1.pt").is_file()
    assert (cwd / "model_save" / "loss.txt").is_file()
    report = json.loads((cwd / "results" / "model_save-checkpoint" / "closed_set.json").read_text())
    assert report["n"] == len(tables["test"])
    assert np.sum(report["confusion_matrix"]) == report["n"]


def test_a_mistake_ends_a_script_with_one_line_and_code_2(tmp_path):
    done = run_script("csv_split.py", "--data-dir", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("csv_split.py: error: nowhere: no such folder")


KEYS = {  # of open_set.json, which scripts of users read: place -> names; a star is a figure and its interval
    "": "checkpoint known_classes snr_convention confidence bootstrap seed known note warnings valid_unseen unseen",
    "known": "n n_particles prototype_accuracy* false_rejection_rate* seen_seen per_snr per_class",
    "known per_class 0": "class n n_particles prototype_accuracy* false_rejection_rate* valid_false_rejection_rate",
    "known per_snr 0": "snr n n_particles prototype_accuracy* false_rejection_rate* seen_seen",
    "unseen": "classes n n_particles verification rejection enrolment discovery floors confounds",
    "unseen verification": "n authors unseen_unseen seen_unseen per_snr",
    "unseen verification per_snr 1": "snr n authors unseen_unseen seen_unseen",
    "unseen verification authors": "accuracy* std floor auc eer val_at_far n_same n_different folds seed",
    "unseen verification authors val_at_far 0.01": "value interval reason",
    "unseen verification unseen_unseen": "auc* eer* val_at_far n_same n_different n_same_exist n_different_exist seed "
    "bootstrap per_class roc",
    "unseen verification unseen_unseen per_class 0": "class auc* n_same n_different",
    "unseen verification unseen_unseen roc": "far val",
    "unseen rejection": "scores default_score closed_set_accuracy threshold wished_false_rejection_rate n_calibration "
    "false_rejection_rate* unknown_detection_rate* per_snr per_class",
    "unseen rejection per_snr 0": "snr false_rejection_rate* unknown_detection_rate*",
    "unseen rejection per_class 0": "class most_like taken_for taken_for_rate unknown_detection_rate*",
    "unseen rejection scores max_cosine": "auroc* aupr* fpr95* oscr* n_known n_unseen per_snr per_class",
    "unseen rejection scores max_cosine per_snr 0": "snr auroc* aupr* fpr95* oscr* n_known n_unseen",
    "unseen rejection scores max_cosine per_class 0": "class auroc* aupr* fpr95* oscr* n_known n_unseen",
    "unseen enrolment": "unseen_only with_known per_snr",
    "unseen enrolment per_snr 0": "snr unseen_only with_known",
    "unseen enrolment unseen_only 0": "accuracy* std per_class shots episodes n classes seed gallery chance",
    "unseen enrolment unseen_only 0 per_class 0": "class accuracy* n",
    "unseen discovery": "rejected all_unseen per_snr",
    "unseen discovery per_snr 0": "snr rejected all_unseen",
    "unseen discovery all_unseen": "found n n_there seed bootstrap reclusterings",
    "unseen discovery all_unseen found": "clusters* true_classes ari* nmi* purity* purity_floor noise stable_clusters "
    "per_cluster",
    "unseen discovery all_unseen found per_cluster 0": "n stability class purity medoid",
    "unseen floors 0": "embedding unseen_auc* per_snr five_shot* auroc* known_accuracy* n_unseen n_known",
    "unseen floors 0 per_snr 0": "snr unseen_auc*",
    "unseen confounds 0": "factor in_known in_unknown structure alone auroc within warning",
}
CLOSED_KEYS = {  # of closed_set.json, likewise
    "": "n n_particles accuracy* mean_over_snrs* macro_f1* floor per_snr per_class classes confusion_matrix confidence "
    "bootstrap seed checkpoint classifier nearest_prototype_accuracy snr_convention",
    "per_snr 0": "snr accuracy* n",
    "per_class 0": "class precision* recall* f1* support",
}


def has_keys(report: dict, keys: dict[str, str]) -> None:
    for place, names in keys.items():
        part = report
        for key in place.split():
            part = part[int(key) if isinstance(part, list) else key]
        wanted = [name.removesuffix("*") for name in names.split()]
        wanted += [name.replace("*", "_interval") for name in names.split() if name.endswith("*")]
        assert {*part} == {*wanted}, place


def test_the_closed_set_report_agrees_with_its_own_matrix(trained):
    output = succeed("test.py", "model_save/checkpoint.pt", cwd=trained)
    folder = trained / "results" / "model_save-checkpoint"
    report = json.loads((folder / "closed_set.json").read_text())
    has_keys(report, CLOSED_KEYS)
    matrix = np.array(report["confusion_matrix"])
    assert report["accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    for index, row in enumerate(report["per_class"]):
        assert row["recall"] == pytest.approx(matrix[index, index] / matrix[index].sum())
    assert {row["snr"] for row in report["per_snr"]} == {"01", "infinity"}
    assert "confusion matrix" in output
    assert (folder / "confusion.png").stat().st_size > 1000


def test_test_csv_chooses_nothing(trained, tmp_path, empty_pictures):
    """Half of test.csv gives, for its own rows, what the whole gives: nothing is fitted to it."""
    shutil.copytree(trained, tmp_path / "w", symlinks=True)
    succeed("test.py", "model_save/checkpoint.pt", cwd=tmp_path / "w")
    whole = json.loads((tmp_path / "w/results/model_save-checkpoint/closed_set.json").read_text())
    table = pd.read_csv(tmp_path / "w/csv_split/test.csv", dtype=str)
    kept = table[table["Class"] != "2"]
    pd.concat([kept, table[table["Class"] == "2"].head(1)]).to_csv(tmp_path / "w/csv_split/test.csv", index=False)
    succeed("test.py", "model_save/checkpoint.pt", cwd=tmp_path / "w")
    part = json.loads((tmp_path / "w/results/model_save-checkpoint/closed_set.json").read_text())
    assert np.array(part["confusion_matrix"])[:2].tolist() == np.array(whole["confusion_matrix"])[:2].tolist()
    assert part["classifier"] == whole["classifier"]


def test_open_set_reports_both_sets_of_unseen_classes(trained):
    output = succeed("open_set.py", "model_save/checkpoint.pt", "--bootstrap", "5", cwd=trained)
    folder = trained / "results" / "model_save-checkpoint"
    report = json.loads((folder / "open_set.json").read_text())
    has_keys(report, KEYS)
    assert {*report["unseen"]["discovery"]["rejected"]} >= {*KEYS["unseen discovery all_unseen"].split()}
    assert 0 <= report["unseen"]["discovery"]["rejected"]["known_among_them"] <= 1
    assert report["unseen"]["classes"] == ["complex04", "complex05"]
    assert report["valid_unseen"]["classes"] == ["complex03"]
    authors = report["unseen"]["verification"]["authors"]
    # all pairs there are: two classes of 10 particles at two SNRs, less the pairs of a particle with itself
    assert (authors["n_same"], authors["n_different"]) == (2 * (190 - 10), 20 * 20)
    assert "unseen" in output
    for line in output.splitlines():
        if line.startswith("written: "):
            assert all((trained / name).is_file() for name in line.removeprefix("written: ").split(", "))


def test_parts_of_the_open_set_report_can_be_left_out(trained, tmp_path, empty_pictures):
    options = ("--bootstrap", "5", "--no-umap", "--no-discovery", "--no-floors", "--results-dir", str(tmp_path))
    succeed("open_set.py", "model_save/checkpoint.pt", *options, cwd=trained)
    report = json.loads((tmp_path / "model_save-checkpoint" / "open_set.json").read_text())
    assert "discovery" not in report["unseen"]
    assert [floor["embedding"] for floor in report["unseen"]["floors"]] == ["this network"]
    assert report["unseen"]["verification"]["unseen_unseen"]["auc"] > 0
    page = (tmp_path / "model_save-checkpoint" / "open_set.html").read_text()
    assert "How many new classes?" not in page and "Same or different?" in page


def settings(folder, workspace, **options) -> open_set.Config:
    """Of open_set.py in this process, without what takes long."""
    fast = {"bootstrap": 2, "umap": False, "discovery": False, "floors": False, "device": "cpu"}
    places = {"csv_dir": str(workspace / "csv_split"), "results_dir": str(folder)}
    return open_set.Config(str(workspace / "model_save" / "checkpoint.pt"), **fast, **places, **options)


def test_a_checkpoint_of_a_run_that_was_stopped_is_warned_of(trained, tmp_path, capsys):
    shutil.copytree(trained / "model_save", tmp_path / "model_save")
    last = torch.load(tmp_path / "model_save" / "last.pt", weights_only=True)

    def said(**changes) -> str:
        torch.save(last | {"config": last["config"] | changes}, tmp_path / "model_save" / "last.pt")
        path = tmp_path / "model_save" / "checkpoint.pt"
        return stopped_text(path, load_checkpoint(path))

    assert said() == "" and said(epochs=2) == ""  # of three
    text = "the run of this checkpoint was stopped after epoch 3 of 5, so that the network may get better"
    since = epochs_since_best(last["metrics"]["log"])
    assert said(epochs=5, patience=since + 1).startswith(text)
    assert not since or said(epochs=5, patience=since) == ""
    assert said(epochs=5).startswith(text)
    cfg = replace(settings(tmp_path / "r", trained), checkpoint=str(tmp_path / "model_save" / "checkpoint.pt"))
    open_set.main(cfg)
    page = tmp_path / "r" / "model_save-checkpoint" / "open_set.html"
    assert f"warning: {text}" in capsys.readouterr().err and f'<p class="warning">{text}' in page.read_text()
    other = [row | {"accuracy": -1.0} for row in last["metrics"]["log"]]  # last.pt of another run
    last["metrics"] = last["metrics"] | {"log": other}
    assert said(epochs=5) == ""
    (tmp_path / "model_save" / "last.pt").unlink()
    assert stopped_text(cfg.checkpoint, load_checkpoint(cfg.checkpoint)) == ""


def test_classes_that_the_checkpoint_does_not_know_are_enrolled(trained, tmp_path, capsys):
    """The same volumes under other names give the same figures, as training had the same ones to compare with."""
    copied = tmp_path / "csv_split"
    shutil.copytree(trained / "csv_split", copied)
    (tmp_path / "data_").symlink_to(trained / "data_")
    for part in ("train", "valid", "test"):
        text = (copied / f"{part}.csv").read_text()
        (copied / f"{part}.csv").write_text(re.sub(r",complex0([012]),", r",other\1,", text))
    reports = {}
    for name, workspace in (("own", trained), ("foreign", tmp_path)):
        cfg = replace(settings(tmp_path / name, trained), csv_dir=str(workspace / "csv_split"))
        open_set.main(cfg)
        folder = tmp_path / name / "model_save-checkpoint"
        reports[name] = json.loads((folder / "open_set.json").read_text())
        said = "none of the classes of train.csv: its 3 are enrolled from 36 volumes, and 6 of valid.csv set the"
        assert (said in capsys.readouterr().out) == (said in (folder / "open_set.html").read_text()) == (name != "own")
        page = (folder / "open_set.html").read_text()
        assert ("</code>, trained on 3 known" in page) == (name == "own")
    own, foreign = reports["own"], reports["foreign"]
    assert foreign["known_classes"] == ["other0", "other1", "other2"]
    assert foreign["known"]["prototype_accuracy"] == own["known"]["prototype_accuracy"]
    assert foreign["unseen"]["verification"]["unseen_unseen"] == own["unseen"]["verification"]["unseen_unseen"]
    score = own["unseen"]["rejection"]["default_score"]
    figures = [report["unseen"]["rejection"]["scores"][score]["auroc"] for report in reports.values()]
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    text = (copied / "test.csv").read_text()
    (copied / "test.csv").write_text(text.replace(",other0,", ",complex00,"))
    with pytest.raises(InputError, match=r"test.csv: classes complex00, other1, other2; expected other0, other1"):
        open_set.main(cfg)


def test_a_picture_that_fails_loses_no_figure(trained, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise MemoryError("no room for pixels")

    monkeypatch.setattr("report.pictures.roc_curves", fail)
    open_set.main(settings(tmp_path, trained))
    folder = tmp_path / "model_save-checkpoint"
    said = capsys.readouterr()
    assert "unseen_roc.png could not be drawn, the figures stand without it: MemoryError: no room" in said.err
    assert json.loads((folder / "open_set.json").read_text())["unseen"]["verification"]["unseen_unseen"]["auc"]
    assert "Same or different?" in (folder / "open_set.html").read_text() and "THE VERDICT" in said.out
    assert "unseen_roc.png" not in said.out and not (folder / "unseen_roc.png").exists()
    assert (folder / "unseen_scores.png").is_file()


def test_figures_are_there_before_the_first_picture(trained, tmp_path, monkeypatch):
    """Where the system kills the process for its memory, nothing can be caught."""
    folder = tmp_path / "model_save-checkpoint"

    def killed(*_: object) -> None:
        assert (folder / "open_set.json").is_file() and "Same or different?" in (folder / "open_set.html").read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr("report.gallery.draw_set", killed)
    with pytest.raises(KeyboardInterrupt):
        open_set.main(settings(tmp_path, trained))


def test_results_of_another_checkpoint_of_that_name_are_refused_and_kept(trained, tmp_path):
    shutil.copytree(trained / "model_save", tmp_path / "b" / "model_save")
    results = tmp_path / "results"
    open_set.main(settings(results, trained))
    before = {path.name: path.read_bytes() for path in (results / "model_save-checkpoint").iterdir()}
    other = tmp_path / "b" / "model_save" / "checkpoint.pt"
    options = ("--csv-dir", str(trained / "csv_split"), "--results-dir", str(results))
    line = refuse("test.py", str(other), *options, cwd=tmp_path)
    assert str(other) in line and str(trained / "model_save" / "checkpoint.pt") in line and "--results-dir" in line
    for script, config in (
        (open_set, replace(settings(results, trained), checkpoint=str(other))),
        (predict, predict.Config(str(other), (str(trained / "csv_split" / "test.csv"),), results_dir=str(results))),
    ):
        with pytest.raises(InputError, match="holds the results of"):
            script.main(config)
    assert {path.name: path.read_bytes() for path in (results / "model_save-checkpoint").iterdir()} == before


def test_without_held_out_classes_open_set_says_so(original, tmp_path, empty_pictures):
    shutil.copytree(original / "data_", tmp_path / "data_")
    succeed("csv_split.py", "--per-class", str(PER_CLASS), cwd=tmp_path)
    succeed("train.py", *SMALL_RUN, "--epochs", "1", cwd=tmp_path)
    output = succeed("open_set.py", "model_save/checkpoint.pt", "--bootstrap", "5", cwd=tmp_path)
    assert "No class was held out of training" in output and "csv_split.py --unseen NAMES" in output


@pytest.mark.parametrize("script", ["test.py", "open_set.py"])
def test_what_is_not_a_checkpoint_is_one_line(trained, tmp_path, script):
    (tmp_path / "c.pt").write_text("hello")
    before = sorted((trained / "results").rglob("*"))
    assert "c.pt: not a checkpoint" in refuse(script, str(tmp_path / "c.pt"), cwd=trained)
    assert "none.pt: no such file" in refuse(script, "none.pt", cwd=trained)
    assert sorted((trained / "results").rglob("*")) == before


@pytest.mark.parametrize("script", ["test.py", "open_set.py"])
def test_a_checkpoint_of_other_classes_or_of_another_order_is_refused(trained, tmp_path, script):
    shutil.copytree(trained / "csv_split", tmp_path / "csv_split")
    (tmp_path / "data_").symlink_to(trained / "data_")
    checkpoint = str(trained / "model_save/checkpoint.pt")
    renamed = [("complex00,", "other,")]
    swapped = [(",1,", ",x,"), (",0,", ",1,"), (",x,", ",0,")]
    for changes, found in ((renamed, "other, complex01"), (swapped, "complex01, complex00")):
        for part in ("train", "valid", "test"):
            text = (trained / "csv_split" / f"{part}.csv").read_text()
            for before, after in changes:
                text = text.replace(before, after)
            (tmp_path / "csv_split" / f"{part}.csv").write_text(text)
        line = refuse(script, checkpoint, cwd=tmp_path)
        assert f"classes {found}" in line
        assert "expected complex00" in line and "as the checkpoint has them; --csv-dir names" in line


def test_test_req_says_what_to_do_about_an_old_version_an_old_python_and_a_broken_torch(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert test_req.main() == 1
    assert "torch is installed but cannot be imported" in capsys.readouterr().err
    monkeypatch.setitem(test_req.MINIMA, "numpy", "99")
    assert test_req.main() == 1
    said = capsys.readouterr()
    assert "too old  numpy" in said.out
    assert "something is missing or too old; in the repository: pip install -r requirements.txt" in said.err
    monkeypatch.setattr(test_req, "MIN_PYTHON", (99, 0))
    assert test_req.main() == 1
    assert "python is too old: install python 99.0 or newer" in capsys.readouterr().err


def test_test_req_names_what_is_missing(tmp_path):
    """With an interpreter that has no packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(REPOSITORY / "test_req.py")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "missing  torch" in done.stdout
    assert "pip install -r requirements.txt; or ./run_tests.sh" in done.stderr
    assert run_script("test_req.py", cwd=tmp_path).returncode == 0
