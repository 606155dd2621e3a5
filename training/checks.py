"""Settings of train.py that make no sense are refused before anything is read, written or deleted."""

from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common.cli import InputError
from loss.loss import LOSSES
from training.run import OPTIMIZERS, RUN_FILES, SCHEDULES

NUMBERS = ("lr", "eps", "weight_decay", "clip")  # that are no negative ones


def check(cfg: Any) -> None:
    """Refuse options that make no sense, and a folder that holds a run."""
    for name in ("epochs", "batch_size", "accumulate", "prototype_per_class", "keep"):
        if getattr(cfg, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected at least 1")
    for name in ("shift", "noise", "patience", "save_every", "class_samples", "auxiliary", "online_volumes", *NUMBERS):
        if not getattr(cfg, name) >= 0:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected 0 or more")
    for name, choices in (("loss", LOSSES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if getattr(cfg, name) not in choices:
            raise InputError(f"--{name} {getattr(cfg, name)}: expected one of {', '.join(choices)}")
    if cfg.batch_size < 2:
        raise InputError("--batch-size 1: expected at least 2, for batch normalisation")
    if not 0 <= cfg.ema < 1:
        raise InputError(f"--ema {cfg.ema:g}: expected 0 or more, below 1; 1 would keep the weights of the start")
    for name in ("auxiliary_share", "online_noise_free", "online_junk", "memory_share", "false_rejection_rate"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected 0 to 1")
    if cfg.false_rejection_rate == 1:
        raise InputError("--false-rejection-rate 1: expected less, or every particle is unknown")
    if cfg.views and cfg.backbone == "resnet_half_turn":
        raise InputError("--views: every half-turned view has the same embedding by resnet_half_turn; leave it out")
    check_online(cfg)
    if cfg.tensorboard and find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard: the package tensorboard is not installed; install it, or give --no-tensorboard"
        )
    if cfg.resume and cfg.overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    save_dir = Path(cfg.save_dir)
    if save_dir.exists() and not save_dir.is_dir():
        raise InputError(f"{save_dir}: a file; expected a folder for the run (--save-dir)")
    held = [path for pattern in RUN_FILES for path in save_dir.glob(pattern)]
    if held and not cfg.resume and not cfg.overwrite:
        raise InputError(f"{save_dir}: holds a run ({held[0].name}); give --resume, --overwrite or another --save-dir")


def check_online(cfg: Any) -> None:
    """Refuse options of simulated batches that make no sense, and those of files where batches are simulated."""
    if not 0 < cfg.online_snr[0] <= cfg.online_snr[1]:
        raise InputError(f"--online-snr {cfg.online_snr}: expected two numbers above 0, the smaller first")
    for name, largest in (("online_defocus", float("inf")), ("online_tilt", 90)):
        values = getattr(cfg, name)
        if values and not (len(values) == 2 and 0 < values[0] <= values[1] <= largest):
            given = " ".join(f"{value:g}" for value in values)
            raise InputError(f"--{name.replace('_', '-')} {given}: expected two, above 0, the smaller first")
    if cfg.online_imaging not in ("fixed", "random"):
        raise InputError(f"--online-imaging {cfg.online_imaging}: expected fixed or random")
    if not 0 < cfg.online_renewal <= 1 or cfg.online_stock < 1:
        found = f"--online-renewal {cfg.online_renewal:g} --online-stock {cfg.online_stock}"
        raise InputError(f"{found}: expected a renewal above 0, up to 1, and a stock of 1 or more")
    if cfg.online_imaging == "random" and (cfg.online_defocus or cfg.online_tilt):
        raise InputError(
            "--online-defocus, --online-tilt: of fixed imaging; --online-imaging random has its own ranges"
        )
    for field in [] if cfg.simulate_online else fields(cfg):
        default = getattr(type(cfg), field.name, None)
        if field.name.startswith(("online_", "auxiliary")) and getattr(cfg, field.name) != default:
            option = f"--{field.name.replace('_', '-')}"
            raise InputError(f"{option}: of volumes that are simulated; give --simulate-online too")
    if cfg.online_junk and cfg.online_imaging == "fixed" and cfg.online_renewal == 1:
        raise InputError("--online-junk: of a stock of particles; give --online-renewal below 1 too")
    if cfg.simulate_online and (cfg.rotate or cfg.noise or cfg.class_samples):
        raise InputError("--rotate, --noise, --class-samples: for files; with --simulate-online every volume is new")
