"""Write a small copy of a checkpoint, to be given away: all that the other scripts read, and nothing to resume from.

model_save/checkpoint.pt -> pretrained/universal.pt

    python ship.py model_save/checkpoint.pt pretrained/universal.pt

test.py, open_set.py and predict.py use it as any checkpoint, and `train.py --init` starts from it. Weights and
reference embeddings are float16, what the loss keeps of auxiliary classes is left out, and of settings that are paths
the last part alone is kept.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common.cli import InputError, run
from common.files import atomic_path
from evaluation.junk import junk_of_loss
from model import load_checkpoint, load_model, save_checkpoint, trained_classes
from simulation.junk import JUNK
from training.state import beside_known

LARGEST = 10e6  # bytes of the file
PATHS = ("csv_dir", "save_dir", "data_dir", "structures", "init")  # settings of train.py


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    target: tyro.conf.Positional[str]  # file to write the small copy to


def main(cfg: Config) -> None:
    load_model(cfg.checkpoint, torch.device("cpu"))  # refuses what no script could use
    if Path(cfg.target).absolute() == Path(cfg.checkpoint).absolute():
        raise InputError(f"{cfg.target}: the checkpoint itself; expected another file")
    content = light(load_checkpoint(cfg.checkpoint))
    with atomic_path(cfg.target) as temporary:
        save_checkpoint(temporary, **content)
        size = temporary.stat().st_size
        if size > LARGEST:
            raise InputError(f"{cfg.target}: would have {size / 1e6:.1f} MB; expected at most {LARGEST / 1e6:g}")
    print(f"{cfg.target}: {size / 1e6:.2f} MB, epoch {content['epoch']}, {len(content['classes'])} known classes")


def light(checkpoint: dict) -> dict:
    """The content of the small copy.

    Raises InputError where a number is too large for float16.
    """
    config, classes = checkpoint["config"], trained_classes(checkpoint)
    trained = len(classes) + beside_known(config)
    criterion = {
        name: value[: len(classes)] if value.ndim and len(value) == trained else value
        for name, value in checkpoint["criterion"].items()
    }
    reference = {name: value for name, value in checkpoint["calibration"].items() if name in ("reference", "cohort")}
    names = {name: Path(str(config[name])).name for name in PATHS if name in config}
    return {key: value for key, value in checkpoint.items() if key != "version"} | {
        "state_dict": half(checkpoint["state_dict"]),
        "criterion": half(criterion),
        "calibration": checkpoint["calibration"] | half(reference),
        "junk": light_junk(checkpoint),
        "whitening": half(checkpoint["whitening"]),
        "config": config | names,
        "progress": {key: checkpoint["progress"][key] for key in ("steps_per_epoch", "step", "particles")},
        **{key: {} for key in ("optimizer", "scheduler", "scaler", "rng")},
    }


def light_junk(checkpoint: dict) -> dict:
    """What tells particles from junk, in float16.

    Where training had junk but was before this was kept, it is fitted to the reference embeddings of known classes.
    """
    junk, reference = checkpoint["junk"], checkpoint["calibration"].get("reference")
    if not junk and checkpoint["config"].get("online_junk") and reference is not None:
        found = junk_of_loss(checkpoint["criterion"], len(JUNK), reference.numpy())
        junk = found.content() if found else {}
    return junk | half({name: value for name, value in junk.items() if name != "threshold"})


def half(values: dict) -> dict:
    """float16 for what fills the file, float numbers on two and more axes; the rest as it is, in storage of its own."""
    found = {
        name: value.half() if value.is_floating_point() and value.ndim > 1 else value.clone()
        for name, value in values.items()
    }
    beyond = sorted(name for name, value in found.items() if not value.isfinite().all())
    if beyond:
        raise InputError(f"{', '.join(beyond)}: not finite, or beyond float16")
    return found


if __name__ == "__main__":
    run(main, Config, __doc__)
