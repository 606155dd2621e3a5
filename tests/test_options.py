"""What all scripts do with their command lines."""

import re
import sys
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
import torch
import tyro

from common.cli import LARGEST_SEED, InputError, check_choices, check_seeds, read_options
from tests.scripts import refuse


@dataclass(frozen=True)
class Rarely:
    """What few runs change."""

    rare_share: float = 0.5  # share of what is rare
    rare_range: tuple[float, float] = (1.0, 2.0)  # range of what is rare


@dataclass(frozen=True)
class Config(Rarely):
    kind: Literal["one", "other"] = "one"  # kind of what is made
    count: int = 3  # number of what is made
    words: dict[str, str] = field(default_factory=dict)  # names and values
    depth: int | None = None  # number of levels
    many: tuple[int, ...] = ()  # numbers of what is made


@dataclass(frozen=True)
class Needed:
    file: tyro.conf.Positional[str]  # file of the OLD kind
    names: tuple[str, ...]  # names of what is made


def read(monkeypatch, *words, **default):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    return read_options(Config, "What it does.", Config(**default) if default else None)


def test_options_of_inherited_settings_keep_their_names_and_are_a_group_of_their_own(monkeypatch, capsys):
    assert read(monkeypatch) == Config()
    given = ("--rare-range", "3", "4", "--count", "5", "--words", "a", "b", "--kind", "other")
    assert read(monkeypatch, *given) == Config(0.5, (3.0, 4.0), "other", 5, {"a": "b"})
    assert read(monkeypatch, "--count", "5", count=9, rare_share=0.1) == Config(rare_share=0.1, count=5)
    with pytest.raises(SystemExit) as end:
        read(monkeypatch, "--help")
    assert not end.value.code
    options, _, group = capsys.readouterr().out.partition("rarely options")
    assert "--kind {one,other}" in options and "kind of what is made (default: one)" in options
    assert "What few runs change." in group and "share of what is rare (default: 0.5)" in group
    assert "--rare" not in options and "--count" not in group


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "third"), "--kind third: expected one of one, other"),
        (("--county", "3"), "--county, 3: not expected; --help lists the options"),
        (("--count", "many", "--kind", "one"), "--count many: expected a whole number"),
        (("--count=3.5",), "--count 3.5: expected a whole number"),
        (("--rare-share", "half"), "--rare-share half: expected a number"),
        (("--rare-range", "1"), "--rare-range 1: expected 2 numbers"),
        (("--rare-range", "1", "x"), "--rare-range 1 x: expected 2 numbers"),
        (("--words", "a"), "--words a: expected a name and a value for each"),
        (("--kind",), "--kind: expected one of one, other"),
        (("--depth", "deep"), "--depth deep: expected a whole number or None"),
        (("--many", "1", "x"), "--many 1 x: expected whole numbers"),
    ],
)
def test_a_mistake_in_an_option_is_one_line_of_our_own_words(monkeypatch, words, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read(monkeypatch, *words)


def test_what_is_missing_is_named_by_what_it_means(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(InputError, match=r"^missing: file of the OLD kind; --names, names of what is made$"):
        read_options(Needed, "What it does.")


def test_a_choice_is_checked_also_where_no_command_line_was_read():
    check_choices(Config(kind="other"))
    with pytest.raises(InputError, match=r"^--kind third: expected one of one, other$"):
        check_choices(Config(kind="third"))


@dataclass(frozen=True)
class Seeded:
    seed: int = 9
    shape_seed: int | None = None
    part: Config = field(default_factory=Config)


@dataclass(frozen=True)
class NeedsSeed:
    inside: Seeded


def test_a_seed_has_one_range_in_every_part_of_the_settings():
    for right in (Seeded(), Seeded(0, 0), Seeded(LARGEST_SEED, LARGEST_SEED)):
        check_seeds(right)
        check_seeds(NeedsSeed(right))
    for wrong, option in ((Seeded(-1), "--seed -1"), (Seeded(9, LARGEST_SEED + 1), f"--shape-seed {LARGEST_SEED + 1}")):
        for settings in (wrong, NeedsSeed(wrong)):
            with pytest.raises(InputError, match=f"{option}: expected 0 to {LARGEST_SEED}$"):
                check_seeds(settings)


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999999"])
@pytest.mark.parametrize(
    "words",
    [
        ("csv_split.py", "--seed"),
        ("train.py", "--seed"),
        ("train.py", "--auxiliary-seed"),
        ("test.py", "none.pt", "--seed"),
        ("open_set.py", "none.pt", "--seed"),
        ("simulate.py", "--shape-seed"),
        ("simulate_tomogram.py", "--seed"),
    ],
)
def test_every_script_refuses_a_seed_that_no_generator_takes(tmp_path, words, seed):
    said = refuse(*words, seed, cwd=tmp_path)
    assert said == f"{words[0]}: error: {words[-1]} {seed}: expected 0 to {LARGEST_SEED}"
    assert not list(tmp_path.iterdir())


def test_what_draws_takes_the_largest_seed():
    from sklearn.utils import check_random_state  # here, as only this test needs it

    for seed in (0, LARGEST_SEED + 100):  # scripts add small numbers to it
        np.random.default_rng(seed), check_random_state(seed), torch.Generator().manual_seed(seed)
