"""Settings of train.py that make no sense, or do not go with the data, are refused before any volume is read and before
anything is written or deleted."""

from collections.abc import Iterable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from common.cli import InputError, check_choices
from common.group import Group
from loader.columns import CLASS
from loader.rows import SplitRows
from loss.loss import LOSSES
from training.batches import check_batch_size, check_files
from training.record import run_files
from training.state import TrainingSet, make_loss, make_model

POSITIVE = ("epochs", "batch_size", "accumulate", "prototype_per_class", "keep")
NOT_NEGATIVE = (
    *("lr", "eps", "weight_decay", "clip", "shift", "noise", "patience", "save_every", "class_samples"),
    *("auxiliary", "online_volumes", "online_filaments", "clean_twin"),
)
OF_SIMULATED = ("online_", "auxiliary", "clean_twin", "margin_snr")  # how options of simulated volumes begin
OF_STOCK = ("online_junk", "online_filaments", "clean_twin", "margin_snr")  # options that need a stock of particles
SHARES = (
    *("auxiliary_share", "online_noise_free", "online_junk", "online_tilt_series"),
    *("memory_share", "false_rejection_rate", "whiten"),
)


def check(cfg: Any) -> None:
    """Refuse options that make no sense, whatever the data are, and a folder that holds a run."""
    check_choices(cfg)
    for name in POSITIVE:
        expect(cfg, name, getattr(cfg, name) >= 1, "at least 1")
    for name in NOT_NEGATIVE:
        expect(cfg, name, getattr(cfg, name) >= 0, "0 or more")
    for name in SHARES:
        expect(cfg, name, 0 <= getattr(cfg, name) <= 1, "0 to 1")
    if cfg.batch_size < 2:
        raise InputError("--batch-size 1: expected at least 2, for batch normalisation")
    if not 0 <= cfg.ema < 1:
        raise InputError(f"--ema {cfg.ema:g}: expected 0 or more, below 1; 1 would keep the weights of the start")
    if cfg.false_rejection_rate == 1:
        raise InputError("--false-rejection-rate 1: expected less, or every particle is unknown")
    if cfg.whiten and cfg.prototype_per_class < 2:
        raise InputError(
            "--prototype-per-class 1: --whiten needs 2 or more, as one volume shows no differences within its class"
        )
    if cfg.views and cfg.backbone.startswith("resnet_half_turn"):
        raise InputError(
            f"--views: by --backbone {cfg.backbone}, as by the default, all half-turned views of a volume have the "
            "same embedding; leave --views out, or give another --backbone"
        )
    with torch.device("meta"):  # shapes without numbers
        make_model(cfg)
    check_online(cfg)
    if cfg.tensorboard and find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard: the package tensorboard is not installed; install it, or give --no-tensorboard"
        )
    check_save_dir(cfg)


def expect(cfg: Any, name: str, right: bool, expected: str) -> None:
    """Refuse an option unless it is right."""
    if not right:
        raise InputError(f"{option(name)} {getattr(cfg, name)}: expected {expected}")


def option(name: str) -> str:
    """As the command line has it."""
    return f"--{name.replace('_', '-')}"


def check_save_dir(cfg: Any) -> None:
    """Refuse to mix two runs in a folder."""
    save_dir = Path(cfg.save_dir)
    if cfg.resume and cfg.overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    if save_dir.exists() and not save_dir.is_dir():
        raise InputError(f"{save_dir}: a file; expected a folder for the run (--save-dir)")
    held = run_files(save_dir)
    if held and not cfg.resume and not cfg.overwrite:
        raise InputError(f"{save_dir}: holds a run ({held[0].name}); give --resume, --overwrite or another --save-dir")


def check_online(cfg: Any) -> None:
    """Refuse options of simulated batches that make no sense, and those of files where batches are simulated."""
    if not 0 < cfg.online_snr[0] <= cfg.online_snr[1]:
        raise InputError(f"--online-snr {text(cfg.online_snr)}: expected two numbers above 0, the smaller first")
    for name, largest in (("online_defocus", float("inf")), ("online_tilt", 90)):
        values = getattr(cfg, name)
        if values and not (len(values) == 2 and 0 < values[0] <= values[1] <= largest):
            raise InputError(f"{option(name)} {text(values)}: expected two, above 0, the smaller first")
    if not 0 < cfg.online_renewal <= 1 or cfg.online_stock < 1:
        found = f"--online-renewal {cfg.online_renewal:g} --online-stock {cfg.online_stock}"
        raise InputError(f"{found}: expected a renewal above 0, up to 1, and a stock of 1 or more")
    if cfg.online_imaging == "random" and (cfg.online_defocus or cfg.online_tilt):
        raise InputError(
            "--online-defocus, --online-tilt: of fixed imaging; --online-imaging random has its own ranges"
        )
    for field in [] if cfg.simulate_online else fields(cfg):
        default = getattr(type(cfg), field.name, None)
        if field.name.startswith(OF_SIMULATED) and getattr(cfg, field.name) != default:
            raise InputError(f"{option(field.name)}: of volumes that are simulated; give --simulate-online too")
    if cfg.reference == "simulated" and not cfg.simulate_online:
        raise InputError("--reference simulated: of volumes that are simulated; give --simulate-online too")
    if cfg.online_imaging == "fixed" and cfg.online_renewal == 1:
        for name in OF_STOCK:
            if getattr(cfg, name):
                raise InputError(f"{option(name)}: of a stock of particles; give --online-renewal below 1 too")
    if cfg.margin_snr and not LOSSES[cfg.loss].takes_margins:
        able = ", ".join(name for name, loss in LOSSES.items() if loss.takes_margins)
        raise InputError(f"--margin-snr: --loss {cfg.loss} has no margin that volumes share in; expected one of {able}")
    if cfg.margin_snr and cfg.online_snr[0] == cfg.online_snr[1]:
        raise InputError(f"--margin-snr: --online-snr {text(cfg.online_snr)} is no range; expected two different ones")
    if cfg.online_tilt_series and cfg.online_imaging == "fixed":
        raise InputError("--online-tilt-series: of --online-imaging random")
    if cfg.online_filaments and not cfg.auxiliary_share:
        raise InputError("--online-filaments: of the auxiliary share; give --auxiliary-share above 0")
    if cfg.simulate_online and (cfg.rotate or cfg.noise or cfg.class_samples):
        raise InputError("--rotate, --noise, --class-samples: for files; with --simulate-online every volume is new")


def text(values: Iterable[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def check_group(cfg: Any, group: Group, device: torch.device) -> None:
    """Refuse options that do not go with the processes that train together."""
    if cfg.sync_batchnorm and (device.type != "cuda" or group.size == 1):
        raise InputError("--sync-batchnorm: for several processes on GPUs, started by torchrun")
    check_batch_size(cfg.batch_size, group)


def check_data(cfg: Any, data: TrainingSet, rows: SplitRows, group: Group) -> None:
    """Refuse options that do not go with the rows of train.csv and its first volume."""
    if cfg.views and not data.preprocessing.tilt_range:
        raise InputError("--views: the tilt range of the volumes is unknown (columns Tilt Min and Tilt Max)")
    with torch.device("meta"):
        make_loss(cfg, len(data.classes))
    if cfg.whiten and cfg.reference == "files" and rows.rows[CLASS].is_unique:
        raise InputError("--whiten: train.csv has one volume of each class, which shows no differences within it")
    if not cfg.simulate_online:
        check_files(cfg, torch.tensor(rows.rows[CLASS].to_numpy()), data.preprocessing, group)
