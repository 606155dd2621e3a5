"""A run that starts from the network of another: `train.py --init CHECKPOINT`.

The settings of the network are the checkpoint's, which stand in the place of the defaults; its weights are taken whole.
The loss begins anew, as it belongs to the classes.
"""

from typing import Any

import torch

from common.cli import InputError, given_value
from loader.prepare import Preprocessing
from model import load_checkpoint, load_model
from physics.grid import same_voxel_size

NETWORK = ("backbone", "depth", "width", "embedding_dim", "upsample")


def network_settings() -> dict[str, Any]:
    """The settings of the network in the checkpoint that --init names on the command line; none without it."""
    path = given_value("init")
    return {name: load_checkpoint(path)["config"][name] for name in NETWORK} if path else {}


def check_init(cfg: Any) -> dict:
    """The checkpoint to start from, as `load_model` gives it.

    Raises InputError as `load_model` does, and where the settings of the network are not the checkpoint's.
    """
    source = load_model(cfg.init, torch.device("cpu"))[1]
    own = source["config"]
    other = [f"{name} {own[name]}, not {getattr(cfg, name)}" for name in NETWORK if own[name] != getattr(cfg, name)]
    if other:
        raise InputError(f"--init {cfg.init}: its network has {', '.join(other)}; leave these options out")
    return source


def init_text(cfg: Any, source: dict) -> str:
    """What is taken from the checkpoint, and what is not."""
    known = len(source["classes"])
    return (
        f"starts from the network of {cfg.init} (epoch {source['epoch']}, {known} known classes); the loss, the "
        "optimiser and what tells known from unknown begin anew"
    )


def init_warning(path: str, source: dict, preprocessing: Preprocessing) -> str:
    """Says where the volumes are not as those that the network was trained on; empty where they are.

    The network takes any box, but its filters belong to a size of the voxels, and to a box that a particle fills.
    """
    before: Preprocessing = source["preprocessing"]
    differences = []
    if before.box != preprocessing.box:
        differences.append(f"a box of {before.box} voxels, here {preprocessing.box}")
    sizes = before.voxel_size, preprocessing.voxel_size
    if all(sizes) and not same_voxel_size(*sizes):
        differences.append(f"voxels of {sizes[0]:g} A, here {sizes[1]:g} A")
    return f"{path} was trained on {' and '.join(differences)}; it may help less" if differences else ""
