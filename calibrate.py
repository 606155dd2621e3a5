"""Write a checkpoint whose "unknown" holds under other imaging: that of its training, or that of your own data.

CHECKPOINT, structures of its known classes -> another checkpoint; nothing is trained

    python calibrate.py pretrained/universal.pt mine.pt --structures structures --tilt-range -51 51 --defocus 2 4
    python calibrate.py model_save/checkpoint.pt mine.pt    # classes of simulate.py --procedural need no files

The known classes are simulated under the imaging of training, or of what is declared of it: some volumes are what
particles are compared with from then on, as many others set the threshold. Beside them stands a cohort, made-up shapes
that are none of the classes: a particle is as well known as it is nearer to a class than to these. The checkpoint must
be of simulated training, and say under which imaging. Classes that were enrolled are left out: enrol them again.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass
from pathlib import Path

import tyro

from common.cli import Device, InputError, check_choices, choose_device, run
from common.files import atomic_path
from evaluation.rejection import LESS_COHORT, calibrate
from model import embed, load_checkpoint, load_model, save_checkpoint, trained_classes
from report.known import refusal_text
from simulation.as_trained import AsTrained, Declared
from simulation.reference import compared_volumes
from simulation.structures import load_densities


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py, of simulated volumes
    target: tyro.conf.Positional[str]  # checkpoint to write
    structures: str = ""  # folder of the known classes' structure files; empty for procedural complexes
    shape_seed: int = 9  # seed of the procedural complexes; that of the training data
    tilt_range: tuple[float, ...] = ()  # first and last tilt of your data, degrees; empty: as in training
    defocus: tuple[float, ...] = ()  # range of the defocus of your data, um; empty: as in training
    voxel_size: float = 0.0  # voxel size of your data, A; 0: as in training
    false_rejection_rate: float = 0.15  # share of the simulated known volumes that may be called unknown
    per_class: int = 200  # simulated volumes of each class to compare with, and as many for the threshold
    seed: int = 9  # seed of poses, imaging and noise
    batch_size: int = 256  # volumes embedded at once
    device: Device = "auto"  # where to compute; auto is CUDA where there is one


def main(cfg: Config) -> None:
    check(cfg)
    device = choose_device(cfg.device)
    model, checkpoint = load_model(cfg.checkpoint, device)
    record, classes = checkpoint["config"].get("imaging"), trained_classes(checkpoint)
    if not record or not classes:
        raise InputError(f"{cfg.checkpoint}: expected known classes and a record of the imaging of simulated training")
    declared = Declared.read(cfg.tilt_range, cfg.defocus, cfg.voxel_size)
    imaging = AsTrained.read_with_snr(checkpoint["config"], checkpoint["preprocessing"], declared)
    densities = load_densities(tuple(classes), cfg.structures, imaging.grid, cfg.shape_seed).to(device)
    print(f"{len(classes)} known classes under {imaging.text()}", flush=True)
    sides = [
        (embed(model, volumes, device, cfg.batch_size, text), labels.numpy())
        for text, (volumes, labels) in zip(
            ("to compare with", "for the threshold", "cohort"),
            compared_volumes(imaging, densities, cfg.per_class, cfg.seed),
            strict=True,
        )
    ]
    reference, validation, cohort = sides
    found = calibrate(reference, validation, len(classes), cfg.false_rejection_rate, LESS_COHORT, cohort)
    content = load_checkpoint(cfg.checkpoint)
    with atomic_path(cfg.target) as temporary:
        save_checkpoint(temporary, **written(content, classes, found.content()))
    print(f"refused of {found.n} simulated volumes: {refusal_text(found.class_false_rejection, classes)}")
    print(f"{cfg.target}: threshold {found.threshold:.3f} of {found.score}")


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    check_choices(cfg)
    if not 0 <= cfg.false_rejection_rate < 1:
        raise InputError(f"--false-rejection-rate {cfg.false_rejection_rate:g}: expected 0 or more, and less than 1")
    if not 0 <= cfg.voxel_size < float("inf") or min(cfg.batch_size, cfg.per_class - 9) < 1:
        raise InputError("--voxel-size, --batch-size, --per-class: expected 0 A or more, 1 or more, and 10 or more")
    if Path(cfg.target).absolute() == Path(cfg.checkpoint).absolute():
        raise InputError(f"{cfg.target}: the checkpoint itself, which stays as it is; expected another file")


def written(content: dict, classes: list[str], calibration: dict) -> dict:
    """What the new file holds: network and loss of the old one, another calibration, nothing to resume from."""
    config = {name: value for name, value in content["config"].items() if name != "enrolled"}
    return {key: value for key, value in content.items() if key != "version"} | {
        "classes": classes,
        "config": config,
        "calibration": calibration,
        "progress": {key: content["progress"][key] for key in ("steps_per_epoch", "step", "particles")},
        **{key: {} for key in ("optimizer", "scheduler", "scaler", "rng")},
    }


if __name__ == "__main__":
    run(main, Config, __doc__)
