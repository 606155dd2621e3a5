"""The state of a training run: what is trained, how far it is, and how it is saved and taken up again."""

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.cli import InputError
from common.group import Group
from evaluation.junk import JunkCalibration
from evaluation.rejection import Calibration
from evaluation.whitening import Whitening
from loader.prepare import Preprocessing
from loss.base import Loss, LossTerms
from loss.loss import LOSSES
from model import Conv3D, build_model, load_checkpoint, save_checkpoint
from simulation.junk import JUNK

# settings that may differ between a run and its continuation
FREE = {
    *("recipe", "resume", "overwrite", "device", "keep", "csv_dir", "save_dir", "data_dir", "structures"),
    *("save_every", "memory_share", "compile", "tensorboard", "patience", "reference", "prototype_per_class"),
    "whiten",
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


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """What a run is about; the checkpoint keeps it.

    classes: the known classes by index; training may have auxiliary ones after them, and junk.
    preprocessing: of the training volumes.
    particles: codes of the training particles, as `particle_codes` gives them.
    """

    classes: list[str]
    preprocessing: Preprocessing
    particles: torch.Tensor = dataclasses.field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


class TwinTerms(NamedTuple):
    """As `LossTerms`, with the term of clean twins, which is in the total too."""

    total: torch.Tensor
    softmax: torch.Tensor
    margin: torch.Tensor
    center: torch.Tensor
    twin: torch.Tensor


class TrainingStep(nn.Module):
    """Network and loss as one module, so that DistributedDataParallel keeps the parameters of both in step.

    `twin_weight` is that of the term of clean twins, where a step is given any.
    """

    def __init__(self, model: nn.Module, criterion: Loss, twin_weight: float = 0.0):
        super().__init__()
        self.model, self.criterion, self.twin_weight = model, criterion, twin_weight

    def forward(
        self,
        volumes: torch.Tensor,
        labels: torch.Tensor,
        twins: torch.Tensor | None = None,
        margins: torch.Tensor | None = None,
    ) -> LossTerms | TwinTerms:
        """The loss of volumes (N, 1, D, H, W) and labels (N,).

        The first volumes have `twins` (t, 1, D, H, W); each takes its share `margins` (N,) of the margin.
        """
        embeddings = self.model(volumes)
        terms = self.criterion(embeddings, labels, margins)
        if twins is None:
            return terms
        twin = self.criterion.twin(embeddings[: len(twins)], self.taught(twins))
        return TwinTerms(terms.total + self.twin_weight * twin, *terms[1:], twin)

    @torch.no_grad()
    def taught(self, twins: torch.Tensor) -> torch.Tensor:
        """Embeddings of twins as the network is used, in eval mode: they leave its running statistics alone."""
        was_training = self.model.training
        self.model.eval()
        embeddings = self.model(twins)
        self.model.train(was_training)
        return embeddings


class TrainingState:
    """What training changes: the network, the loss, the optimiser and its schedule, and the log.

    Args:
        cfg: of train.py.
        data: what it trains on.
        steps_per_epoch: of the optimiser.
        device: of the network and the loss.
        group: the processes that train together; one alone where none is given.
    """

    def __init__(
        self, cfg: Any, data: TrainingSet, steps_per_epoch: int, device: torch.device, group: Group | None = None
    ):
        torch.manual_seed(cfg.seed)
        self.cfg, self.data, self.device, self.group = cfg, data, device, group or Group()
        self.layout = torch.channels_last_3d  # the faster one, see benchmarks/speed.py
        self.steps_per_epoch = steps_per_epoch
        self.model = make_model(cfg)
        if cfg.init:
            self.model.load_state_dict(load_checkpoint(cfg.init)["state_dict"])
        self.model = self.model.to(device, memory_format=self.layout)
        self.criterion = make_loss(cfg, len(data.classes)).to(device)
        self.average, self.loss_average = None, None
        if cfg.ema:  # a network and a loss that belong together: averaged alike
            options = {"multi_avg_fn": get_ema_multi_avg_fn(cfg.ema), "use_buffers": True}
            self.average = AveragedModel(self.model, **options)
            if self.criterion.state_dict():  # some losses have nothing to average
                self.loss_average = AveragedModel(self.criterion, **options)
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
        self.terms = ("train_loss", "softmax", "margin", "center", *(("twin",) if cfg.clean_twin else ()))  # in the log
        self.sums, self.seen = torch.zeros(len(self.terms), dtype=torch.float64), 0  # of them, each times its volumes
        self.log: list[dict] = []
        self.calibration: Calibration | None = None
        self.junk: JunkCalibration | None = None
        self.whitening: Whitening | None = None
        self.imaging: dict | None = None  # that volumes are simulated under, for the checkpoint to say

    def _together(self) -> nn.Module:
        cfg = self.cfg
        if cfg.compile:
            self.model.compile()
        if self.group.size == 1:
            return TrainingStep(self.model, self.criterion, cfg.clean_twin)
        if cfg.sync_batchnorm:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        return DistributedDataParallel(TrainingStep(self.model, self.criterion, cfg.clean_twin))

    @property
    def network(self) -> nn.Module:
        """The network to validate and to keep: the average of the weights, where one is kept."""
        return self.average.module if self.average else self.model

    @property
    def loss(self) -> Loss:
        """The loss that belongs to `network`: to validate and to keep."""
        return self.loss_average.module if self.loss_average else self.criterion

    def start_epoch(self) -> None:
        """Into training mode, with what goes by epochs: the margin."""
        self.module.train()
        self.criterion.start_epoch(self.epoch)
        self.loss.start_epoch(self.epoch)

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
        if self.loss_average:
            self.loss_average.update_parameters(self.criterion)
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
        if not saved["optimizer"]:
            raise InputError(f"{path}: shipped without what resuming needs; --init starts a new run from its weights")
        now = {
            **comparable(dataclasses.asdict(self.cfg)),
            "classes": self.data.classes,
            "preprocessing": self.data.preprocessing.content(),
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
        trained = progress["particles"]  # none: of a run that did not keep them
        if len(trained) and not torch.equal(self.data.particles, trained):
            changed.append("trained on other particles than train.csv has now")
        if changed:
            raise InputError(f"{path}: {'; '.join(changed)}; give the same, another --save-dir, or --overwrite")
        self.model.load_state_dict(progress.get("weights", saved["state_dict"]))
        self.criterion.load_state_dict(progress.get("loss_weights", saved["criterion"]))
        if self.average:
            self.average.load_state_dict(progress["average"])
        if self.loss_average and "loss_average" in progress:
            self.loss_average.load_state_dict(progress["loss_average"])
        elif self.loss_average:  # a run of before, whose loss had no average: it begins here
            self.loss_average.update_parameters(self.criterion)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"]["torch"])
        self.epoch, self.log = saved["epoch"], saved["metrics"]["log"]
        self.calibration = Calibration.read(saved["calibration"]) if saved["calibration"] else None
        self.junk, self.whitening = JunkCalibration.read(saved["junk"]), Whitening.read(saved["whitening"])
        self.step, self.sums, self.seen = progress["step"], progress["sums"], progress["seen"]

    def save(self, path: Path) -> None:
        """Write everything that `load` needs, in one step."""
        progress = {"steps_per_epoch": self.steps_per_epoch, "step": self.step, "sums": self.sums, "seen": self.seen}
        progress |= {"particles": self.data.particles, "processes": self.group.size}
        if self.average:
            progress |= {"weights": self.model.state_dict(), "average": self.average.state_dict()}
        if self.loss_average:
            progress |= {"loss_weights": self.criterion.state_dict(), "loss_average": self.loss_average.state_dict()}
        save_checkpoint(
            path,
            epoch=self.epoch,
            state_dict=self.network.state_dict(),
            criterion=self.loss.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler={},
            rng={"torch": torch.get_rng_state()},
            config=dataclasses.asdict(self.cfg) | {"imaging": self.imaging},
            classes=self.data.classes,
            preprocessing=self.data.preprocessing.content(),
            calibration=self.calibration.content() if self.calibration else {},
            junk=self.junk.content() if self.junk else {},
            whitening=self.whitening.content() if self.whitening else {},
            metrics={"log": self.log},
            progress=progress,
        )


def make_model(cfg: Any) -> Conv3D:
    """The network of the settings. Raises InputError for one that cannot be built."""
    try:
        return build_model(dataclasses.asdict(cfg))
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def make_loss(cfg: Any, known: int) -> Loss:
    """The loss of the settings, for `known` classes, the auxiliary ones after them, the filaments, and those of junk.

    Raises InputError for an option that it does not have, or a value that the option cannot have.
    """
    options = {}
    for name, text in cfg.loss_options.items():
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    allowed = [name for name in inspect.signature(LOSSES[cfg.loss]).parameters if name not in MADE_HERE]
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise InputError(f"--loss-options {' '.join(unknown)}: {cfg.loss} has {', '.join(allowed) or 'none'}")
    classes = known + beside_known(dataclasses.asdict(cfg))
    try:
        return LOSSES[cfg.loss](cfg.embedding_dim, classes, validate=False, **options)
    except (TypeError, ValueError) as error:
        raise InputError(f"--loss-options: {error}") from error


def beside_known(config: dict) -> int:
    """How many classes the loss has after the known ones: auxiliary ones, filaments, and those of junk.

    A configuration of before an option (of train.py, or of a checkpoint) lacks it, and has none of its classes.
    """
    junk = len(JUNK) if config.get("online_junk") else 0
    return config.get("auxiliary", 0) + config.get("online_filaments", 0) + junk


def comparable(config: dict) -> dict:
    return {key: value for key, value in config.items() if key not in FREE}
