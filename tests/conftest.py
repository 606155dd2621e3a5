"""A small simulated data set, its split and a trained checkpoint, made once by the scripts themselves."""

import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import machine, study
from physics.grid import Grid
from simulation import auxiliary, cohort, reference
from simulation.conditions import ImagingRanges
from simulation.structures import load_densities
from tests import picks
from tests.scripts import SMALL_RUN, call_script, succeed

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


@pytest.fixture(scope="module")
def atom_files(tmp_path_factory):
    """A folder of two structures, atoms of a ring and of a rod: ring.cif.gz and rod.pdb.gz."""
    folder = tmp_path_factory.mktemp("files") / "structures"
    folder.mkdir()
    rng, count = np.random.default_rng(5), 1500
    angle = rng.uniform(0, 2 * np.pi, count)
    ring = 70 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1) + rng.uniform(-18, 18, (count, 3))
    rod = rng.uniform(-1, 1, (count, 3)) * [14, 14, 100]
    (folder / "ring.cif.gz").write_bytes(gzip.compress(protein(ring).make_mmcif_document().as_string().encode()))
    (folder / "rod.pdb.gz").write_bytes(gzip.compress(protein(rod).make_pdb_string().encode()))
    return folder


def protein(places: np.ndarray) -> gemmi.Structure:
    """Residues of eight carbon atoms about places (n, 3) in A."""
    made, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, place in enumerate(places, start=1):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "LYS", gemmi.SeqId(str(number))
        for name, offset in zip(["C", "CA", "CB", "CG", "CD", "CE", "CZ", "CH"], np.ndindex(2, 2, 2), strict=True):
            atom = gemmi.Atom()
            atom.name, atom.element, atom.pos = name, gemmi.Element("C"), gemmi.Position(*(place + offset))
            residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    made.add_model(model)
    return made


@pytest.fixture
def universal(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that says the imaging of simulated training; cohorts and crowds are small meanwhile."""
    for module, name, value in (
        (reference, "SHAPES", 3), (reference, "PER_SHAPE", 4), (cohort, "POOL", 4), (auxiliary, "NEIGHBOURS", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    content = torch.load(trained / "model_save" / "checkpoint.pt", weights_only=True)
    record = ImagingRanges(neighbours=0, shift=1.0).content() | {"voxel_size": content["preprocessing"]["voxel_size"]}
    content["config"]["imaging"] = record | {"snr": [0.1, 1.0], "noise_free": 0.1}
    torch.save(content, tmp_path / "universal.pt")
    return tmp_path / "universal.pt"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with two tomograms and a STAR file of classes, of RELION 3.1."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "tomograms").mkdir()
    for name, places in picks.PLACES.items():
        picks.write_tomogram(folder / "tomograms" / f"{name}.mrc", picks.blobs(places))
    picks.relion31(folder)
    return folder


@pytest.fixture(scope="module")
def densities() -> torch.Tensor:
    """Three procedural complexes, (3, 16, 16, 16), in a small box of coarse voxels: the physics is the same."""
    return load_densities(("complex00", "complex07", "complex09"), "", Grid(16, 20.0, 40.0))


@pytest.fixture(scope="module")
def shared(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's data and split, where auxiliary densities may be kept without touching it."""
    folder = tmp_path_factory.mktemp("shared")
    shutil.copytree(workspace / "data_", folder / "data_")
    shutil.copytree(workspace / "csv_split", folder / "csv_split")
    return folder


@pytest.fixture
def copy(workspace: Path, tmp_path: Path) -> Path:
    """The split alone, pointing at the workspace's data."""
    shutil.copytree(workspace / "csv_split", tmp_path / "csv_split")
    (tmp_path / "data_").symlink_to(workspace / "data_")
    return tmp_path


@pytest.fixture
def empty_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty files: to draw them takes longer than all that is measured."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b""))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, empty_pictures: None) -> list[str]:
    """The scripts that a benchmark runs, run in this process and without pictures; their names, one for each call.

    The speed of the machine, which stands beside the figures, is measured in no time.
    """
    called = []

    def run_here(script: str, *given: str, log: Path) -> None:
        called.append(script)
        done = call_script(script, *given, cwd=Path.cwd())
        assert done.returncode == 0, f"{script} {given}\n{done.stdout}\n{done.stderr}"

    monkeypatch.setattr(study, "run_script", run_here)
    monkeypatch.setattr(machine, "MATRIX_SIDE", 64)
    return called


@pytest.fixture
def mapped_mb() -> Callable[[], float]:
    """How many MB of mapped files are in this process's memory, as Linux tells it."""
    if sys.platform != "linux":
        pytest.skip("Linux alone tells it")

    def read() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:")) / 1000

    return read
