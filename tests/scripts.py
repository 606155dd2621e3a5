"""Run the project's scripts as a user does, and functions on two processes that train together."""

import dataclasses
import io
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import train

LIMIT_S = 180  # for processes that wait for each other for ever
SMALL_RUN = (
    *("--backbone", "resnet", "--width", "4", "--embedding-dim", "16", "--depth", "10"),
    *("--batch-size", "16", "--lr", "0.003"),
)
REPOSITORY = Path(__file__).resolve().parent.parent


def run_script(script: str | Path, *options: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script as a user does: another process, another folder."""
    environment = {**os.environ, "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, str(REPOSITORY / script), *options]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def call_script(script: str, *options: str, cwd: Path) -> subprocess.CompletedProcess:
    """The same in this process, which saves its start: what the script prints, and the code that it exits with."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [script, *map(str, options)])
        try:
            runpy.run_path(str(REPOSITORY / script), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess([script, *options], code, out.getvalue(), err.getvalue())


def succeed(script: str, *options: str, cwd: Path) -> str:
    """What a script printed, called in this process; it must exit with 0."""
    done = call_script(script, *options, cwd=cwd)
    assert done.returncode == 0, f"{script} {options}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def refuse(script: str, *options: str, cwd: Path) -> str:
    """The one line of a script, called in this process, that must refuse its input with exit code 2."""
    done = call_script(script, *options, cwd=cwd)
    assert done.returncode == 2, f"{script} {options} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stderr.splitlines()[-1]


def on_two_processes(job: Callable[[int], dict], folder: Path) -> list[dict]:
    """What `job(rank)` returns on each of two processes that talk over Gloo; a dict of tensors."""
    workers = mp.start_processes(_work, args=(job, str(folder)), nprocs=2, join=False, start_method="spawn")
    end = time.monotonic() + LIMIT_S
    while not workers.join(timeout=1):
        if time.monotonic() > end:
            for process in workers.processes:
                process.kill()
            pytest.fail(f"two processes did not end within {LIMIT_S} s")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _work(rank: int, job: Callable[[int], dict], folder: str) -> None:
    torch.set_num_threads(1)
    limit = timedelta(seconds=LIMIT_S)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    torch.save(job(rank), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def small(folder, **options):
    """The settings of SMALL_RUN, for a call in this process."""
    given = dict(zip(SMALL_RUN[::2], SMALL_RUN[1::2], strict=True))
    types = {field.name: field.type for field in dataclasses.fields(train.Config)}
    names = {option.removeprefix("--").replace("-", "_"): value for option, value in given.items()}
    settings = {name: types[name](value) if isinstance(types[name], type) else value for name, value in names.items()}
    places = {"csv_dir": str(folder / "csv_split"), "save_dir": str(folder / "model_save")}
    return train.Config(**{**settings, **places, **options})


def same(first: dict, second: dict) -> bool:
    """Whether two dicts hold the same tensors."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
