"""The state of a training run: what is trained, how far it is, and how it is saved and taken up again."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.cli import InputError
from loss.loss import LOSSES
from model import build_model, load_checkpoint, save_checkpoint

RUN_FILES = ("checkpoint*.pt", "last.pt", "loss.txt", "log.csv")
# settings that may differ between a run and its continuation
FREE = {"resume", "overwrite", "device", "keep", "csv_dir", "save_dir"}


class Run:
    """What training changes: the network, the loss, the optimiser and its schedule, and the log."""

    def __init__(self, cfg: Any, classes: list[str], preprocessing: dict, steps_per_epoch: int, device: torch.device):
        torch.manual_seed(cfg.seed)
        self.cfg, self.device = cfg, device
        self.classes, self.preprocessing = classes, preprocessing
        try:
            self.model = build_model(dataclasses.asdict(cfg)).to(device, memory_format=torch.channels_last_3d)
            self.criterion = make_loss(cfg, len(classes)).to(device)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        groups = [
            {"params": list(self.model.parameters()), "weight_decay": cfg.weight_decay},
            {"params": list(self.criterion.parameters()), "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=cfg.lr)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=cfg.lr, total_steps=cfg.epochs * steps_per_epoch
        )
        self.epoch = 0  # epochs done
        self.log: list[dict] = []

    def load(self, path: Path) -> None:
        """Take up a run from its last.pt; refuse one of other classes, data or settings, naming the difference."""
        saved = load_checkpoint(path)
        now = {**comparable(dataclasses.asdict(self.cfg)), "classes": self.classes, "preprocessing": self.preprocessing}
        then = {**comparable(saved["config"]), "classes": saved["classes"], "preprocessing": saved["preprocessing"]}
        for key in now:
            if now[key] != then.get(key):
                raise InputError(f"{path}: {key} was {then.get(key)}, is {now[key]}; give the same, or --overwrite")
        self.model.load_state_dict(saved["state_dict"])
        self.criterion.load_state_dict(saved["criterion"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"]["torch"])
        self.epoch, self.log = saved["epoch"], saved["metrics"]["log"]

    def save(self, path: Path, calibration: dict) -> None:
        save_checkpoint(
            path,
            epoch=self.epoch,
            state_dict=self.model.state_dict(),
            criterion=self.criterion.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            scaler={},
            rng={"torch": torch.get_rng_state()},
            config=dataclasses.asdict(self.cfg),
            classes=self.classes,
            preprocessing=self.preprocessing,
            calibration=calibration,
            metrics={"log": self.log},
        )


def make_loss(cfg: Any, num_classes: int) -> nn.Module:
    options = {}
    for name, text in cfg.loss_options.items():
        try:
            options[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[name] = text
    return LOSSES[cfg.loss](cfg.embedding_dim, num_classes, validate=False, **options)


def comparable(config: dict) -> dict:
    return {key: value for key, value in config.items() if key not in FREE}


def remove_run(save_dir: Path) -> None:
    for pattern in RUN_FILES:
        for path in save_dir.glob(pattern):
            path.unlink()
