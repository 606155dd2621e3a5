"""Every line of every script's --help: the comment of a constant, read from its source as tyro reads it."""

import dataclasses
import importlib
import inspect
import re
from typing import get_args

import pytest

import simulate
from common.cli import REPOSITORY, Device

FOLDERS = ("", "benchmarks", "docs")
FEWEST_WORDS = 3
HANGING = {"of", "in", "for", "with", "at", "that", "those", "to", "by", "as", "per", "another"}  # what needs a subject
LISTED = re.compile(r"\b\w+, \w+ or \w+\b")  # a, b or c: what a text can be
RECIPE = "set"  # of simulate.py: common/cli.py reads it before the other options, and says what it can be


def config_classes():
    """Each class of constants once: Config of every script and benchmark, and the groups that these have."""
    found = [simulate.Expert, simulate.Imaging]
    for folder in FOLDERS:
        for path in sorted((REPOSITORY / folder).glob("*.py")):
            if "class Config" in path.read_text(encoding="utf-8"):
                found += importlib.import_module(f"{folder}.{path.stem}".lstrip(".")).Config.__mro__[:-1]
    return list(dict.fromkeys(found))


def own_options(kind):
    """Name, type and comment of each constant that a class itself states; the groups in it have their own lines."""
    comments = dict(re.findall(r"^    (\w+): .*?(?:  # (.*))?$", inspect.getsource(kind), re.MULTILINE))
    for field in dataclasses.fields(kind):
        if field.name in vars(kind).get("__annotations__", {}) and not dataclasses.is_dataclass(plain(field.type)):
            yield field.name, plain(field.type), comments[field.name]


def plain(kind):
    """A type without tyro's marks."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


@pytest.mark.parametrize("kind", config_classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_line_of_help_is_a_phrase_that_stands_alone(kind):
    options = list(own_options(kind))
    assert options
    for name, _, text in options:
        words = text.split()
        assert len(words) >= FEWEST_WORDS, f"{name}: {text!r} is too short to stand alone"
        assert not re.match(r"[A-Z][a-z]", text), f"{name}: {text!r} begins with a capital letter"
        assert words[0] not in HANGING, f"{name}: {text!r} needs the name of the option to be understood"
        assert not text.endswith("."), f"{name}: {text!r} is a phrase, not a sentence"


@pytest.mark.parametrize("kind", config_classes(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_what_has_few_values_is_a_choice_that_help_shows(kind):
    for name, of, text in own_options(kind):
        if name == "device":
            assert of is Device
        if of is str and name != RECIPE:
            assert not LISTED.search(text), f"{name}: {text!r} lists what should be a Literal"
