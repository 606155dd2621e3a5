"""A small simulated data set, its split and a trained checkpoint, made once by the scripts themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL_DATA = ("--procedural", "6", "--per-class", "10", "--snr", "0.1", "inf", "--box", "16", "--voxel-size", "20")
HELD_OUT = ("--unseen", "complex04", "complex05", "--valid-unseen", "complex03")
SMALL_RUN = ("--width", "4", "--embedding-dim", "16", "--depth", "10", "--batch-size", "16", "--lr", "0.003")


def run_script(script: str, *options: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script as a user does: another process, another folder."""
    environment = {**os.environ, "PYTHONWARNINGS": "error::UserWarning", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / script), *options]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def succeed(script: str, *options: str, cwd: Path) -> str:
    """What a script printed; it must exit with 0."""
    done = run_script(script, *options, cwd=cwd)
    assert done.returncode == 0, f"{script} {options}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def refuse(script: str, *options: str, cwd: Path) -> str:
    """The one line of a script that must refuse its input: exit code 2, no traceback."""
    done = run_script(script, *options, cwd=cwd)
    assert done.returncode == 2, f"{script} {options} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data_ (six procedural classes, two SNRs) and csv_split (three known, one and two held out)."""
    folder = tmp_path_factory.mktemp("workspace")
    succeed("simulate.py", *SMALL_DATA, cwd=folder)
    succeed("csv_split.py", *HELD_OUT, cwd=folder)
    return folder


@pytest.fixture(scope="session")
def trained(workspace: Path) -> Path:
    """The workspace with a run of three epochs in model_save."""
    succeed("train.py", *SMALL_RUN, "--epochs", "3", cwd=workspace)
    return workspace
