"""Train the network and its loss on the known classes.

csv_split/{train,valid}.csv -> model_save/{checkpoint<epoch>,checkpoint,last}.pt, loss.txt, log.csv

    python train.py
    python train.py --width 16 --epochs 10 --save-dir model_save
    python train.py --resume
    python train.py --recipe authors                  # original or diverse; other options override it
    python train.py --simulate-online --auxiliary 600 # fresh volumes every step, and shapes of no known class
    torchrun --standalone --nproc_per_node=4 train.py --batch-size 256    # a process a GPU; the batch is that of all

checkpoint.pt is the best so far: the highest validation accuracy by class prototypes, ties by validation loss.
"""

import math
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.cli import InputError, choose_device, is_first_process, plural, run
from loader.dataset import Split, contrast_warning, load_split, particle_codes
from loader.rows import class_names
from loader.volume import central_brightness
from training.batches import Batches, FileBatches
from training.checks import check
from training.group import Group, join
from training.loop import draw_gallery, train_epoch, validate
from training.online import OnlineBatches, StreamBatches, load_shapes
from training.recipes import RECIPES
from training.record import Board, epochs_since_best, merit, save_epoch, summary, write_logs
from training.run import HALF_WRITTEN, Run, remove_run
from training.stop import stop_requests


@dataclass(frozen=True)
class Config:
    recipe: str = "default"  # set of constants in training/recipes.py: default, diverse, original, authors
    csv_dir: str = "csv_split"  # folder of train.csv and valid.csv
    save_dir: str = "model_save"  # folder of the checkpoints and logs
    contrast: str = "bright"  # of the particles in the files: bright or dark
    backbone: str = "resnet"  # a name in models/ResNet.py: BACKBONES
    depth: int = 18  # layers of the backbone
    width: int = 64  # channels of its first stage; 16 is the preset for a CPU
    embedding_dim: int = 512  # E
    views: bool = False  # average embeddings over the half turns that keep the missing wedge; four times the inference
    upsample: int = 1  # enlarge the box on the device, 2 as the original did
    loss: str = "soft_lmccl"  # a name in loss/loss.py: LOSSES
    loss_options: dict[str, str] = field(default_factory=dict)  # its options, as: s 30 m 0.35
    epochs: int = 30  # passes over train.csv
    batch_size: int = 64  # volumes a batch, on all processes together
    accumulate: int = 1  # batches a step of the optimiser
    class_samples: int = 0  # K volumes of each of batch_size / K classes in a batch (P x K sampling); 0 for a shuffle
    optimizer: str = "adamw"  # adamw, or adam as the publications
    lr: float = 3e-3  # learning rate; of one_cycle the peak
    eps: float = 1e-8  # of the optimiser
    weight_decay: float = 0.01  # of the network's weights; the loss's own parameters have none
    schedule: str = "one_cycle"  # one_cycle (warm-up, then a cosine), plateau or decay
    clip: float = 5.0  # largest norm of the network's gradient; 0 for no limit
    ema: float = 0.0  # decay of the running average of weights that is validated and kept; 0 for the weights themselves
    patience: int = 0  # epochs without improvement until training stops early; 0 for never
    half_turns: bool = True  # augment volumes of files by the half turns that keep the missing wedge
    shift: int = 2  # augment volumes of files by shifts of so many voxels at most along each axis
    noise: float = 0.0  # augment volumes of files by white noise of so many standard deviations at most
    rotate: bool = False  # augment volumes of files by any rotation, and cut the missing wedge out again
    simulate_online: bool = False  # draw every batch afresh from the structures that data_dir was simulated from
    data_dir: str = "data_"  # for simulate_online: folder of simulation.json
    structures: str = ""  # for simulate_online: folder of the structures; empty for procedural complexes
    online_volumes: int = 0  # volumes of an epoch; 0 for as many as train.csv has
    online_snr: tuple[float, float] = (0.02, 0.5)  # log-uniform in this range
    online_noise_free: float = 0.1  # share of volumes without noise
    online_defocus: tuple[float, ...] = ()  # um, from and to; empty: as in simulation.json
    online_tilt: tuple[float, ...] = ()  # degrees: each batch's largest tilt is drawn from this range; empty likewise
    online_neighbours: int = -1  # at most; -1: as in simulation.json
    online_imaging: str = "fixed"  # imaging of simulated volumes: fixed as in simulation.json, or drawn at random
    online_renewal: float = 1.0  # simulated particles per volume drawn; below 1 each is drawn again, with other noise
    online_stock: int = 4096  # particles kept on the device to draw from, with a renewal below 1
    online_junk: float = 0.0  # share of the volumes that show no particle, as classes of their own
    auxiliary: int = 0  # procedural classes that train beside the known ones, with simulate_online
    auxiliary_share: float = 0.7  # of each batch
    auxiliary_seed: int = 9  # of their shapes
    prototype_per_class: int = 100  # training volumes of a class that its prototype and the scores of unknowns rest on
    false_rejection_rate: float = 0.05  # share of validation knowns that the threshold may call unknown
    memory_share: float = 0.5  # of the GPU's free memory that volumes may fill; of the machine's, where no file can
    compile: bool = False  # torch.compile the network
    bfloat16: bool = True  # autocast on CUDA; the CPU trains in float32
    sync_batchnorm: bool = False  # batch normalisation over the GPUs together
    tensorboard: bool = True  # write save_dir/tensorboard too
    save_every: int = 2000  # steps between writes of last.pt: the most that a killed run loses; 0 for whole epochs
    keep: int = 3  # improvements kept as checkpoint<epoch>.pt
    seed: int = 9  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu or cuda
    resume: bool = False  # go on from last.pt
    overwrite: bool = False  # delete the run that save_dir holds


CONTRAST_SAMPLE = 500  # volumes whose contrast is looked at


def main(cfg: Config) -> None:
    check(cfg)
    with join(choose_device(cfg.device)) as (group, device), stop_requests() as stop:
        train, valid, classes = load_data(cfg, device)
        batches = make_batches(cfg, train, classes, device, group)
        steps = -(-batches.count // cfg.accumulate)
        state = Run(cfg, classes, train.preprocessing, steps, device, group, particle_codes(train.rows))
        state.imaging = batches.imaging_record
        take_up(state)
        if group.first:
            print(description(state, batches, valid), flush=True)
        board = Board(state)
        gallery = draw_gallery(train.labels, cfg.prototype_per_class, cfg.seed)
        while state.epoch < cfg.epochs and not (cfg.patience and epochs_since_best(state.log) >= cfg.patience):
            started, before = time.perf_counter(), state.seen
            stopped = train_epoch(state, batches, stop)
            if stopped:
                leave(state, stopped)
            finish_epoch(state, train, valid, gallery, started, before)
            board.add(state.log[-1])
        if group.first:
            best = max(state.log, key=merit)
            early = f"stopped early, after epoch {state.epoch}; " if state.epoch < cfg.epochs else ""
            path = Path(cfg.save_dir) / "checkpoint.pt"
            print(f"{early}best: epoch {best['epoch']}, validation accuracy {best['accuracy']:.4f}; {path}")


def load_data(cfg: Config, device: torch.device) -> tuple[Split, Split, list[str]]:
    """The training and the validation volumes, and the classes' names."""
    folder = Path(cfg.csv_dir)
    train = load_split(folder / "train.csv", contrast=cfg.contrast, memory_share=cfg.memory_share)
    if not len(train):
        raise InputError(f"{folder}/train.csv: holds no volume")
    if cfg.views and not train.preprocessing.tilt_range:
        raise InputError("--views: the tilt range of the volumes is unknown (columns Tilt Min and Tilt Max)")
    valid = load_split(folder / "valid.csv", train.preprocessing, memory_share=cfg.memory_share)
    classes = class_names(train.rows, folder / "train.csv")
    if class_names(valid.rows, folder / "valid.csv") != classes:
        raise InputError(f"{folder}: train.csv and valid.csv have different classes; run csv_split.py again")
    warn_of_contrast(train, cfg.contrast)
    warn_of_few(len(valid), cfg.false_rejection_rate)
    return train.on_device(device, cfg.memory_share), valid, classes


def warn_of_contrast(train: Split, contrast: str) -> None:
    """Say so where the particles look as if they were of the other contrast."""
    some = train.images[:: len(train) // CONTRAST_SAMPLE + 1, 0].float().numpy()
    warning = contrast_warning(np.array([central_brightness(volume) for volume in some]), contrast)
    if warning and is_first_process():
        print(f"train.py: warning: {warning}", file=sys.stderr)


def warn_of_few(count: int, rate: float) -> None:
    """Say so where the threshold for unknowns can reject no validation volume."""
    if rate and int(count * rate + 1e-9) == 0 and is_first_process():
        print(
            f"train.py: warning: {count} validation {plural('volume', count)}: --false-rejection-rate {rate:g} rejects "
            f"none of fewer than {math.ceil(1 / rate - 1e-9)}, so the threshold for unknowns is the lowest score of "
            "all; more particles, or a larger share of them for validation (csv_split.py --fractions), make it surer",
            file=sys.stderr,
        )


def make_batches(cfg: Config, train: Split, classes: list[str], device: torch.device, group: Group) -> Batches:
    if not cfg.simulate_online:
        return FileBatches(cfg, train, device, group)
    shapes = load_shapes(cfg, classes, train.preprocessing, device)
    kind = OnlineBatches if cfg.online_imaging == "fixed" and cfg.online_renewal == 1 else StreamBatches
    return kind(cfg, shapes, len(classes), cfg.online_volumes or len(train), group)


def take_up(state: Run) -> None:
    """Go on with the run that save_dir holds, or delete it, as the settings say.

    Raises InputError where there are checkpoints, but nothing to go on from.
    """
    save_dir, last = Path(state.cfg.save_dir), Path(state.cfg.save_dir) / "last.pt"
    if state.cfg.resume and last.is_file():
        state.load(last)
        if state.group.first and state.log:
            write_logs(state)  # a kill may have come between last.pt and these
    elif state.cfg.resume and list(save_dir.glob("checkpoint*.pt")):
        raise InputError(f"{last}: no such file, so nothing to go on from; --overwrite deletes the checkpoints there")
    elif state.cfg.resume and state.group.first:
        print(f"{last}: no such file; starting anew")
    if state.group.first and state.cfg.overwrite:
        remove_run(save_dir)
    for path in save_dir.glob(HALF_WRITTEN) if state.group.first else []:
        path.unlink()


def description(state: Run, batches: Batches, valid: Split) -> str:
    """What is trained on what."""
    cfg = state.cfg
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    processes = f", {state.group.size} processes" if state.group.size > 1 else ""
    begun = f"; goes on after {state.place}" if state.epoch or state.step else ""
    return (
        f"{batches.text}; {len(valid)} validation {plural('volume', len(valid))}, {len(state.classes)} classes\n"
        f"{cfg.loss}, {cfg.backbone}, depth {cfg.depth}, width {cfg.width} ({parameters / 1e6:.1f} M parameters), "
        f"{state.preprocessing.box}^3 voxels, on {state.device}{processes}; "
        f"{state.steps_per_epoch} {plural('step', state.steps_per_epoch)} an epoch{begun}"
    )


def leave(state: Run, number: int) -> None:
    """End a run that a signal stopped, once it is saved; together, as torchrun stops all when one process is gone."""
    state.group.wait()
    if state.group.first:
        text = f"\nstopped after {state.place}, and saved; to go on there: {continuation(sys.argv, state.group.size)}"
        print(text, file=sys.stderr)
    sys.exit(128 + number)


def continuation(arguments: list[str], processes: int) -> str:
    """The command that goes on with a run that was started with these arguments."""
    options = [option for option in arguments[1:] if option not in ("--overwrite", "--resume")]
    start = "python" if processes == 1 else "torchrun (with the same options)"
    return f"{start} {shlex.join([arguments[0], *options, '--resume'])}"


def finish_epoch(state: Run, train: Split, valid: Split, gallery: torch.Tensor, started: float, before: int) -> None:
    """Validate, log and save an epoch; the first process does, the others wait for its figures."""
    seconds = time.perf_counter() - started
    terms = dict(zip(("train_loss", "softmax", "margin", "center"), (state.sums / state.seen).tolist(), strict=True))
    speed = round((state.seen - before) / seconds, 1)
    found = validate(state, train, valid, gallery) if state.group.first else None
    figures, state.calibration = state.group.share(found)
    state.end_epoch(figures["valid_loss"])
    state.log.append({"epoch": state.epoch, **terms, **figures, "lr": state.lr, "volumes_per_s": speed})
    if state.group.first:
        save_epoch(state)
        left = (state.cfg.epochs - state.epoch) * (time.perf_counter() - started)
        print(summary(state, left), flush=True)


if __name__ == "__main__":
    run(main, Config, __doc__, RECIPES)
