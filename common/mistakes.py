"""What is wrong with a command line, in one line of our own words; tyro's parser has others."""

import dataclasses
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

NUMBERS = {int: "whole number", float: "number", str: "text"}
KIND = re.compile(r"^(?:\[\w+ \[\w+ \.\.\.\]\]|[A-Z]+)\s")  # STR, or [STR [STR ...]], before what an option means


def in_our_words(said: str, config_class: type, words: Sequence[str]) -> str:
    """What tyro says of a command line, with the option, what was given to it and what it can be.

    Args:
        said: tyro's text on one line.
        config_class: the dataclass that is read.
        words: of the command line, without the script.
    """
    if unknown := re.match(r"Unrecognized options: (.*)", said):
        return f"{unknown[1]}: not expected; --help lists the options"
    if missing := re.match(r"Missing from [^:]*: (.*)", said):
        parts = [part.strip() for part in missing[1].split("(required)") if part.strip()]
        return f"missing: {'; '.join(map(_missing, parts))}"
    if missing := re.match(r"Missing value for argument '(\w+)'", said):
        return f"missing: {missing[1]}; --help says what it is"
    option = re.search(r"(?:argument '|parsing )--([\w-]+)", said)
    kinds = dict(_kinds(config_class))
    if not option or option[1].replace("-", "_") not in kinds:
        return said
    given = " ".join([f"--{option[1]}", *_given(option[1], words)])
    return f"{given}: expected {expected(kinds[option[1].replace('-', '_')])}"


def expected(kind: Any) -> str:
    """What a value of a type is, in words: `one of a, b`, `3 numbers`."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(str(choice) for choice in parts if choice != '')}"
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join("None" if part is type(None) else expected(part) for part in parts)
    if get_origin(kind) is dict:
        return "a name and a value for each"
    if get_origin(kind) is tuple:
        noun = NUMBERS.get(parts[0], "value")
        return f"{noun}s" if parts[-1] is Ellipsis else f"{len(parts)} {noun}s"
    return f"a {NUMBERS.get(kind, 'value')}"


def _missing(part: str) -> str:
    """`--out STR folder of ...` -> `--out, folder of ...`; of an argument without a name what it means."""
    name, _, rest = part.partition(" ") if part.startswith("--") else ("", "", part)
    return ", ".join(filter(None, [name, KIND.sub("", rest)]))


def _kinds(config_class: type) -> Iterator[tuple[str, Any]]:
    """Each option's name and type, with those of the groups in it."""
    for field in dataclasses.fields(config_class):
        kind = get_args(field.type)[0] if hasattr(field.type, "__metadata__") else field.type  # without tyro's marks
        if dataclasses.is_dataclass(kind):
            yield from _kinds(kind)
        else:
            yield field.name, kind


def _given(option: str, words: Sequence[str]) -> list[str]:
    """What follows an option, up to the next one."""
    flags = {f"--{option}", f"--{option.replace('-', '_')}"}
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in flags:
            rest = [value] if equals else []
            for following in words[at + 1 :]:
                if following.startswith("--"):
                    break
                rest.append(following)
            return rest
    return []
