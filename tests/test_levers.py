"""The rows of the benchmark of levers: what each changes, and that train.py takes it."""

from dataclasses import fields

import pytest
import tyro

import train
from benchmarks import study
from benchmarks.levers import LEVERS, QUICK, row_options
from training.checks import check


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
