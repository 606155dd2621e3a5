"""How long do the scripts take, and how much memory, on a split of many volumes that each of them needs?

-> benchmarks/results/packing.{json,md}

    python -m benchmarks.packing                                        # 100,000 volumes of 32^3: 13 GB of files
    python -m benchmarks.packing --quick                                # 5,000
    python -m benchmarks.packing --repository ../before                 # the scripts of another checkout

Volumes of noise with a blob, without masks; the files are in the page cache when the first script starts, if memory
holds them. train.py is timed to its first step, with a network so small that reading is most of the time. On a machine
that others use too, the seconds of processor time say more than the seconds.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import machine, study
from common.cli import REPOSITORY, InputError, run
from common.progress import progress
from loader.columns import PARTICLES_FILE
from simulation.particles import VolumeWriter


@dataclass(frozen=True)
class Config:
    volumes: int = 100_000  # number of volumes of the whole split
    quick: bool = False  # measure 5,000 volumes alone
    box: int = 32  # side of a volume, voxels
    threads: int = 2  # threads of torch in each script
    repository: str = ""  # checkout of the project whose scripts are measured; empty: this one
    work_dir: str = ""  # folder of the data, which is removed afterwards; empty: the system's temporary folder
    results: str = str(study.RESULTS / "packing")  # path of the results, without the endings .json and .md


QUICK = 5_000  # volumes
CLASSES, VALID_UNSEEN, UNSEEN = tuple(f"c{number}" for number in range(10)), "c8", "c9"
SMALL_SPLIT = 20  # rows of each known class that the checkpoint is trained on, which is not timed
NETWORK = (  # a small one, and the same as in earlier results
    *("--backbone", "resnet", "--depth", "10", "--width", "4", "--embedding-dim", "16"),
    *("--batch-size", "16", "--device", "cpu"),
)
BRIEF = ("--no-umap", "--no-discovery", "--no-floors", "--bootstrap", "5")
SECONDS = {"seconds": "seconds", "processor_seconds": "of processor time"}  # figure -> head of its column
MEMORY = {"own_mb": "own memory, MB", "resident_mb": "with pages of files, MB"}
POLL_S = 0.02
MB = 1024  # of the kB in /proc


@dataclass(frozen=True)
class Measured:
    """One script: seconds, seconds of processor time, and the most memory that it had at once.

    Own memory is what belongs to the process alone; pages of mapped files, which the system takes back where it needs
    them and which processes share, count in the resident memory too.
    """

    script: str
    seconds: float
    processor_seconds: float
    own_mb: float
    resident_mb: float


NOTE = (
    "Own memory belongs to the process alone; pages of the packed file are shared, and given back where they are "
    "needed. Where other work ran on the machine, the seconds of processor time say more than the seconds."
)


def main(cfg: Config) -> None:
    volumes = QUICK if cfg.quick else cfg.volumes
    if volumes < 100 * len(CLASSES):
        raise InputError(f"--volumes {volumes}: expected {100 * len(CLASSES)} or more")
    os.environ["OMP_NUM_THREADS"] = str(cfg.threads)
    code = Path(cfg.repository).absolute() if cfg.repository else REPOSITORY
    if not (code / "check_split.py").is_file():
        raise InputError(f"--repository {cfg.repository}: no check_split.py there; expected a checkout of the project")
    with tempfile.TemporaryDirectory(dir=cfg.work_dir or None) as name:
        folder = Path(name)
        make_data(code, folder, volumes, cfg.box)
        checkpoint = make_checkpoint(code, folder)
        jobs = {
            "check_split.py": ["check_split.py"],
            "train.py, to the first step": ["train.py", *NETWORK, "--save-every", "1", "--save-dir", "first"],
            "test.py": ["test.py", checkpoint],
            "open_set.py": ["open_set.py", checkpoint, *BRIEF],
        }
        rows = []
        for label, command in jobs.items():
            until = folder / "first" / "last.pt" if command[0] == "train.py" else None
            rows.append(measure(label, [str(code / command[0]), *command[1:]], folder, until))
            print(rows[-1], flush=True)
    content = {"volumes": volumes, "box": cfg.box, **machine.record(torch.device("cpu")), "threads": cfg.threads}
    content |= {"commit": machine.commit(code), "here": not cfg.repository}
    content["rows"] = [asdict(row) for row in rows]
    study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def make_data(code: Path, folder: Path, volumes: int, box: int) -> None:
    """data_ with the volumes and their particles.csv, and csv_split."""
    rng = np.random.default_rng(0)
    write = VolumeWriter(box, np.float32, 10.0)
    squares = (np.arange(box) - (box - 1) / 2) ** 2
    distance = squares[:, None, None] + squares[:, None] + squares
    blobs = [np.exp(-distance / (2 * (0.06 + 0.01 * size) ** 2 * box**2)) for size in range(len(CLASSES))]
    noise = rng.standard_normal((2 * box,) * 3, dtype=np.float32)
    rows = []
    for number in progress("making the data", range(volumes)):
        label, (z, y, x) = number % len(CLASSES), rng.integers(0, box, 3)
        path = folder / "data_" / f"part{number // 1000}" / f"{number}.mrc"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, (noise[z : z + box, y : y + box, x : x + box] + blobs[label]).astype(np.float32))
        rows.append((path.relative_to(folder / "data_"), CLASSES[label], f"p{number}"))
    table = pd.DataFrame(rows, columns=["Input Data", "Actual Label", "Particle"])
    table.to_csv(folder / "data_" / PARTICLES_FILE, index=False)
    script(folder, code / "csv_split.py", "--unseen", UNSEEN, "--valid-unseen", VALID_UNSEEN)


def make_checkpoint(code: Path, folder: Path) -> str:
    """A checkpoint of a small part of the split, so that test.py and open_set.py have one."""
    for part in ("train", "valid"):
        rows = pd.read_csv(folder / "csv_split" / f"{part}.csv", dtype=str, keep_default_na=False)
        small = folder / "small" / f"{part}.csv"
        small.parent.mkdir(exist_ok=True)
        rows.groupby("Class").head(SMALL_SPLIT).to_csv(small, index=False)
    script(folder, code / "train.py", *NETWORK, "--csv-dir", "small", "--epochs", "1", "--no-tensorboard")
    return "model_save/checkpoint.pt"


def script(folder: Path, path: Path, *options: str) -> None:
    """Run a script that is not measured."""
    done = subprocess.run([sys.executable, str(path), *options], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{path.name} failed: {done.stderr}")


def measure(label: str, command: Sequence[str], folder: Path, until: Path | None) -> Measured:
    """A script in `folder`, to its end or until a file is there."""
    start, own, resident = time.perf_counter(), 0.0, 0.0
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=log, stderr=log)
    pid, status = 0, 0
    while not pid:
        time.sleep(POLL_S)
        anonymous, whole = memory(process.pid)
        own, resident = max(own, anonymous), max(resident, whole)
        if until and until.is_file():
            os.kill(process.pid, signal.SIGKILL)
            until = None
            pid, _, usage = os.wait4(process.pid, 0)
        else:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"{label} failed: {(folder / 'log.txt').read_text()}")
    return Measured(label, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, own, resident)


def memory(pid: int) -> tuple[float, float]:
    """What a process has of its own, and with pages of files, MB; 0 where it is over."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return tuple(int(sizes[name].split()[0]) / MB if name in sizes else 0.0 for name in ("RssAnon", "VmRSS"))


def page(content: dict) -> str:
    """The table, with what it was measured on."""
    options = f" --threads {content['threads']}" if content["threads"] != Config.threads else ""
    options += "" if content.get("here", True) else " --repository REPOSITORY"
    rows = [
        (row["script"], *(f"{row[key]:.1f}" for key in SECONDS), *(f"{row[key]:,.0f}" for key in MEMORY))
        for row in content["rows"]
    ]
    lines = [
        *("# Scripts on a large split", ""),
        f"{content['volumes']:,} volumes of {content['box']}^3 voxels; {machine.text(content)}. "
        f"`python -m benchmarks.packing --volumes {content['volumes']}{options}`.{machine.commit_text(content)}",
        *("", *study.markdown_table(["script", *SECONDS.values(), *MEMORY.values()], rows)),
        *("", NOTE),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
