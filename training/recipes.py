"""Recipes: literal sets of constants for `train.py --recipe NAME`. Where they are silent, train.py's defaults hold."""

from typing import Any

from loss.loss import AUTHORS, ORIGINAL


def as_text(options: dict[str, Any]) -> dict[str, str]:
    """Options of a loss as the command line gives them."""
    return {name: str(value) for name, value in options.items()}


PLAIN = {  # neither publication does any of this
    "accumulate": 1,
    "class_samples": 0,
    "clip": 0.0,
    "ema": 0.0,
    "patience": 0,
    "half_turns": False,
    "shift": 0,
    "noise": 0.0,
    "rotate": False,
}

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    # For data of simulate.py: fresh volumes, and shapes that are no one's class; see benchmarks/class_diversity.py.
    "diverse": {"simulate_online": True, "auxiliary": 100, "auxiliary_share": 0.7},
    # The shipped network (pretrained/README.md): any shape under any imaging. Epochs and width are what a day of a CPU
    # core has; a GPU takes --epochs 150 --width 64.
    "universal": {
        "simulate_online": True,
        "online_imaging": "random",
        "online_snr": (0.01, 1.0),
        "online_renewal": 0.25,
        "online_stock": 16384,
        "online_volumes": 20000,
        "online_junk": 0.1,
        "auxiliary": 2000,
        "auxiliary_share": 0.7,
        "backbone": "resnet_half_turn",
        "width": 32,
        "loss": "soft_lmccl",
        "loss_options": {"margin_weight": "0.3"},
        "epochs": 30,
        "reference": "simulated",
        "prototype_per_class": 200,
        "false_rejection_rate": 0.15,  # of what is simulated; of benchmarks/sets.py's it is less: see thresholds.md
    },
    # The public PyTorch repository, less its faults. It enlarges by cubic splines, here it is trilinear, on the device;
    # it does not normalise volumes, here each has mean 0 and standard deviation 1.
    "original": {
        "backbone": "resnet",
        "depth": 18,
        "width": 64,
        "embedding_dim": 512,
        "upsample": 2,
        "loss": "soft_lmccl",
        "loss_options": as_text(ORIGINAL),
        "epochs": 60,
        "batch_size": 16,
        "optimizer": "adam",
        "lr": 1e-2,
        "eps": 1e-8,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        **PLAIN,
    },
    # The TensorFlow code that belongs to the paper: 600 steps per epoch, which a data set of 60,000 volumes has, of
    # 40^3 voxels that are not normalised; here the box is that of the files, and volumes are normalised.
    "authors": {
        "backbone": "sphere20",
        "depth": 20,
        "width": 64,
        "embedding_dim": 1024,
        "upsample": 1,
        "loss": "soft_lmccl",
        "loss_options": as_text(AUTHORS),
        "epochs": 100,
        "batch_size": 100,
        "optimizer": "adam",
        "lr": 1e-3,
        "eps": 0.1,
        "weight_decay": 1e-4,
        "schedule": "decay",
        **PLAIN,
    },
}
