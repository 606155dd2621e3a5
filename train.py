"""Train the network and its loss on the known classes.

csv_split/{train,valid}.csv -> model_save/{checkpoint<epoch>,checkpoint,last}.pt, loss.txt, log.csv

    python train.py
    python train.py --width 16 --epochs 10 --save-dir model_save
    python train.py --resume
    python train.py --init pretrained/universal.pt --lr 1e-3    # from the weights of a trained network, of any classes
    python train.py --recipe universal --structures structures    # diverse, original, authors; options override it
    python train.py --simulate-online --auxiliary 600 # fresh volumes every step, and shapes of no known class
    torchrun --standalone --nproc_per_node=4 train.py --batch-size 256    # a process per GPU; the batch is that of all

checkpoint.pt is the best so far: the highest validation accuracy by class prototypes, ties by validation loss.
"""

import common.installed  # noqa: F401  where packages are missing it says so

import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common.cli import Contrast, Device, InputError, choose_device, plural, run, warn
from common.group import Group, join
from evaluation.rejection import Calibration
from loader.dataset import Split, contrast_warning, load_split, particle_codes
from loader.packed import own_preprocessing
from loader.rows import SplitRows, class_names, read_rows
from loader.volume import skewness
from model import load_checkpoint
from report.known import accuracy_warning, few_warning, refusal_text, refusal_warning
from training.batches import Batches, FileBatches, Labelled
from training.checks import check, check_data, check_group
from training.config import Augmentation, Backbone, Loss, Machine, Online, Optimisation, Recipe, Rejection
from training.init import check_init, init_text, init_warning, network_settings
from training.loop import Validation, draw_gallery, finish_epoch, train_epoch
from training.recipes import RECIPES
from training.record import (
    Board,
    epoch_checkpoints,
    epochs_since_best,
    merit,
    remove_half_written,
    remove_run,
    write_logs,
)
from training.state import TrainingSet, TrainingState
from training.stop import stop_requests


@dataclass(frozen=True)
class Config(Optimisation, Augmentation, Online, Rejection, Machine):  # the settings in training/config.py, and these:
    recipe: Recipe = "default"  # set of constants in training/recipes.py that takes the place of the defaults
    csv_dir: str = "csv_split"  # folder of train.csv and valid.csv
    save_dir: str = "model_save"  # folder of the checkpoints and logs
    contrast: Contrast = "bright"  # contrast of the particles in the files
    backbone: Backbone = "resnet_half_turn"  # the network, by its name in models/ResNet.py
    depth: int = 18  # layers of the network
    width: int = 64  # channels of the network's first stage; 16 is the preset for a CPU
    embedding_dim: int = 512  # numbers per embedding
    views: bool = False  # average embeddings over half turns: four times the inference, no use to the default backbone
    upsample: int = 1  # factor by which the box is enlarged on the device; the original has 2
    init: str = ""  # checkpoint whose network to start from, with its settings; the loss begins anew; empty for none
    loss: Loss = "soft_lmccl"  # the loss, by its name in loss/loss.py
    loss_options: dict[str, str] = field(default_factory=dict)  # options of the loss, each a name and a value: s 30
    epochs: int = 30  # passes over train.csv
    batch_size: int = 64  # volumes per batch, on all processes together
    lr: float = 3e-3  # learning rate; with the schedule one_cycle its peak
    seed: int = 9  # seed of weights, order and augmentation
    device: Device = "auto"  # where to train; auto is CUDA where there is one
    resume: bool = False  # go on with the run in save_dir, from last.pt
    overwrite: bool = False  # delete the run that save_dir holds


CONTRAST_SAMPLE = 500  # volumes whose contrast is looked at


def main(cfg: Config) -> None:
    check(cfg)
    with join(choose_device(cfg.device)) as (group, device):
        train(cfg, group, device)


def train(cfg: Config, group: Group, device: torch.device) -> None:
    """The whole run of one process; a function of its own, as all that it made must end before the group does."""
    check_group(cfg, group, device)
    source = check_init(cfg) if cfg.init else None
    rows, valid_rows, data = read_tables(cfg)
    check_data(cfg, data, rows, group)
    if source and (warning := init_warning(cfg.init, source, data.preprocessing)):
        warn(warning)
    simulated = make_simulated(cfg, len(rows), data, device, group) if cfg.simulate_online else None
    volumes = load_volumes(cfg, rows, data, device)
    valid = load_split(valid_rows, data.preprocessing, memory_share=cfg.memory_share)
    few = few_warning(len(valid), cfg.false_rejection_rate) if cfg.reference == "files" else ""
    if few:
        warn(few)
    batches = simulated or FileBatches(cfg, volumes, device, group)
    with stop_requests() as stop:  # noted from here on; before, a signal ends the run at once
        state = TrainingState(cfg, data, -(-batches.count // cfg.accumulate), device, group)
        state.imaging = batches.imaging_record
        take_up(state)
        group.wait()  # from here on, a signal to any of the processes saves the run
        if group.first:
            print(description(state, batches, valid), flush=True)
        if group.first and source and not (state.epoch or state.step):
            print(init_text(cfg, source), flush=True)
        board = Board(state)
        sets = validation(cfg, valid, volumes, simulated, data) if group.first else None
        while state.epoch < cfg.epochs and not (cfg.patience and epochs_since_best(state.log) >= cfg.patience):
            started, before = time.perf_counter(), state.seen
            stopped = train_epoch(state, batches, stop)
            if stopped:
                leave(state, stopped)
            finish_epoch(state, sets, started, before)
            board.add(state.log[-1])
    if group.first:
        conclude(state)


def validation(
    cfg: Config, valid: Split, volumes: Split | Labelled, simulated: Batches | None, data: TrainingSet
) -> Validation:
    """What an epoch is validated on, and what particles are compared with: training files, or what is simulated."""
    if cfg.reference == "files":
        return Validation(valid, volumes, draw_gallery(volumes.labels, cfg.prototype_per_class, cfg.seed))
    from training.online import reference_volumes

    reference, threshold, cohort = (Labelled(*part) for part in reference_volumes(simulated, data))
    return Validation(valid, reference, torch.arange(len(reference.labels)), threshold, cohort)


def read_tables(cfg: Config) -> tuple[SplitRows, SplitRows, TrainingSet]:
    """The rows of train.csv and valid.csv, and what they and the first volume say of the data.

    Raises InputError where there is none, or where the two have different classes.
    """
    folder = Path(cfg.csv_dir)
    train, valid = (read_rows(folder / name) for name in ("train.csv", "valid.csv"))
    if not len(train):
        raise InputError(f"{train.path}: holds no volume")
    classes = class_names(train.rows, train.path)
    if class_names(valid.rows, valid.path) != classes:
        raise InputError(f"{folder}: train.csv and valid.csv have different classes; run csv_split.py again")
    return train, valid, TrainingSet(classes, own_preprocessing(train, cfg.contrast), particle_codes(train.rows))


def load_volumes(cfg: Config, rows: SplitRows, data: TrainingSet, device: torch.device) -> Split:
    """The training volumes, with a warning where they look as if they were of the other contrast."""
    train = load_split(rows, data.preprocessing, memory_share=cfg.memory_share)
    some = train.images[:: len(train) // CONTRAST_SAMPLE + 1, 0].float().numpy()
    warning = contrast_warning(np.array([skewness(volume) for volume in some]), cfg.contrast)
    if warning:
        warn(warning)
    return train.on_device(device, cfg.memory_share)


def make_simulated(cfg: Config, volumes: int, data: TrainingSet, device: torch.device, group: Group) -> Batches:
    """Batches that are simulated as they are needed, `volumes` per epoch unless the settings say how many."""
    from training.online import OnlineBatches, StreamBatches, load_shapes  # with simulation/, which takes its time

    shapes = load_shapes(cfg, data.classes, data.preprocessing, device)
    kind = OnlineBatches if cfg.online_imaging == "fixed" and cfg.online_renewal == 1 else StreamBatches
    return kind(cfg, shapes, len(data.classes), cfg.online_volumes or volumes, group)


def take_up(state: TrainingState) -> None:
    """Go on with the run that save_dir holds, or delete it, as the settings say.

    Raises InputError where there are checkpoints, but nothing to go on from.
    """
    save_dir, last = Path(state.cfg.save_dir), Path(state.cfg.save_dir) / "last.pt"
    if state.cfg.resume and last.is_file():
        state.load(last)
        if state.group.first and state.log:
            write_logs(state)  # a kill may have come between last.pt and these
    elif state.cfg.resume and (epoch_checkpoints(save_dir) or (save_dir / "checkpoint.pt").is_file()):
        raise InputError(f"{last}: no such file, so nothing to go on from; --overwrite deletes the checkpoints there")
    elif state.cfg.resume and state.group.first:
        print(f"{last}: no such file; starting anew")
    if state.group.first and state.cfg.overwrite:
        remove_run(save_dir)
    if state.group.first:
        remove_half_written(save_dir)


def description(state: TrainingState, batches: Batches, valid: Split) -> str:
    """What is trained on what."""
    cfg = state.cfg
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    processes = f", {state.group.size} processes" if state.group.size > 1 else ""
    begun = f"; goes on after {state.place}" if state.epoch or state.step else ""
    return (
        f"{batches.text}; {len(valid)} validation {plural('volume', len(valid))}, {len(state.data.classes)} classes\n"
        f"{cfg.loss}, {cfg.backbone}, depth {cfg.depth}, width {cfg.width} ({parameters / 1e6:.1f} M parameters), "
        f"{state.data.preprocessing.box}^3 voxels, on {state.device}{processes}; "
        f"{state.steps_per_epoch} {plural('step', state.steps_per_epoch)} per epoch{begun}"
    )


def leave(state: TrainingState, number: int) -> None:
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


def conclude(state: TrainingState) -> None:
    """Say which checkpoint is the best, and which known classes it takes for unknown."""
    best, path = max(state.log, key=merit), Path(state.cfg.save_dir) / "checkpoint.pt"
    early = f"stopped early, after epoch {state.epoch}; " if state.epoch < state.cfg.epochs else ""
    chance = f"chance {1 / len(state.data.classes):.4f}"
    accuracy = f"validation accuracy by nearest prototype {best['accuracy']:.4f} ({chance})"
    print(f"{early}best: epoch {best['epoch']}, {accuracy}; {path}")
    if warning := accuracy_warning(best["accuracy"], len(state.data.classes)):
        warn(warning)
    rates = Calibration.read(load_checkpoint(path)["calibration"]).class_false_rejection
    if rates is not None:  # a run of before may have had none when it was at its best
        print(f"called unknown of each known class in validation: {refusal_text(rates, state.data.classes)}")
        warning = refusal_warning(rates, state.data.classes)
        if warning:
            warn(warning)


if __name__ == "__main__":
    run(main, Config, __doc__, RECIPES, defaults=network_settings)
