"""What all scripts do with their command lines."""

import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from common.cli import InputError, check_choices, read_options


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
        (("--kind", "third"), r"^invalid choice 'third' for argument '--kind'. Expected one of \('one', 'other'\)\.$"),
        (("--county", "3"), r"^Unrecognized options: --county, 3$"),
        (("--count", "many"), r"^Error parsing --count: .*'many'$"),
        (("--rare-range", "1"), r"^Missing value for argument '--rare-range'\. Expected 2 values\.$"),
    ],
)
def test_a_mistake_in_an_option_is_one_line(monkeypatch, words, message):
    with pytest.raises(InputError, match=message):
        read(monkeypatch, *words)


def test_a_choice_is_checked_also_where_no_command_line_was_read():
    check_choices(Config(kind="other"))
    with pytest.raises(InputError, match=r"^--kind third: expected one of one, other$"):
        check_choices(Config(kind="third"))
