"""How busy does predict.py keep the network, and how much memory do very many volumes take?

-> benchmarks/results/predict_speed_<device>.{json,md}

    python -m benchmarks.predict_speed                  # 20,480 volumes in stacks, this machine's cores
    python -m benchmarks.predict_speed --device cuda

Speed: volumes are read from stacks and embedded as predict.py does, a round at a time. After each round as many
batches are embedded again from memory, so that a machine that others use too does not change what the two have to do
with each other; where the network is on the processors, too, the processor time of both says it whatever others do.
Memory: predict.py as a process on tables of particles, each with an address of its own (links to these stacks); the
peak is the process's own (VmHWM of Linux), what a row takes is the slope between the smallest and the largest table.
The network of this part is a small one without training, as it does not change what a row takes, and every particle is
unknown, so that all are clustered. The larger tables go on after a run that was ended with all volumes embedded
(made-up embeddings), so that a million rows take minutes; of the smaller ones each volume is read and embedded.
"""

import itertools
import resource
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import mrcfile
import numpy as np
import pandas as pd
import torch

import predict
from benchmarks import machine, study
from common.cli import REPOSITORY, Device, InputError, choose_device, run
from common.files import atomic_path, write_csv
from loader.columns import INPUT
from loader.prepare import Preprocessing
from loader.star import write_star
from model import build_model, load_checkpoint, load_model, save_checkpoint
from prediction.inputs import find_inputs
from prediction.parts import MEASURES, PARTS_FOLDER, Embedded, Parts, fingerprint
from prediction.reading import read_batches
from prediction.stream import Work, embed_batches


@dataclass(frozen=True)
class Config:
    checkpoint: str = str(REPOSITORY / "pretrained" / "universal.pt")  # the network whose speed is measured
    volumes: int = 20_480  # volumes that are embedded, in stacks of 1,000; whole rounds
    round: int = 4096  # volumes that are read and embedded, then embedded again from memory
    batch_size: int = 256  # volumes embedded at once
    kinds: tuple[Literal["csv", "star"], ...] = ("csv", "star")  # tables whose memory is measured
    read: tuple[int, ...] = (20_000, 60_000)  # rows of tables whose volumes are read, their memory measured; or none
    rows: tuple[int, ...] = (100_000, 1_000_000)  # rows of tables whose volumes are embedded before; empty for none
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/predict_speed"  # folder for volumes and tables
    results: str = str(study.RESULTS / "predict_speed")  # files, without the device and their endings


STACKED = 1000  # volumes in a stack
MANY = 100_000  # rows whose first are embedded: what is done to 2,000 of all volumes counts as little as in a large run
SAMPLE_S = 0.05  # between two looks at a process's memory
UNREACHED = 100.0  # a threshold above every score
KINDS, SPREAD = 30, 0.7  # of made-up embeddings: directions, and the noise around them in their lengths
RELION_NUMBERS = (
    *(f"rlnCoordinate{axis}" for axis in "XYZ"),
    *(f"rlnAngle{angle}" for angle in ("Rot", "Tilt", "Psi")),
    *(f"rlnOrigin{axis}Angst" for axis in "XYZ"),
    *("rlnNormCorrection", "rlnLogLikeliContribution", "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples"),
)
RELION_CONSTANTS = {"rlnOpticsGroup": "1", "rlnGroupNumber": "1", "rlnClassNumber": "1", "rlnRandomSubset": "2"}
SMALL = {"backbone": "resnet_pool", "depth": 10, "width": 2}  # the network of the memory's part


def main(cfg: Config) -> None:
    """Measure and print."""
    device = choose_device(cfg.device)
    work_dir = Path(cfg.work_dir)
    model, checkpoint = load_model(cfg.checkpoint, device)
    preprocessing = checkpoint["preprocessing"]
    if cfg.volumes % cfg.round or cfg.round % cfg.batch_size:
        raise InputError("--volumes, --round: expected whole rounds of whole batches")
    stacks = make_stacks(work_dir, cfg.volumes, preprocessing)
    many = list(map(str, stacks)) * -(-MANY // cfg.volumes)
    rounds = speed(model, Work(find_inputs(many), preprocessing, cfg.batch_size), cfg, device)
    small = small_checkpoint(Path(cfg.checkpoint), work_dir / "small" / "checkpoint.pt")
    asked = [(rows, True) for rows in cfg.read] + [(rows, False) for rows in cfg.rows]
    memory = [peak(work_dir, small, stacks, Table(kind, *each), device) for kind in cfg.kinds for each in asked]
    name = {"network": Path(cfg.checkpoint).stem, "embedding_dim": model.embedding_dim, "box": preprocessing.box}
    content = {
        "command": study.command(cfg, "predict_speed"),
        **machine.record(device),
        **name,
        "device_type": device.type,
        "volumes": cfg.volumes,
        "of": MANY,
        "batch_size": cfg.batch_size,
    }
    content |= {"rounds": rounds, "memory": memory}
    stem = f"{cfg.results}_{device.type}"
    study.write_results(stem, content, page(content))
    study.show(stem)


def make_stacks(folder: Path, volumes: int, preprocessing: Preprocessing) -> list[Path]:
    """Stacks of noise with a blob in the middle, float16, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    box, paths = preprocessing.box, []
    at = (np.arange(box) - (box - 1) / 2) ** 2
    blob = np.exp(-(at[:, None, None] + at[:, None] + at) / (2 * (box / 8) ** 2)).astype(np.float32)
    for number in range(-(-volumes // STACKED)):
        count = min(STACKED, volumes - number * STACKED)
        paths.append(folder / f"stack_{box}_{number:04d}_{count}.mrcs")
        if not paths[-1].is_file():
            noise = np.random.default_rng(number).standard_normal((count, box, box, box), dtype=np.float32)
            with atomic_path(paths[-1]) as temporary, mrcfile.new(temporary) as mrc:
                mrc.set_data((noise + blob).astype(np.float16))
                mrc.voxel_size = preprocessing.voxel_size or 10.0
    return paths


def speed(model: torch.nn.Module, work: Work, cfg: Config, device: torch.device) -> list[dict]:
    """Seconds of each round of the first volumes: read and embedded, and as many batches embedded from memory.

    A round is of whole batches, so that the last one stands for all.
    """
    starts = range(0, cfg.volumes, cfg.round)
    pinned = device.type == "cuda"
    rounds = []
    for start in starts:
        end = min(start + cfg.round, cfg.volumes)
        spans = [range(row, min(row + work.batch_size, end)) for row in range(start, end, work.batch_size)]
        if not rounds:  # the first batch warms the network up
            list(embed_batches(model, read_batches(work.inputs, spans[:1], work.preprocessing, pinned), device))
        begin = clocks()
        batches = read_batches(work.inputs, spans, work.preprocessing, pinned)
        last = deque(embed_batches(model, batches, device), maxlen=1)[0][0]
        middle = clocks()
        deque(embed_batches(model, itertools.repeat(last, len(spans)), device), maxlen=0)
        stream, network = middle - begin, clocks() - middle
        seconds = {
            "stream_s": stream[0],
            "network_s": network[0],
            "stream_cpu_s": stream[1],
            "network_cpu_s": network[1],
        }
        rounds.append({"volumes": end - start, **{name: float(value) for name, value in seconds.items()}})
        print(f"{end} of {cfg.volumes}: {rounds[-1]}", flush=True)
    return rounds


def clocks() -> np.ndarray:
    """Seconds that have gone by, and seconds of processor time of this process."""
    return np.array([time.perf_counter(), time.process_time()])


@dataclass(frozen=True)
class Table:
    """A table of particles: `csv` or `star`, how many rows, and whether their volumes are still to be read."""

    kind: str
    rows: int
    read: bool


def small_checkpoint(source: Path, path: Path) -> Path:
    """A checkpoint of the same classes and embedding, its network a small one without training, which knows nothing."""
    content = load_checkpoint(source)
    torch.manual_seed(0)
    content["config"] = {**content["config"], **SMALL}
    content["state_dict"] = build_model(content["config"]).state_dict()
    for name in ("calibration", "junk"):
        if content.get(name):
            content[name] = {**content[name], "threshold": UNREACHED}
    del content["version"]
    save_checkpoint(path, **content)
    return path


def peak(folder: Path, checkpoint: Path, stacks: Sequence[Path], table: Table, device: torch.device) -> dict:
    """The highest memory of predict.py on a table, in bytes; its seconds, and those of processor time."""
    print(f"predict.py: {table.rows} rows of a {table.kind} file", flush=True)
    path = write_table(folder, stacks, table)
    results = folder / "results"
    shutil.rmtree(results, ignore_errors=True)
    if not table.read:
        embed_before(path, checkpoint, results, device)
    options = [str(checkpoint), str(path), "--results-dir", str(results), "--device", device.type]
    with (folder / "predict.log").open("w") as log:
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, str(REPOSITORY / "predict.py"), *options]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        highest = 0
        while process.poll() is None:
            highest = max(highest, resident(process.pid))
            time.sleep(SAMPLE_S)
    if process.returncode:
        raise study.ScriptError(f"predict.py ended with exit code {process.returncode}; see {folder / 'predict.log'}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return {**asdict(table), "bytes": highest, "seconds": time.perf_counter() - begin, "cpu_s": used}


def write_table(folder: Path, stacks: Sequence[Path], table: Table) -> Path:
    """A table of particles in stacks of STACKED, links to the stacks by turns; a STAR file is as RELION refines it."""
    links = folder / "tomograms"
    links.mkdir(exist_ok=True)
    full = [path for path in stacks if path.stem.endswith(f"_{STACKED}")]
    if not full:
        raise InputError(f"--volumes: expected {STACKED} at least where memory is measured")
    tomograms = -(-table.rows // STACKED)
    for number in range(tomograms):
        link = links / f"TS_{number:04d}.mrcs"
        link.unlink(missing_ok=True)
        link.symlink_to(full[number % len(full)].resolve())
    numbers = pd.Series(np.arange(table.rows))
    tomogram = "TS_" + (numbers // STACKED).astype(str).str.zfill(4)
    inside = (numbers % STACKED + 1).astype(str)
    addresses = inside.str.zfill(6) + "@tomograms/" + tomogram + ".mrcs"
    path = folder / f"particles_{table.rows}.{table.kind}"
    if table.kind == "csv":
        write_csv(path, pd.DataFrame({INPUT: addresses}))
        return path
    rng = np.random.default_rng(0)
    drawn = {name: pd.Series(rng.uniform(0, 4000, table.rows).round(6)).astype(str) for name in RELION_NUMBERS}
    particles = {"rlnTomoName": tomogram, "rlnImageName": addresses, "rlnTomoParticleName": tomogram + "/" + inside}
    particles |= drawn | {"rlnCtfImage": "tomograms/" + tomogram + "_" + inside + "_ctf.mrc"} | RELION_CONSTANTS
    optics = {"rlnOpticsGroup": ["1"], "rlnImagePixelSize": ["10.0"], "rlnImageSize": ["32"]}
    write_star(path, {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(particles)})
    return path


def embed_before(table: Path, checkpoint: Path, results: Path, device: torch.device) -> None:
    """Leave what a run leaves that was ended when all volumes were embedded: unit vectors around KINDS directions."""
    model, content = load_model(checkpoint, device)
    cfg = predict.Config(str(checkpoint), (str(table),), str(results))
    work = Work(find_inputs(cfg.inputs), content["preprocessing"], cfg.batch_size)
    settings = {"batch_size": cfg.batch_size, "device": device.type}
    parts = Parts(cfg.folder / PARTS_FOLDER, fingerprint(work.inputs, work.preprocessing, checkpoint, settings))
    parts.open()
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((KINDS, model.embedding_dim), dtype=np.float32)
    for number in range(work.parts):
        rows = np.concatenate([np.array(batch) for batch in work.batches(number)])
        noise = rng.standard_normal((len(rows), model.embedding_dim), dtype=np.float32)
        embeddings = middles[rng.integers(KINDS, size=len(rows))] + SPREAD * noise
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        parts.save(number, Embedded(rows, embeddings, *rng.normal(size=(len(MEASURES), len(rows)))))


def resident(pid: int) -> int:
    """The most memory that a process had so far, bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def page(content: dict) -> str:
    """The tables with what they were measured on."""
    rounds = content["rounds"]
    total = {key: sum(each[key] for each in rounds) for key in rounds[0]}
    clock = (
        "cpu_s" if content["device_type"] == "cpu" else "s"
    )  # on the processors reading takes its time from the network
    shares = [each[f"network_{clock}"] / each[f"stream_{clock}"] for each in rounds]
    best = [max(each["volumes"] / each[f"{part}_{clock}"] for each in rounds) for part in ("stream", "network")]
    rows = [
        (what, *(f"{total['volumes'] / total[f'{part}_{kind}']:,.1f}" for kind in ("s", "cpu_s")))
        for what, part in (
            ("read from stacks and embedded, as predict.py does", "stream"),
            ("as many batches embedded from memory", "network"),
        )
    ]
    lines = [
        "# predict.py: speed and memory",
        "",
        f"{total['volumes']:,} volumes of {content['box']}^3 voxels in stacks, the first of {content['of']:,} or more, "
        f"{content['batch_size']} at once, "
        f"network `{content['network']}`; {machine.text(content)}.{machine.commit_text(content)} "
        f"`{content['command']}`",
        "",
        *study.markdown_table(["", "volumes/s", "volumes/s of processor time"], rows),
        "",
        f"Reading leaves {best[0] / best[1]:.1%} of the network's own speed, by the best round of each "
        f"({min(shares):.1%} to {max(shares):.1%} in {len(rounds)} rounds)"
        + (", by processor time." if clock == "cpu_s" else "."),
    ]
    if content["memory"]:
        cells = [
            (
                f"{each['rows']:,}",
                each["kind"].upper(),
                "read and embedded" if each["read"] else "embedded before",
                f"{each['bytes'] / 1e6:,.0f}",
                *(f"{each[name]:,.0f}" for name in ("seconds", "cpu_s")),
            )
            for each in content["memory"]
        ]
        head = ["rows", "table", "volumes", "peak of memory, MB", "seconds", "of processor time"]
        lines += ["", *study.markdown_table(head, cells), ""]
        lines += [
            f"Embeddings of {content['embedding_dim']} numbers, all of particles that are unknown, so that all are "
            "clustered; a small network without training; the page is of 5,000 of them. Between the smallest and the "
            "largest table: " + "; ".join(slope_text(*each) for each in slopes(content["memory"])) + "."
        ]
    return "\n".join(lines) + "\n"


def slopes(memory: Sequence[dict]) -> list[tuple[str, bool, float, float]]:
    """For each kind of table, read or not: both, bytes per row from its smallest to its largest, and bytes of none."""
    found = []
    for kind, read in dict.fromkeys((each["kind"], each["read"]) for each in memory):
        same = [each for each in memory if (each["kind"], each["read"]) == (kind, read)]
        (few, low), *_, (many, high) = sorted((each["rows"], each["bytes"]) for each in same) * 2
        if many > few:
            slope = (high - low) / (many - few)
            found.append((kind, read, slope, low - slope * few))
    return found


def slope_text(kind: str, read: bool, slope: float, base: float) -> str:
    """One of them in words."""
    how = "volumes read and embedded" if read else "volumes embedded before"
    return f"a row of a {kind.upper()} table, {how}, takes {slope:,.0f} bytes beside {base / 1e9:.1f} GB of every run"


if __name__ == "__main__":
    run(main, Config, __doc__)
