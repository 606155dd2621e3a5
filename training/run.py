"""The state of a training run: what is trained, how far it is, and how it is saved and taken up again."""

import ast
import dataclasses
import inspect
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.cli import InputError
from loader.prepare import Preprocessing
from loss.base import LossTerms
from loss.loss import LOSSES
from model import build_model, load_checkpoint, save_checkpoint
from simulation.junk import JUNK
from training.group import Group

BOARD_FOLDER = "tensorboard"
RUN_FILES = ("checkpoint*.pt", "last.pt", "loss.txt", "log.csv")
HALF_WRITTEN = ".*.pt"  # what a kill in the middle of a save leaves
# settings that may differ between a run and its continuation
FREE = {
    *("recipe", "resume", "overwrite", "device", "keep", "csv_dir", "save_dir", "data_dir", "structures"),
    *("save_every", "memory_share", "compile", "tensorboard", "patience"),
}
MADE_HERE = ("embedding_dim", "num_classes", "validate")  # of a loss, not by --loss-options
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
PLATEAU_PATIENCE = 3  # epochs without a lower validation loss until the plateau schedule divides the rate by ten
DECAY = {"step_size": 20, "gamma": 0.9}  # epochs, factor


def make_schedule(name: str, optimizer: torch.optim.Optimizer, lr: float, total_steps: int) -> LRScheduler:
    """The schedule of the learning rate: one_cycle moves every step, the others every epoch."""
    if name == "one_cycle":
        return OneCycleLR(optimizer, max_lr=lr, total_steps=total_steps)
    if name == "plateau":
        return ReduceLROnPlateau(optimizer, patience=PLATEAU_PATIENCE)
    return StepLR(optimizer, **DECAY)


SCHEDULES = ("one_cycle", "plateau", "decay")


class TrainingStep(nn.Module):
    """Network and loss as one module, so that DistributedDataParallel keeps the parameters of both in step."""

    def __init__(self, model: nn.Module, criterion: nn.Module):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, volumes: torch.Tensor, labels: torch.Tensor) -> LossTerms:
        return self.criterion(self.model(volumes), labels)


class Run:
    """What training changes: the network, the loss, the optimiser and its schedule, and the log.

    Args:
        cfg: of train.py.
        classes: the known classes by index; training may have `auxiliary` further ones after them, and junk.
        preprocessing: of the training volumes; the checkpoint keeps it.
        particles: codes of the training particles, as `particle_codes` gives them; the checkpoint keeps them.
        steps_per_epoch: of the optimiser.
    """

    def __init__(
        self,
        cfg: Any,
        classes: list[str],
        preprocessing: Preprocessing,
        steps_per_epoch: int,
        device: torch.device,
        group: Group | None = None,
        particles: torch.Tensor | None = None,
    ):
        torch.manual_seed(cfg.seed)
        self.cfg, self.device, self.group = cfg, device, group or Group()
        self.layout = torch.channels_last_3d  # the faster one, see benchmarks/speed.py
        self.particles = torch.empty(0, dtype=torch.int64) if particles is None else particles
        self.classes, self.preprocessing, self.steps_per_epoch = classes, preprocessing, steps_per_epoch
        junk = len(JUNK) if cfg.online_junk else 0
        try:
            self.model = build_model(dataclasses.asdict(cfg)).to(device, memory_format=self.layout)
            self.criterion = make_loss(cfg, len(classes) + cfg.auxiliary + junk).to(device)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        average = get_ema_multi_avg_fn(cfg.ema)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True) if cfg.ema else None
        self.module = self._together()
        groups = [
            {"params": list(self.model.parameters()), "weight_decay": cfg.weight_decay},
            {"params": list(self.criterion.parameters()), "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = OPTIMIZERS[cfg.optimizer](groups, lr=cfg.lr, eps=cfg.eps, fused=True)
        self.scheduler = make_schedule(cfg.schedule, self.optimizer, cfg.lr, cfg.epochs * steps_per_epoch)
        self.lr = cfg.lr  # learning rate of the latest step
        self.epoch = 0  # epochs done
        self.step = 0  # steps done of the epoch that is under way
        self.sums, self.seen = torch.zeros(4, dtype=torch.float64), 0  # of its loss terms, each times its volumes
        self.log: list[dict] = []
        self.calibration: dict = {}
        self.imaging: dict | None = None  # that volumes are simulated under, for the checkpoint to say

    def _together(self) -> nn.Module:
        cfg = self.cfg
        if cfg.compile:
            self.model.compile()
        if cfg.sync_batchnorm and (self.device.type != "cuda" or self.group.size == 1):
            raise InputError("--sync-batchnorm: for several processes on GPUs, started by torchrun")
        if self.group.size == 1:
            return TrainingStep(self.model, self.criterion)
        if cfg.sync_batchnorm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        return DistributedDataParallel(TrainingStep(self.model, self.criterion))

    @property
    def network(self) -> nn.Module:
        """The network to validate and to keep: the average of the weights, where one is kept."""
        return self.average.module if self.average else self.model

    @property
    def place(self) -> str:
        """How far it is, in words: what is done."""
        if not self.step:
            return f"epoch {self.epoch} of {self.cfg.epochs}"
        return f"step {self.step} of {self.steps_per_epoch} in epoch {self.epoch + 1} of {self.cfg.epochs}"

    def advance(self) -> None:
        """One step of the optimiser, with what goes by steps: centres, averaged weights, learning rate."""
        self.optimizer.step()
        self.criterion.after_step()
        if self.average:
            self.average.update_parameters(self.model)
        if self.cfg.schedule == "one_cycle":
            self.scheduler.step()

    def end_epoch(self, valid_loss: float) -> None:
        """Count the epoch, with what goes by epochs: the learning rate."""
        self.epoch, self.step = self.epoch + 1, 0
        self.sums, self.seen = torch.zeros_like(self.sums), 0
        if self.cfg.schedule == "plateau":
            self.scheduler.step(valid_loss)
        elif self.cfg.schedule == "decay":
            self.scheduler.step()

    def load(self, path: Path) -> None:
        """Take up a run from its last.pt; refuse one of other classes, data or settings, naming every difference."""
        saved = load_checkpoint(path)
        now = {
            **comparable(dataclasses.asdict(self.cfg)),
            "classes": self.classes,
            "preprocessing": self.preprocessing.content(),
        }
        then = {  # options that the run was before had what is now their default
            **comparable(dataclasses.asdict(type(self.cfg)()) | saved["config"]),
            "classes": saved["classes"],
            "preprocessing": saved["preprocessing"],
        }
        progress = saved["progress"]
        now["steps_per_epoch"], then["steps_per_epoch"] = self.steps_per_epoch, progress["steps_per_epoch"]
        if self.cfg.simulate_online:  # each process draws its own part of a batch; a run of before may not say how many
            now["processes"], then["processes"] = self.group.size, progress.get("processes", self.group.size)
        changed = [f"{key} was {then.get(key)}, is {now[key]}" for key in now if now[key] != then.get(key)]
        if not torch.equal(self.particles, progress["particles"]):
            changed.append("trained on other particles than train.csv has now")
        if changed:
            raise InputError(f"{path}: {'; '.join(changed)}; give the same, another --save-dir, or --overwrite")
        self.model.load_state_dict(progress.get("weights", saved["state_dict"]))
        if self.average:
            self.average.load_state_dict(progress["average"])
        self.criterion.load_state_dict(saved["criterion"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"]["torch"])
        self.epoch, self.log, self.calibration = saved["epoch"], saved["metrics"]["log"], saved["calibration"]
        self.step, self.sums, self.seen = progress["step"], progress["sums"], progress["seen"]

    def save(self, path: Path) -> None:
        """Write everything that `load` needs, in one step."""
        progress = {"steps_per_epoch": self.steps_per_epoch, "step": self.step, "sums": self.sums, "seen": self.seen}
        progress |= {"particles": self.particles, "processes": self.group.size}
        if self.average:
            progress |= {"weights": self.model.state_dict(), "average": self.average.state_dict()}
        save_checkpoint(
            path,
            epoch=self.epoch,
            state_dict=self.network.state_dict(),
            criterion=self.criterion.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler={},
            rng={"torch": torch.get_rng_state()},
            config=dataclasses.asdict(self.cfg) | {"imaging": self.imaging},
            classes=self.classes,
            preprocessing=self.preprocessing.content(),
            calibration=self.calibration,
            metrics={"log": self.log},
            progress=progress,
        )


def make_loss(cfg: Any, num_classes: int) -> nn.Module:
    options = {}
    for name, text in cfg.loss_options.items():
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    known = [name for name in inspect.signature(LOSSES[cfg.loss]).parameters if name not in MADE_HERE]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError(f"--loss-options {' '.join(unknown)}: {cfg.loss} has {', '.join(known) or 'none'}")
    return LOSSES[cfg.loss](cfg.embedding_dim, num_classes, validate=False, **options)


def comparable(config: dict) -> dict:
    return {key: value for key, value in config.items() if key not in FREE}


def remove_run(save_dir: Path) -> None:
    for pattern in (*RUN_FILES, HALF_WRITTEN):
        for path in save_dir.glob(pattern):
            path.unlink()
    shutil.rmtree(save_dir / BOARD_FOLDER, ignore_errors=True)
