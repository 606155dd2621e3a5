"""How busy does predict.py keep the network, and how much memory do very many volumes take?

-> benchmarks/results/predict_speed_<device>.{json,md}

    python -m benchmarks.predict_speed                  # 20,000 volumes in stacks, this machine's cores
    python -m benchmarks.predict_speed --device cuda

Speed: volumes are read from stacks and embedded as predict.py does, a round at a time. After each round the same
batches are embedded again from memory, so that a machine that others use too does not change what the two have to do
with each other; where the network is on the processors, too, the processor time of both says it whatever others do.
Memory: predict.py as a process on tables that list these volumes, many of them several times; the
peak is the process's own (VmHWM of Linux), its growth with the rows is taken as a straight line. The network of this
part is a small one without training, as it does not change what a row takes.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import torch

from benchmarks import machine, study
from common.cli import REPOSITORY, Device, choose_device, run
from common.files import atomic_path, write_csv
from loader.columns import INPUT
from loader.prepare import Preprocessing
from loader.star import write_star
from model import build_model, load_checkpoint, load_model, save_checkpoint
from prediction.inputs import find_inputs
from prediction.reading import read_batches
from prediction.stream import Work, embed_batches


@dataclass(frozen=True)
class Config:
    checkpoint: str = str(REPOSITORY / "pretrained" / "universal.pt")  # the network whose speed is measured
    volumes: int = 20_000  # volumes that are embedded, in stacks of 1,000
    round: int = 4096  # volumes that are read and embedded, then embedded again from memory
    batch_size: int = 256  # volumes embedded at once
    rows: tuple[int, ...] = (20_000, 100_000)  # rows of the tables whose memory is measured; empty for none
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/predict_speed"  # folder for volumes and tables
    results: str = str(study.RESULTS / "predict_speed")  # files, without the device and their endings


STACKED = 1000  # volumes in a stack
MILLION = 1_000_000
SAMPLE_S = 0.05  # between two looks at a process's memory
SMALL = {"backbone": "resnet_pool", "depth": 10, "width": 2}  # the network of the memory's part


def main(cfg: Config) -> None:
    """Measure and print."""
    device = choose_device(cfg.device)
    work_dir = Path(cfg.work_dir)
    model, checkpoint = load_model(cfg.checkpoint, device)
    preprocessing = checkpoint["preprocessing"]
    stacks = make_stacks(work_dir, cfg.volumes, preprocessing)
    rounds = speed(model, Work(find_inputs(list(map(str, stacks))), preprocessing, cfg.batch_size), cfg.round, device)
    small = small_checkpoint(Path(cfg.checkpoint), work_dir / "small" / "checkpoint.pt")
    memory = [peak(work_dir, small, stacks, rows, kind, device) for kind in ("csv", "star") for rows in cfg.rows]
    name = {"network": Path(cfg.checkpoint).stem, "embedding_dim": model.embedding_dim, "box": preprocessing.box}
    content = {
        "command": study.command(cfg, "predict_speed"),
        **machine.record(device),
        **name,
        "volumes": cfg.volumes,
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


def speed(model: torch.nn.Module, work: Work, size: int, device: torch.device) -> list[dict]:
    """Seconds of each round of `size` volumes: read and embedded, and the same batches embedded from memory."""
    starts = range(0, len(work.inputs), size)
    pinned = device.type == "cuda"
    rounds = []
    for start in starts:
        end = min(start + size, len(work.inputs))
        spans = [range(row, min(row + work.batch_size, end)) for row in range(start, end, work.batch_size)]
        if not rounds:  # the first batch warms the network up
            list(embed_batches(model, read_batches(work.inputs, spans[:1], work.preprocessing, pinned), device))
        begin = clocks()
        batches = [
            batch
            for batch, _ in embed_batches(model, read_batches(work.inputs, spans, work.preprocessing, pinned), device)
        ]
        middle = clocks()
        list(embed_batches(model, batches, device))
        stream, network = middle - begin, clocks() - middle
        seconds = {
            "stream_s": stream[0],
            "network_s": network[0],
            "stream_cpu_s": stream[1],
            "network_cpu_s": network[1],
        }
        rounds.append({"volumes": end - start, **{name: float(value) for name, value in seconds.items()}})
        print(f"{end} of {len(work.inputs)}: {rounds[-1]}", flush=True)
    return rounds


def clocks() -> np.ndarray:
    """Seconds that have gone by, and seconds of processor time of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def small_checkpoint(source: Path, path: Path) -> Path:
    """A checkpoint of the same classes and embedding, its network a small one without training."""
    content = load_checkpoint(source)
    torch.manual_seed(0)
    content["config"] = {**content["config"], **SMALL}
    content["state_dict"] = build_model(content["config"]).state_dict()
    del content["version"]
    save_checkpoint(path, **content)
    return path


def peak(folder: Path, checkpoint: Path, stacks: Sequence[Path], rows: int, kind: str, device: torch.device) -> dict:
    """The highest memory of predict.py on a table of some kind with this many rows, in bytes, and its seconds."""
    print(f"predict.py: {rows} rows of a {kind} file", flush=True)
    counts = [int(path.stem.rpartition("_")[2]) for path in stacks]
    addresses = [f"{n}@{path.name}" for path, count in zip(stacks, counts, strict=True) for n in range(1, count + 1)]
    addresses = (addresses * -(-rows // len(addresses)))[:rows]
    table = folder / f"particles_{rows}.{kind}"
    if kind == "csv":
        write_csv(table, pd.DataFrame({INPUT: addresses}))
    else:
        places = np.random.default_rng(0).uniform(0, 500, size=(3, rows)).round(3).astype(str)
        labels = dict(zip(("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"), places, strict=True))
        particles = {"rlnImageName": addresses, "rlnMicrographName": "TS_01.tomostar", **labels, "rlnPixelSize": "10.0"}
        write_star(table, {"particles": pd.DataFrame(particles)})
    options = [str(checkpoint), str(table), "--results-dir", str(folder / "results"), "--device", device.type]
    with (folder / "predict.log").open("w") as log:
        begin = time.perf_counter()
        command = [sys.executable, str(REPOSITORY / "predict.py"), *options]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        highest = 0
        while process.poll() is None:
            highest = max(highest, resident(process.pid))
            time.sleep(SAMPLE_S)
    if process.returncode:
        raise study.ScriptError(f"predict.py ended with exit code {process.returncode}; see {folder / 'predict.log'}")
    return {"kind": kind, "rows": rows, "bytes": highest, "seconds": time.perf_counter() - begin}


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
    clock = "cpu_s" if content["device"] == "cpu" else "s"  # on the processors reading takes its time from the network
    shares = [each[f"network_{clock}"] / each[f"stream_{clock}"] for each in rounds]
    best = [max(each["volumes"] / each[f"{part}_{clock}"] for each in rounds) for part in ("stream", "network")]
    rows = [
        (what, *(f"{total['volumes'] / total[f'{part}_{kind}']:,.1f}" for kind in ("s", "cpu_s")))
        for what, part in (
            ("read from stacks and embedded, as predict.py does", "stream"),
            ("the same batches embedded from memory", "network"),
        )
    ]
    lines = [
        "# predict.py: speed and memory",
        "",
        f"{total['volumes']:,} volumes of {content['box']}^3 voxels in stacks, {content['batch_size']} at once, "
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
            (f"{each['rows']:,}", each["kind"].upper(), f"{each['bytes'] / 1e6:,.0f}", f"{each['seconds']:,.0f}")
            for each in content["memory"]
        ]
        lines += ["", *study.markdown_table(["rows", "table", "peak of memory, MB", "seconds, all in all"], cells), ""]
        lines += [
            f"Embeddings of {content['embedding_dim']} numbers, a small network without training. By a straight line "
            + "; ".join(
                f"{MILLION:,} rows of a {kind.upper()} table take {size / 1e9:.1f} GB"
                for kind, size in line(content["memory"])
            )
            + "; these are not measured."
        ]
    return "\n".join(lines) + "\n"


def line(memory: Sequence[dict]) -> list[tuple[str, float]]:
    """For each kind of table the bytes of a million rows, by the straight line through its smallest and largest."""
    found = []
    for kind in dict.fromkeys(each["kind"] for each in memory):
        sizes = sorted((each["rows"], each["bytes"]) for each in memory if each["kind"] == kind)
        (few, low), (many, high) = sizes[0], sizes[-1]
        if many > few:
            found.append((kind, low + (high - low) * (MILLION - few) / (many - few)))
    return found


if __name__ == "__main__":
    run(main, Config, __doc__)
