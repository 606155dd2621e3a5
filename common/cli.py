"""What every script does the same way: options, the device, the data folder, one clear line for a user's mistake."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from common.mistakes import expected, in_our_words

if TYPE_CHECKING:
    import torch
    import tyro

Device = Literal["auto", "cpu", "cuda"]  # where to compute; auto is CUDA where there is one
Contrast = Literal["bright", "dark"]  # of the particles in the files

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_NAMED = 10  # names in a line
TOO_LONG = re.compile(r"\S{500,}")  # as no path that a user reads
SHOWN = 150  # characters of its beginning, and of its end
LARGEST_SEED = 2**31 - 1  # NumPy, scikit-learn and torch take every seed up to it, and a few above
HOLD_S = 10  # until a process speaks itself: torchrun ends all when the first has spoken and ended


class InputError(ValueError):
    """A mistake in what the user gave: the message names the file, what was found and what was expected.

    It is one line, whatever line breaks other packages put into theirs; `listed` gives each of several mistakes a line
    of its own below it.
    """

    def __init__(self, message: object, listed: Sequence[str] = ()):
        super().__init__("\n  ".join(map(one_line, [message, *listed])))


def one_line(text: object) -> str:
    """A text without its line breaks, and of what is too long to be a name its beginning and end."""
    joined = " ".join(filter(None, map(str.strip, str(text).splitlines())))
    return TOO_LONG.sub(lambda found: f"{found[0][:SHOWN]}...{found[0][-SHOWN:]}", joined)


def warn(text: str) -> None:
    """Tell the user of something that is likely not meant; one process of those that torchrun started does."""
    if is_first_process():
        print(f"{script_name()}: warning: {text}", file=sys.stderr)


def plural(noun: str, count: int) -> str:
    """`class` for 1, `classes` for any other count; `box` likewise."""
    return noun if count == 1 else noun + ("es" if noun.endswith(("s", "x")) else "s")


def named(names: Iterable, most: int = MOST_NAMED) -> str:
    """`a, b and 3 more`: some names in a line, at most `most` of them in words."""
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def run(
    main: Callable,
    config_class: type,
    description: str | None,
    recipes: dict[str, dict[str, Any]] | None = None,
    option: str = "recipe",
    defaults: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Read the command line into `config_class` and call `main`; an `InputError` ends with one line and exit code 2.

    Ctrl-C and SIGTERM end with one line too, after what was half-written is removed. Of the processes that torchrun
    started, the first on each machine says it; another does where the first goes on. Where nobody reads on what
    it prints (`| head -3`) a script ends without a word. With `recipes`, `--recipe NAME`, or another `option`, puts the
    recipe's values in the place of the defaults, and what `defaults` gives in the place of both; other options override
    them.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        values = (chosen_recipe(recipes, option) if recipes else {}) | (defaults() if defaults else {})
        default = config_class(**values) if recipes or defaults else None
        _call(main, config_class, description, default)
    except InputError as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to clear away; torchrun ends it silently
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(HOLD_S)
        print(f"{script_name()}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _end("interrupted", signal.SIGINT)
    except Terminated:
        _end("ended by SIGTERM", signal.SIGTERM)
    except BrokenPipeError:  # who read what the script printed has had enough: `| head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python prints as it ends
        sys.exit(128 + signal.SIGPIPE)
    finally:
        signal.signal(signal.SIGTERM, before)


def _call(main: Callable, config_class: type, description: str | None, default: Any) -> None:
    """Read the options, check what every script checks, and call `main`; all that was printed is out afterwards."""
    try:
        cfg = read_options(config_class, description, default)
        check_seeds(cfg)
        main(cfg)
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is Ctrl-C."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _end(text: str, number: int) -> None:
    """End as a process that a signal ends, with one line."""
    if is_first_process():
        print(f"\n{script_name()}: {text}", file=sys.stderr)
    sys.exit(128 + number)


def script_name() -> str:
    return Path(sys.argv[0]).name


def read_options(config_class: type, description: str | None, default: Any = None) -> Any:
    """The command line as `config_class`, a dataclass; the fields of each dataclass that it inherits from are a group
    in --help, named after that class.

    Raises InputError for an option that there is not, or a value that an option cannot have.
    """
    import tyro  # here, as torch below: a folder that takes but an InputError from this module needs neither

    registry = tyro.constructors.ConstructorRegistry()
    registry.struct_rule(_Grouped(config_class))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config_class, description=description, default=default, registry=registry)
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(in_our_words(one_line(_first_part(said.getvalue())), config_class, sys.argv[1:])) from None


class _Grouped:
    """A rule for tyro: the dataclasses that `config_class` inherits from are parts of it, whose options keep their
    names."""

    def __init__(self, config_class: type):
        self.config_class, self.asked = config_class, False
        self.bases = [base for base in config_class.__bases__ if dataclasses.is_dataclass(base)]

    def __call__(self, info: "tyro.constructors.StructTypeInfo") -> "tyro.constructors.StructConstructorSpec | None":
        from tyro.conf import OmitArgPrefixes
        from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec

        if info.type is not self.config_class or not self.bases or self.asked:
            return None
        self.asked = True
        flat = {field.name: field for field in ConstructorRegistry.get_struct_spec(info).fields}  # as without this rule
        self.asked = False
        groups = []
        for base in self.bases:
            inside = {field.name: flat.pop(field.name).default for field in dataclasses.fields(base)}
            groups.append(StructFieldSpec(base.__name__.lower(), OmitArgPrefixes[base], base(**inside)))

        def build(**parts: Any) -> Any:
            inside = [vars(parts.pop(group.name)) for group in groups]
            return self.config_class(**parts, **{name: value for part in inside for name, value in part.items()})

        return StructConstructorSpec(build, (*flat.values(), *groups))


def _first_part(box: str) -> str:
    """What stands in the first part of tyro's box of errors."""
    lines = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")]
    return " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines)) or box


def check_choices(cfg: Any) -> None:
    """Refuse a value that a `Literal` field of a dataclass does not list; InputError names the option."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if get_origin(field.type) is Literal and value not in get_args(field.type):
            raise InputError(f"--{field.name.replace('_', '-')} {value}: expected {expected(field.type)}")


def check_seeds(cfg: Any) -> None:
    """Refuse a seed that not every random generator takes, in a dataclass and those in it; InputError names it."""
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            check_seeds(value)
        elif field.name.split("_")[-1] == "seed" and value is not None and not 0 <= value <= LARGEST_SEED:
            raise InputError(f"--{field.name.replace('_', '-')} {value}: expected 0 to {LARGEST_SEED}")


def chosen_recipe(recipes: dict[str, dict[str, Any]], option: str) -> dict[str, Any]:
    """The values of the recipe that `--<option>` names on the command line, with its name; none without it."""
    name = given_value(option)
    if name is None:
        return {}
    if name not in recipes:
        raise InputError(f"--{option} {name}: expected one of {', '.join(recipes)}")
    return {**recipes[name], option: name}


def given_value(option: str) -> str | None:
    """What follows `--<option>` on the command line, before all of it is read; None without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{option}", nargs="?")
    return getattr(parser.parse_known_args()[0], option)


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started: the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def choose_device(name: str) -> "torch.device":
    """The torch device for `auto`, `cpu` or `cuda`; `auto` is CUDA where there is one.

    Raises InputError for another name, or for `cuda` without one.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def find_data_dir(data_dir: str) -> Path:
    """The data folder: as given, else beside the current folder or the repository, or in it; the choice is printed.

    Raises InputError when there is none.
    """
    given = Path(data_dir)
    if given.is_dir():
        return given
    if given.is_absolute():
        raise InputError(f"{given}: no such folder; expected the data folder (--data-dir)")
    tried = [Path("..") / given, REPOSITORY / given, REPOSITORY.parent / given]
    for folder in tried:
        if folder.is_dir():
            if is_first_process():
                print(f"{given} is not in {os.getcwd()}; using {folder}")
            return folder
    raise InputError(
        f"{given}: no such folder, nor {', '.join(map(str, tried))}; make it with simulate.py or give --data-dir"
    )
