"""Parts of a report as JSON: the keys that scripts of users read."""

import json
from dataclasses import dataclass

import pytest

from evaluation.figures import NO_FIGURE, BySnr, Figure, plain


@dataclass(frozen=True)
class Shares:
    share: Figure
    n: int
    reason: str = ""


@dataclass(frozen=True)
class Part(BySnr[Shares]):
    rates: dict[str, Figure]
    class_: str
    per_class: dict[str, Shares] | None
    others: list[Shares]
    asked: Shares | None = None


def test_a_figure_makes_two_keys_and_a_default_none():
    assert plain(Shares(Figure(0.5, [0.4, 0.6]), 3)) == {"share": 0.5, "share_interval": [0.4, 0.6], "n": 3}
    found = plain(Shares(NO_FIGURE, 0, "no rows"))
    assert found == {"share": None, "share_interval": None, "n": 0, "reason": "no rows"}


def test_parts_are_lists_and_dictionaries_with_the_names_of_levels_and_classes_among_the_keys():
    few, many = Shares(Figure(1.0, None), 2), Shares(Figure(0.5, None), 9)
    part = Part(many, {"003": few}, {"0.01": Figure(None, None, "few pairs"), "0.1": few.share}, "a", {"b": few}, [few])
    small = {"share": 1.0, "share_interval": None, "n": 2}
    found = plain(part)
    assert found == {
        "share": 0.5,
        "share_interval": None,
        "n": 9,
        "per_snr": [{"snr": "003", **small}],
        "rates": {
            "0.01": {"value": None, "interval": None, "reason": "few pairs"},
            "0.1": {"value": 1.0, "interval": None},
        },
        "class": "a",
        "per_class": [{"class": "b", **small}],
        "others": [small],
    }
    assert json.loads(json.dumps(found)) == found
    assert plain(Part(many, {}, {}, "a", None, [], few)) | {"asked": 0} == {
        **{"share": 0.5, "share_interval": None, "n": 9, "per_snr": [], "rates": {}, "class": "a"},
        **{"per_class": None, "others": [], "asked": 0},
    }


def test_figures_cannot_be_changed():
    with pytest.raises(AttributeError):
        NO_FIGURE.value = 1.0
