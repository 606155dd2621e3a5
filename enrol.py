"""Write a checkpoint that knows more classes, named by a few examples, by a structure alone, or found by predict.py.

CHECKPOINT, examples | structures | results/<...>/predict -> another checkpoint; nothing is trained

    python enrol.py model_save/checkpoint.pt lab.pt --enrol ribosome=examples/ p97=p97.cif
    python enrol.py model_save/checkpoint.pt lab.pt --enrol structures/ --only-enrolled --tilt-range -60 60
    python enrol.py model_save/checkpoint.pt lab.pt --promote results/model_save-checkpoint/predict cluster_3=spoke

What --enrol takes is said in prediction/enrol.py; `predict.py --enrol` takes the same for one call. The new file is a
checkpoint as any other for predict.py, test.py, open_set.py, ship.py and `train.py --init`; to be gone on with
(--resume) it is not. How sure each class is, is printed and kept in the file.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import tyro

from common.cli import Device, InputError, check_choices, choose_device, run
from common.files import atomic_path
from model import load_checkpoint, load_model, save_checkpoint
from prediction.enrol import Enrolling, Setting, enrolled, read_wanted
from prediction.promote import promoted
from report.enrolment import enrolment_text


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    target: tyro.conf.Positional[str]  # checkpoint to write
    promote: tuple[str, ...] = ()  # folder of predictions, then CLUSTER=NAME for each of its clusters to make a class
    contrast: Literal["", "bright", "dark"] = ""  # contrast of the particles; empty: as in the training files
    voxel_size: float = 0.0  # voxel size (A) of your data; overrides the headers of all examples, too; 0: as these say
    batch_size: int = 256  # volumes embedded at once
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    enrolling: tyro.conf.OmitArgPrefixes[Enrolling] = field(default_factory=Enrolling)


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    check(cfg)
    wanted = read_wanted(cfg.enrolling)
    model, checkpoint = load_model(cfg.checkpoint, device)
    more = promoted(cfg.promote, checkpoint) if cfg.promote else []
    changed = {"contrast": cfg.contrast} if cfg.contrast else {}
    preprocessing = replace(checkpoint["preprocessing"], **changed)
    setting = Setting(model, preprocessing, device, cfg.batch_size, cfg.voxel_size, cfg.voxel_size)
    checkpoint, found, imaging = enrolled(checkpoint, wanted, cfg.enrolling, setting, more)
    content = load_checkpoint(cfg.checkpoint)
    with atomic_path(cfg.target) as temporary:
        save_checkpoint(temporary, **written(content, checkpoint))
    print(enrolment_text(found, imaging))
    print(f"{cfg.target}: {len(found.classes)} classes, {len(found.enrolled)} of them enrolled now")


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    check_choices(cfg)
    if not (cfg.enrolling.enrol or cfg.promote):
        raise InputError("nothing to enrol: expected --enrol or --promote")
    if cfg.batch_size < 1 or not 0 <= cfg.voxel_size < float("inf"):
        raise InputError(
            f"--batch-size {cfg.batch_size} --voxel-size {cfg.voxel_size:g}: expected 1 or more, and a number of A or 0"
        )
    if Path(cfg.target).absolute() == Path(cfg.checkpoint).absolute():
        raise InputError(f"{cfg.target}: the checkpoint itself, which stays as it is; expected another file")


def written(content: dict, checkpoint: dict) -> dict:
    """What the new file holds: the network and the loss of the old one, the new classes, nothing to resume from."""
    changed = {
        "classes": checkpoint["classes"],
        "config": checkpoint["config"],
        "calibration": checkpoint["calibration"].content(),
        "junk": checkpoint["junk"].content() if checkpoint["junk"] else {},
        "progress": {key: content["progress"][key] for key in ("steps_per_epoch", "step", "particles")},
        **{key: {} for key in ("optimizer", "scheduler", "scaler", "rng")},
    }
    return {key: value for key, value in content.items() if key != "version"} | changed


if __name__ == "__main__":
    run(main, Config, __doc__)
