"""The benchmarks that run the scripts, on the small data set: what they measure, choose, keep and never read."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import train
from benchmarks import (
    class_diversity,
    hard_set,
    losses,
    recipes,
    select_score,
    stream,
    study,
)
from benchmarks.study import ScriptError
from common.cli import REPOSITORY, InputError
from simulation.class_sets import ClassSet
from tests.scripts import SMALL_RUN
from training.recipes import RECIPES

TINY = dict(zip((name.removeprefix("--").replace("-", "_") for name in SMALL_RUN[::2]), SMALL_RUN[1::2], strict=True))
TINY |= {"epochs": "2"}


@pytest.fixture
def split(workspace: Path, tmp_path: Path) -> Path:
    """The small split without what chooses nothing, pointing at the workspace's data."""
    (tmp_path / "data_").symlink_to(workspace / "data_")
    return Path(shutil.copytree(workspace / "csv_split", tmp_path / "csv_split"))


def test_losses_killed_in_a_run_goes_on_with_it_and_repeats_no_other(workspace, tmp_path, in_process):
    given = {"work_dir": str(tmp_path / "work"), "csv_dir": str(workspace / "csv_split"), "quick": True, "seeds": (9,)}
    given |= {"device": "cpu", "results": str(tmp_path / "losses")}
    whole = losses.Config(**given, rows=("softmax", "soft_lmccl_m0"), train_options=TINY)
    losses.main(replace(whole, rows=("softmax",)))
    finished, next_run = tmp_path / "work" / "softmax-9", tmp_path / "work" / "soft_lmccl_m0-9"
    before = (finished / "result.json").stat().st_mtime_ns

    words = [word for pair in TINY.items() for word in pair]
    options = study.arguments({**given, "rows": whole.rows, "train_options": words})
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.losses", *options],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end = time.monotonic() + 120
        while not (next_run / "model_save/last.pt").exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (next_run / "model_save" / "last.pt").is_file(), (tmp_path / "log").read_text()
    assert not (next_run / "result.json").exists()
    partial = json.loads((tmp_path / "losses.json").read_text())
    assert len(partial["rows"]["softmax"]["runs"]) == 1 and not partial["rows"]["soft_lmccl_m0"]["runs"]
    assert "Not finished: 1 runs" in (tmp_path / "losses.md").read_text()

    del in_process[:]
    losses.main(whole)
    assert in_process == ["train.py", "test.py", "open_set.py"]
    assert (finished / "result.json").stat().st_mtime_ns == before
    content = json.loads((tmp_path / "losses.json").read_text())
    assert content["rows"]["softmax"]["runs"] == partial["rows"]["softmax"]["runs"]
    assert content["rows"]["soft_lmccl_m0"]["options"] == {"m": 0.0}
    report = json.loads((finished / "results" / "model_save-checkpoint" / "open_set.json").read_text())
    (row,) = content["rows"]["softmax"]["runs"]
    assert row["unseen"]["auc"] == report["unseen"]["verification"]["unseen_unseen"]["auc"]
    (trial,) = content["rows"]["soft_lmccl_m0"]["runs"]
    assert "unseen" not in trial  # a row that tries an option must not see the final figures
    assert "Not finished" not in (tmp_path / "losses.md").read_text()
    assert not list((tmp_path / "work").glob("*-9/model_save/*.pt"))


FEW = ClassSet(("complex00", "complex01"), ("complex02", "complex03"), ("complex04", "complex05"))


def test_recipes_are_trained_each_with_its_own_options_and_the_size_of_all(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(study, "class_set", lambda structures: FEW)
    monkeypatch.setitem(RECIPES, "diverse", {**RECIPES["diverse"], "auxiliary": 3})
    cfg = recipes.Config(
        work_dir=str(tmp_path / "work"),
        quick=True,
        rows=("authors", "diverse"),
        simulate_options={"per_class": "10", "snr": "0.1 inf", "box": "16", "voxel_size": "24", "resolution": "24"},
        train_options={name: value for name, value in TINY.items() if name not in ("backbone", "depth", "lr")},
        device="cpu",
        results=str(tmp_path / "recipes"),
    )
    with pytest.raises(InputError, match="--rows nothing: expected some of default, diverse"):
        recipes.main(replace(cfg, rows=("nothing",)))
    recipes.main(cfg)
    trained = {}
    for name in cfg.rows:
        log = pd.read_csv(tmp_path / "work" / f"{name}-9" / "model_save" / "log.csv")
        assert len(log) == int(TINY["epochs"])
        trained[name] = log["lr"].iloc[-1]
    assert trained["authors"] == RECIPES["authors"]["lr"] != trained["diverse"]
    content = json.loads((tmp_path / "recipes.json").read_text())
    assert content["rows"]["diverse"]["recipe"] == RECIPES["diverse"] and content["rows"].keys() == {*cfg.rows}
    networks = {name: row["runs"][0]["backbone"] for name, row in content["rows"].items()}
    assert networks == {"authors": "sphere20", "diverse": train.Config.backbone}
    table = (tmp_path / "recipes.md").read_text()
    for name, row in content["rows"].items():
        assert f"| {name} | {row['runs'][0]['backbone']} | 1 | {row['mean']['accuracy']['mean']:.3f} |" in table
    del in_process[:]
    recipes.main(cfg)
    assert not in_process


def finished(seed: int, auc: float) -> dict:
    entry = dict.fromkeys(study.MEASURES, 0.5) | {"auc": auc, "score": "max_cosine", "classes": ["c"], "n": 4}
    entry |= {"n_same": 5, "n_different": 6}
    return {
        "seed": seed,
        "accuracy": 0.7,
        "known": ["a", "b"],
        "n_test": 8,
        "snr_convention": "lab",
        "valid_unseen": entry,
    }


def test_the_best_loss_is_that_of_the_highest_mean_auc_and_soft_lmccl_is_told_if_it_is_not():
    done = {
        "soft_lmccl": [finished(1, 0.80), finished(2, 0.82)],
        "softmax": [finished(1, 0.84), finished(2, 0.88)],
        "triplet": [finished(1, 0.99), finished(2, 0.61)],
    }
    report = losses.report(done)
    assert report["best"] == "softmax"
    assert "**softmax**, 0.860 ± 0.028. Soft LMCCL (soft_lmccl) is not the best: 0.810 ± 0.014" in report["verdict"]
    assert "behind by 0.050 ± 0.014 (mean difference of the 2 seeds" in report["verdict"]
    assert losses.report({"soft_lmccl": done["soft_lmccl"]})["verdict"].endswith("Soft LMCCL is the best.")
    machine = {"device": "cpu", "threads": 1, "torch": "2"}
    page = losses.page({"command": "c", "data": {"source": "x"}, "train": {}, "seeds": [1, 2], **machine, **report})
    assert "| **softmax** (best) | 2 | 0.860 ± 0.028 |" in page


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def train(folder: Path, csv_dir: Path, options: dict) -> Path:
        if options["loss"] == "softmax":
            raise ScriptError("train.py ended")
        return folder

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "evaluate", lambda *_: {})
    monkeypatch.setattr(study, "figures", lambda *_: {k: v for k, v in finished(9, 0.8).items() if k != "seed"})
    cfg = losses.Config(
        work_dir=str(tmp_path), csv_dir="x", rows=("softmax", "lmcl"), seeds=(9,), results=str(tmp_path / "l")
    )
    with pytest.raises(InputError, match=r"1 runs failed, call again to repeat them: softmax, seed 9: train\.py ended"):
        losses.main(cfg)
    assert len(json.loads((tmp_path / "l.json").read_text())["rows"]["lmcl"]["runs"]) == 1
    assert not (tmp_path / "softmax-9" / "result.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": ("softmax", "nothing")}, "--rows nothing: expected some of soft_lmccl"),
        ({"seeds": ()}, "0 --seeds"),
        ({"train_options": {"loss": "softmax"}}, "--train-options loss"),
    ],
)
def test_losses_refuses_what_it_cannot_run(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        losses.main(losses.Config(work_dir=str(tmp_path / "work"), **options))
    assert not (tmp_path / "work").exists()


def case(auroc: tuple[float, ...], oscr: tuple[float, ...]) -> dict:
    return {name: {"auroc": a, "oscr": o} for name, a, o in zip("abc", auroc, oscr, strict=True)}


def test_the_winning_score_has_the_lowest_mean_rank_then_the_highest_oscr():
    # ranks of a, b, c: (1, 2, 3), (3, 2, 1), (2.5, 2.5, 1): means 6.5/3, 6.5/3, 5/3
    cases = [
        case((0.9, 0.8, 0.7), (0.5, 0.6, 0.1)),
        case((0.1, 0.5, 0.6), (0.5, 0.6, 0.1)),
        case((0.7, 0.7, 0.8), (0.5, 0.6, 0.1)),
    ]
    ranked = select_score.rank(cases)
    assert [entry["score"] for entry in ranked] == ["c", "b", "a"]
    assert [entry["mean_rank"] for entry in ranked] == pytest.approx([5 / 3, 6.5 / 3, 6.5 / 3])
    assert [entry["mean_oscr"] for entry in ranked] == pytest.approx([0.1, 0.6, 0.5])


def test_select_score_reads_no_class_for_the_final_figures(split, tmp_path, in_process):
    for name in ("unseen", "test"):
        (split / f"{name}.csv").unlink()
    cfg = select_score.Config(
        work_dir=str(tmp_path / "work"),
        csv_dir=str(split),
        quick=True,
        folds=3,
        seeds=(9,),
        train_options=TINY,
        device="cpu",
        results=str(tmp_path / "select_score"),
    )
    select_score.main(cfg)
    assert in_process == ["train.py", "open_set.py"] * 4
    content = json.loads((tmp_path / "select_score.json").read_text())
    assert [entry["case"] for entry in content["cases"]] == ["fold0", "fold1", "fold2", "valid_unseen"]
    assert {len(entry["scores"]) for entry in content["cases"]} == {5}
    left_out = [content["unknown_classes"][f"fold{number}"] for number in range(3)]
    assert sorted(label for labels in left_out for label in labels) == ["complex00", "complex01", "complex02"]

    valid = pd.read_csv(split / "valid.csv")
    for number, labels in enumerate(left_out):
        made = {name: pd.read_csv(tmp_path / f"work/fold{number}/csv_split/{name}.csv") for name in study.PARTS}
        assert not {*made["train"]["Actual Label"]} & {*labels} and not len(made["unseen"])
        assert sorted(made["train"]["Class"].unique()) == [0, 1]
        assert {*made["valid_unseen"]["Particle"]} == {*valid["Particle"][valid["Actual Label"].isin(labels)]}
        assert {*made["test"]["Particle"]} == {*valid["Particle"][~valid["Actual Label"].isin(labels)]}
    page = (tmp_path / "select_score.md").read_text()
    assert f"**{content['scores'][0]['score']}** wins" in page
    select_score.main(cfg)
    assert len(in_process) == 8


def test_folds_that_leave_too_few_known_classes_are_refused(split, tmp_path):
    with pytest.raises(InputError, match="--folds 2 of 3 known classes"):
        select_score.main(select_score.Config(work_dir=str(tmp_path / "work"), csv_dir=str(split), folds=2))


def test_hard_data_are_the_same_particles_under_worse_conditions(trained, tmp_path, in_process):
    cfg = hard_set.Config(
        str(trained / "model_save" / "checkpoint.pt"),
        csv_dir=str(trained / "csv_split"),
        data_dir=str(trained / "data_"),
        work_dir=str(tmp_path / "work"),
        bootstrap=2,
        device="cpu",
        results=str(tmp_path / "hard_set"),
    )
    hard_set.main(cfg)
    assert in_process == ["simulate.py", "csv_split.py", *["test.py", "open_set.py"] * 2]
    made = json.loads((tmp_path / "work" / "data_" / "simulation.json").read_text())
    before = json.loads((trained / "data_" / "simulation.json").read_text())
    changed = {key for key in made if made[key] != before.get(key)} - {"procedural", "classes"}
    assert changed == {"neighbours", "shift", "defocus", "crop"}
    folder = tmp_path / "work" / "trained_on_easy" / "hard" / "csv_split"
    easy, mixed, hard = map(hard_set.read_parts, (trained / "csv_split", folder, tmp_path / "work" / "csv_split"))
    for name in study.PARTS:
        assert {*easy[name]["Particle"]} == {*hard[name]["Particle"]}
        source, other = (easy, hard) if name in ("train", "valid") else (hard, easy)
        assert list(mixed[name]["Input Data"]) == list(source[name]["Input Data"])
        assert not {*mixed[name]["Input Data"]} & {*other[name]["Input Data"]}
    figures = json.loads((tmp_path / "hard_set.json").read_text())["figures"]["easy"]
    assert list(figures) == ["easy", "hard"]
    for part in ("test", "unseen"):
        first, second = ([value for value, _ in each["sets"][part].values()] for each in figures.values())
        assert len(first) > 2 and first != second
    assert "| unseen.csv, n = 40 volumes | easy | hard |" in (tmp_path / "hard_set.md").read_text()


def test_hard_data_split_otherwise_are_refused(split):
    easy = hard_set.read_parts(split)
    other = easy | {"test": easy["valid"]}
    with pytest.raises(InputError, match=r"test.csv: other particles in the hard data .* --split-options"):
        hard_set.check_same_particles({"easy": easy, "hard": other})


def test_data_of_coordinate_files_need_their_folder(tmp_path):
    with pytest.raises(InputError, match=r"simulation\.json: no such file"):
        hard_set.read_simulation(hard_set.Config("c.pt", data_dir=str(tmp_path)))
    (tmp_path / "simulation.json").write_text('{"files": {"1bxn": "0"}}')
    with pytest.raises(InputError, match="--structures"):
        hard_set.read_simulation(hard_set.Config("c.pt", data_dir=str(tmp_path)))


def test_the_stream_is_measured_at_every_renewal(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(study, "class_set", lambda structures: FEW)
    cfg = stream.Config(
        work_dir=str(tmp_path / "work"), results=str(tmp_path / "table"), quick=True, device="cpu", seeds=(9,),
        renewals=(1.0, 0.25), seconds=0.1,
        simulate_options={"per_class": "8", "snr": "0.1 inf", "box": "16", "voxel_size": "20"},
        train_options={**TINY, "epochs": "1", "online_volumes": "32", "online_stock": "32", "auxiliary": "2",
                       "online_neighbours": "0"},
    )  # fmt: skip
    stream.main(cfg)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["renewal"] for row in rows] == [1.0, 0.25]
    assert all(0 < row["speed"]["mean"] < 1.2 and row["valid_unseen"]["auc"]["mean"] > 0 for row in rows)
    assert rows[0]["speed"]["mean"] < rows[1]["speed"]["mean"]
    with pytest.raises(InputError, match="expected at least one"):
        stream.main(replace(cfg, renewals=()))


def test_class_diversity_trains_with_and_without_auxiliary_classes_and_the_best_again_with_more(
    tmp_path, in_process, monkeypatch
):
    monkeypatch.setattr(study, "class_set", lambda structures: FEW)
    cfg = class_diversity.Config(
        work_dir=str(tmp_path / "work"), results=str(tmp_path / "table"), quick=True, device="cpu", seeds=(9,),
        losses=("softmax",), auxiliary=(0, 3), more=("more steps",),
        simulate_options={"per_class": "8", "snr": "0.1 inf", "box": "16", "voxel_size": "20"},
        train_options={**TINY, "epochs": "1", "online_volumes": "32"},
    )  # fmt: skip
    class_diversity.main(cfg)
    content = json.loads((tmp_path / "table.json").read_text())
    assert "complex04" not in str(content["data"])  # an unseen class is not even made
    rows = {(row["auxiliary"], row["more"]): row for row in content["rows"]}
    assert {(0, ""), (3, "")} <= rows.keys()
    best = max([(0, ""), (3, "")], key=lambda key: rows[key]["auc"]["mean"])
    assert (best[0], "more steps") in rows and (0, "more steps") in rows
    settings = json.loads((tmp_path / "work" / f"softmax-{best[0]}-more_steps-9" / "result.json").read_text())[
        "settings"
    ]
    assert (settings["epochs"], settings["auxiliary"]) == (3, best[0])
    assert len((tmp_path / "table.md").read_text().splitlines()) == 8 + len(rows)
    called = len(in_process)
    class_diversity.main(cfg)
    assert len(in_process) == called
