"""How fast is training, part by part, in volumes per second? Ours, the original's recipe, and what lies between.

    python -m benchmarks.speed                         # full width, minutes; on a CPU a quarter of an hour
    python -m benchmarks.speed --width 16
    python -m benchmarks.speed --device cuda --batch-size 256

Rows are ways to train; each is measured in the same run on the same volumes, which are simulated as MRC files first:

    native                   train.py --backbone resnet, the original's network; the box as it is, packed once; float32
                             channels-last on the CPU, bfloat16 autocast on CUDA
    native, default layout   the same without channels-last
    native, compiled         the same by torch.compile
    native, max pooling      another network: the box halved once more after the stem (train.py --backbone resnet_pool)
    native, half turns       the network that does not see half turns, train.py's default (resnet_half_turn)
    enlarged on the device   the box doubled by trilinear interpolation on the device (train.py --upsample 2)
    original's recipe        MRC files read and enlarged by cubic splines one by one in the main process, in every
                             epoch; default layout; float32

Columns: loading (of what an epoch must load), augmentation, forward, training step, an epoch from end to end; the
arithmetic rate of the training step as a share of that of a large matrix product in the same type; peak memory.
Below: where the time of a native step goes, by operator. Prints a table and writes <results>.json and .md.
"""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import train
from benchmarks import machine, study
from common.cli import Device, InputError, choose_device, run
from common.group import Group
from loader.columns import PARTICLES_FILE
from loader.dataset import Split, load_split
from loader.volume import read_volume
from training.batches import FileBatches
from training.loop import take_step, train_epoch
from training.state import TrainingSet, TrainingState
from training.stop import StopRequest

MATRIX = {"cpu": 4096, "cuda": 8192}  # side of the matrices whose product is the machine's rate
ORIGINAL_BATCH = 16
PROFILED_STEPS, MOST_OPERATORS = 3, 8


@dataclass(frozen=True)
class Config:
    width: int = 64  # channels of the network's first stage
    depth: int = 18  # layers of the network
    batch_size: int = 64  # volumes per step; the original's recipe has its own 16
    volumes: int = 512  # number of volumes in the data set
    compiled: bool = True  # measure torch.compile too, where there is a C++ compiler
    seconds: float = 10.0  # seconds of each measurement, at least one step
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = "benchmarks/results/speed"  # path of the results, to which device, width and .json or .md are added


@dataclass(frozen=True)
class Way:
    """One way to train: which network sees a volume, how large, in which layout, from where."""

    upsample: int = 1
    channels_last: bool = True
    compiled: bool = False
    backbone: str = "resnet"
    per_item: bool = False  # read and enlarged by splines, one by one, every epoch


@dataclass(frozen=True)
class Ground:
    """What all ways are measured on."""

    cfg: Config
    device: torch.device
    folder: Path
    split: Split
    loading: float  # volumes per second that were read, checked and packed
    matrix: dict[str, float]  # TFLOP/s of a large matrix product, by dtype


def main(cfg: Config) -> None:
    if cfg.volumes < 4 or cfg.volumes < max(cfg.batch_size, ORIGINAL_BATCH):
        raise InputError(f"--volumes {cfg.volumes}: expected at least a batch, {max(cfg.batch_size, ORIGINAL_BATCH)}")
    device = choose_device(cfg.device)
    fast = device.type == "cuda"
    torch.set_float32_matmul_precision("high" if fast else "highest")  # the product in TF32, as cuDNN convolves float32
    ways = {
        "native": Way(),
        "native, default layout": Way(channels_last=False),
        "native, compiled": Way(compiled=True),
        "native, max pooling": Way(backbone="resnet_pool"),
        "native, half turns": Way(backbone="resnet_half_turn"),
        "enlarged on the device": Way(upsample=2),
        "original's recipe": Way(channels_last=False, per_item=True),
    }
    compiler = os.environ.get("CXX", "g++")
    if not cfg.compiled or not shutil.which(compiler):
        print(f"left out: native, compiled{f': no {compiler}' if cfg.compiled else ''}")
        del ways["native, compiled"]
    content = {**machine.record(device), "rows": {}, "width": cfg.width, "depth": cfg.depth, "volumes": cfg.volumes}
    content |= {"seconds": cfg.seconds, "batch_size": cfg.batch_size, "original_batch_size": ORIGINAL_BATCH}
    path = f"{cfg.results}_{device.type}_width{cfg.width}"
    content["matrix_tflops"] = {
        str(dtype).removeprefix("torch."): matrix_rate(device, dtype, cfg.seconds) / 1e12
        for dtype in ([torch.float32, torch.bfloat16] if fast else [torch.float32])
    }
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(cfg, device, Path(folder), *make_split(Path(folder), cfg.volumes), content["matrix_tflops"])
        for name, way in ways.items():
            content["rows"][name] = measure_way(ground, way)
            print(name, content["rows"][name], flush=True)
            study.write_results(path, content, page(content))
    study.show(path)


def make_split(folder: Path, volumes: int) -> tuple[Split, float]:
    """A simulated data set, packed, and how many of its files a second were read, checked and packed."""
    options = {"procedural": 4, "per_class": volumes // 4, "snr": 0.1, "data_dir": folder}
    study.run_script("simulate.py", *study.arguments(options), log=folder / "simulate.log")
    table = pd.read_csv(folder / PARTICLES_FILE, dtype=str, keep_default_na=False)
    table["Class"] = table["Actual Label"].astype("category").cat.codes
    table.to_csv(folder / "train.csv", index=False)
    load_split(folder / "train.csv")  # once for the disk
    (folder / "train.packed.json").unlink()  # so that the files are read again
    start = time.perf_counter()
    split = load_split(folder / "train.csv")
    return split, len(split) / (time.perf_counter() - start)


def measure_way(ground: Ground, way: Way) -> dict:
    """One row: rates in volumes per second, and what the training step makes of the machine."""
    cfg, split, device = ground.cfg, ground.split, ground.device
    batch_size = ORIGINAL_BATCH if way.per_item else cfg.batch_size
    options = {"half_turns": False, "shift": 0, "clip": 0.0} if way.per_item else {}
    settings = train.Config(
        width=cfg.width, depth=cfg.depth, batch_size=batch_size, upsample=way.upsample, epochs=10**4, save_every=0,
        save_dir=str(ground.folder), tensorboard=False, prototype_per_class=32, compile=way.compiled,
        backbone=way.backbone, bfloat16=not way.per_item, **options,
    )  # fmt: skip
    batches = PerItem(split, batch_size, device) if way.per_item else FileBatches(
        settings, split.on_device(device), device, Group()
    )  # fmt: skip
    data = TrainingSet(["a", "b", "c", "d"], split.preprocessing)
    state = TrainingState(settings, data, batches.count, device)
    state.layout = torch.channels_last_3d if way.channels_last else torch.contiguous_format
    state.model.to(memory_format=state.layout)
    volumes, labels = batches.batch(0, 0)
    volumes = volumes.contiguous(memory_format=state.layout)
    kind = "bfloat16" if device.type == "cuda" and settings.bfloat16 else "float32"
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=kind == "bfloat16")
    kept = Kept(volumes, labels)

    def forward() -> None:
        state.model.eval()
        with torch.inference_mode(), autocast:
            state.model(volumes)

    def step() -> None:
        state.module.train()
        state.step = 0
        take_step(state, kept, StopRequest())

    state.module.train()
    with FlopCounterMode(display=False) as counter:  # by `forward`: a compiled network shows no operators
        state.criterion(state.model.forward(volumes), labels).total.backward()
    flop = counter.get_total_flops() / batch_size
    reset_peak(device)
    row = {
        "forward": rate(forward, batch_size, cfg.seconds, device),
        "step": rate(step, batch_size, cfg.seconds, device),
    }
    row["augmentation"] = rate(counted(batches), batch_size, cfg.seconds, device) if not way.per_item else None
    row["loading"] = rate(lambda: enlarged(split, range(2)), 2, cfg.seconds, device) if way.per_item else ground.loading
    row["epoch"] = epoch_rate(state, batches, cfg.seconds, device)
    row |= {"gflop": flop / 1e9, "matrix_share": row["step"] * flop / 1e12 / ground.matrix[kind], "dtype": kind}
    row |= {"epoch_of_step": row["epoch"] / row["step"], "peak_memory_gb": peak(device) / 1e9}
    if way == Way():
        row["operators"] = operators(step, device)
    return row


def operators(step: Callable[[], None], device: torch.device) -> dict[str, float]:
    """The share of a step's time that each operator takes by itself, on the device, most first."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        for _ in range(PROFILED_STEPS):
            step()
        wait(device)
    key = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    times = {entry.key: getattr(entry, key) for entry in found.key_averages()}
    whole = sum(times.values())
    return {name: time / whole for name, time in sorted(times.items(), key=lambda pair: -pair[1])[:MOST_OPERATORS]}


class Kept:
    """One batch, over and over."""

    def __init__(self, volumes: torch.Tensor, labels: torch.Tensor):
        self.all, self.count = (volumes, labels), 1

    def size(self, number: int) -> int:
        return len(self.all[1])

    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.all


class PerItem:
    """Batches of volumes that are read and enlarged one by one, every time."""

    def __init__(self, split: Split, batch_size: int, device: torch.device):
        self.split, self.batch_size, self.device = split, batch_size, device
        self.count = min(4, len(split) // batch_size)  # an epoch of a few batches: they are all alike, and slow
        self.volumes = self.count * batch_size

    def size(self, number: int) -> int:
        return self.batch_size

    def batch(self, epoch: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = range(number * self.batch_size, (number + 1) * self.batch_size)
        labels = self.split.labels[rows.start : rows.stop].to(self.device)
        return enlarged(self.split, rows).to(self.device), labels


def enlarged(split: Split, numbers: range) -> torch.Tensor:
    """Volumes read from their files and doubled by cubic splines one by one, as the original: (N, 1, 2D, 2H, 2W)."""
    volumes = [scipy.ndimage.zoom(read_volume(split.rows["Input Data"].iloc[i])[0], 2, order=3) for i in numbers]
    return torch.from_numpy(np.stack(volumes)[:, None])


def counted(batches: FileBatches) -> Callable[[], None]:
    """One batch after the other, epoch after epoch."""
    at = iter(range(10**9))

    def make() -> None:
        number = next(at)
        batches.batch(number // batches.count, number % batches.count)

    return make


def epoch_rate(state: TrainingState, batches: FileBatches | PerItem, seconds: float, device: torch.device) -> float:
    """Epochs as train.py runs them, drawing their order and checking every step; without validation and saving."""
    wait(device)
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        state.epoch, state.step, state.seen = state.epoch + 1, 0, 0
        train_epoch(state, batches, StopRequest())
        count += 1
    wait(device)
    return count * batches.volumes / (time.perf_counter() - start)


def rate(job: Callable[[], None], volumes: int, seconds: float, device: torch.device) -> float:
    """Volumes a second of a job on so many; its first call does not count."""
    job()
    wait(device)
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < seconds:
        job()
        count += 1
        if count % 8 == 0:
            wait(device)
    wait(device)
    return count * volumes / (time.perf_counter() - start)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Arithmetic operations a second of a large matrix product."""
    side = MATRIX[device.type]
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return rate(lambda: first @ second, 1, seconds, device) * 2 * side**3


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """Bytes: of the device since `reset_peak`; on the CPU of the whole process so far, rows before included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(content: dict) -> str:
    """Markdown: one row for each way to train."""
    heads = ("loading", "augmentation", "forward", "training step", "epoch", "epoch / step", "share of matrix product")
    cells = []
    for name, row in content["rows"].items():
        rates = [row[key] for key in ("loading", "augmentation", "forward", "step", "epoch")]
        texts = ["-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}" for value in rates]
        texts += [f"{row['epoch_of_step']:.2f}", f"{row['matrix_share']:.2f} ({row['dtype']})"]
        cells.append([name, *texts, f"{row['peak_memory_gb']:.1f}"])
    lines = study.markdown_table(["volumes/s", *heads, "peak memory, GB"], cells)
    rows = content["rows"]
    if "original's recipe" in rows:
        gain = rows["native"]["epoch"] / rows["original's recipe"]["epoch"]
        lines += ["", f"An epoch of `native` is {gain:.1f} times as fast as one of the original's recipe"]
        lines[-1] += f", {rows['native']['step'] / rows['enlarged on the device']['step']:.1f} times a training step of"
        lines[-1] += " `enlarged on the device`."
    shares = [f"{name.removeprefix('aten::')} {share:.0%}" for name, share in rows["native"]["operators"].items()]
    lines += ["", f"Where the time of a native step goes: {', '.join(shares)}."]
    return "\n".join(lines) + "\n"


def page(content: dict) -> str:
    """The table with what it was measured on."""
    width, batch_size, volumes = (content[key] for key in ("width", "batch_size", "volumes"))
    products = ", ".join(f"{kind} {value:,.2f} TFLOP/s" for kind, value in content["matrix_tflops"].items())
    return (
        "# Speed of training\n\n"
        f"3-D ResNet-{content['depth']} of width {width}, volumes of 32^3, batches of {batch_size} (original's "
        f"recipe: {ORIGINAL_BATCH}); {machine.text(content)}. Large matrix product: {products}. Each figure "
        f"from at least {content['seconds']:g} s of one process, an epoch from whole epochs of {volumes} volumes, "
        "loading from one pass. Peak memory on the CPU is that of the process so far.\n"
        f"`python -m benchmarks.speed --width {width} --batch-size {batch_size} --volumes {volumes}`\n\n"
        + table(content)
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
