"""The benchmark of levers: what a row changes, what is kept of an earlier call, and how the table ranks."""

import json
from dataclasses import fields

import pytest
import tyro

import train
from benchmarks import levers, study
from benchmarks.levers import LEVERS, QUICK, finished, merit, page, row_options
from simulation.sets import SETS
from training.checks import check

SETTINGS = {"data": {"source": "x", "sizes": (1, 2)}, "train": {"width": 16}, "minutes": 5.0, "per_class": 15}


def run(seed: int, auc: float) -> dict:
    figures = dict.fromkeys(("val", "auroc", "accuracy", "refused", "detected", "junk"), 0.5) | {"n": [30, 18]}
    return {
        "seed": seed,
        "matrix_seconds": 0.2,
        "volumes": 640,
        "sets": {name: figures | {"auc": auc} for name in SETS},
    }


def results(runs: dict[str, list[dict]]) -> dict:
    machine = {"device": "a CPU", "threads": 1, "torch": "2", "seeds": [9], "command": "python -m benchmarks.levers"}
    return SETTINGS | machine | {"rows": {name: {"options": LEVERS[name], "runs": of} for name, of in runs.items()}}


def test_a_row_changes_its_options_and_no_other():
    base = {"width": 16, "loss": "soft_lmccl", "loss_options": "margin_weight 0.3", "ema": 0}
    assert row_options(base, LEVERS["base"]) == base
    assert row_options(base, LEVERS["width x 1.5"]) == base | {"width": 24}
    assert row_options(base, LEVERS["softmax"]) == {"width": 16, "loss": "softmax", "ema": 0}


def settings(name: str) -> train.Config:
    """Of train.py, for a row of the quick size."""
    words = study.arguments(row_options(QUICK.train, LEVERS[name]))
    return tyro.cli(train.Config, args=words)


@pytest.mark.parametrize("name", LEVERS)
def test_train_takes_the_options_of_every_row_and_they_change_what_the_row_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, row = settings("base"), settings(name)
    check(row)
    changed = {field.name for field in fields(base) if getattr(base, field.name) != getattr(row, field.name)}
    assert changed == {*LEVERS[name]}


def test_rows_that_the_results_hold_are_kept_where_they_were_made_alike(tmp_path, monkeypatch):
    path = tmp_path / "levers.json"
    assert finished(path, SETTINGS) == {}
    path.write_text(json.dumps(results({"base": [run(9, 0.8)], "softmax": [run(9, 0.7)]})))
    assert finished(path, SETTINGS) == {"base": [run(9, 0.8)], "softmax": [run(9, 0.7)]}
    assert finished(path, SETTINGS | {"minutes": 10.0}) == finished(path, SETTINGS | {"train": {"width": 8}}) == {}
    monkeypatch.setitem(LEVERS, "softmax", {"loss": "arcface"})  # the row means something else now
    assert finished(path, SETTINGS) == {"base": [run(9, 0.8)]}


def test_the_best_row_comes_first_by_the_sets_that_rank():
    better = run(9, 0.9)
    better["sets"]["series"] = better["sets"]["series"] | {"auc": 0.1}  # which ranks nothing
    assert merit(better) == pytest.approx(0.9)
    text = page(results({"base": [run(9, 0.8), run(10, 0.82)], "softmax": [better]}))
    assert text.index("| softmax | 640 | 0.900 |") < text.index("| base | 640 | 0.810 ± 0.014 |")
    assert "30 volumes of known and 18 of valid_unseen" in text and levers.CHOOSING == ("benchmark", "lab", "hard")
