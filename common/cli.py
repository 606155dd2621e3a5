"""What every script does the same way: options, the device, the data folder, one clear line for a user's mistake."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

REPOSITORY = Path(__file__).resolve().parent.parent


class InputError(ValueError):
    """A mistake in what the user gave: the message names the file, what was found and what was expected."""


def run(main: Callable, config_class: type, description: str | None) -> None:
    """Read the command line into `config_class` and call `main`; an `InputError` ends with one line and exit code 2."""
    cfg = tyro.cli(config_class, description=description)
    try:
        main(cfg)
    except InputError as error:
        script = Path(sys.argv[0]).name
        print(f"{script}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def choose_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`; `auto` is CUDA where there is one.

    Raises InputError for another name, or for `cuda` without one.
    """
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
            print(f"{given} is not in {os.getcwd()}; using {folder}")
            return folder
    raise InputError(
        f"{given}: no such folder, nor {', '.join(map(str, tried))}; make it with simulate.py or give --data-dir"
    )
