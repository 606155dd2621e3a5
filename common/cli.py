"""What every script does the same way: options, the device, the data folder, one clear line for a user's mistake."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


REPOSITORY = Path(__file__).resolve().parent.parent
HOLD_S = 10  # until a process speaks itself: torchrun ends all when the first has spoken and ended


class InputError(ValueError):
    """A mistake in what the user gave: the message names the file, what was found and what was expected.

    It is one line, whatever line breaks other packages put into theirs; `listed` gives each of several mistakes a line
    of its own below it.
    """

    def __init__(self, message: object, listed: Sequence[str] = ()):
        super().__init__("\n  ".join(map(one_line, [message, *listed])))


def one_line(text: object) -> str:
    """A text without its line breaks."""
    return " ".join(filter(None, map(str.strip, str(text).splitlines())))


def warn(text: str) -> None:
    """Tell the user of something that is likely not meant; one process of those that torchrun started does."""
    if is_first_process():
        print(f"{Path(sys.argv[0]).name}: warning: {text}", file=sys.stderr)


def plural(noun: str, count: int) -> str:
    """`class` for 1, `classes` for any other count."""
    return noun if count == 1 else noun + ("es" if noun.endswith("s") else "s")


def run(
    main: Callable,
    config_class: type,
    description: str | None,
    recipes: dict[str, dict[str, Any]] | None = None,
    option: str = "recipe",
) -> None:
    """Read the command line into `config_class` and call `main`; an `InputError` ends with one line and exit code 2.

    Of the processes that torchrun started, the first on each machine says it; another does where the first goes on.
    With `recipes`, `--recipe NAME`, or another `option`, puts the recipe's values in the place of the defaults; other
    options override them.
    """
    import tyro  # here, as torch below: a folder that takes but an InputError from this module needs neither

    try:
        default = config_class(**chosen_recipe(recipes, option)) if recipes else None
        main(tyro.cli(config_class, description=description, default=default))
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(HOLD_S)
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def chosen_recipe(recipes: dict[str, dict[str, Any]], option: str) -> dict[str, Any]:
    """The values of the recipe that `--<option>` names on the command line, with its name; none without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{option}", nargs="?")
    name = getattr(parser.parse_known_args()[0], option)
    if name is None:
        return {}
    if name not in recipes:
        raise InputError(f"--{option} {name}: expected one of {', '.join(recipes)}")
    return {**recipes[name], option: name}


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
