"""A small simulated data set, its split and a trained checkpoint, made once by the scripts themselves."""

import shutil
from pathlib import Path

import pytest

from tests.scripts import SMALL_RUN, succeed

SMALL_DATA = ("--procedural", "6", "--per-class", "10", "--snr", "0.1", "inf", "--box", "16", "--voxel-size", "20")
HELD_OUT = ("--unseen", "complex04", "complex05", "--valid-unseen", "complex03")


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


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """The split alone, pointing at the workspace's data."""
    shutil.copytree(workspace / "csv_split", tmp_path / "csv_split")
    (tmp_path / "data_").symlink_to(workspace / "data_")
    return tmp_path
