"""What does each loss and each option do, on handwritten digits? A check in minutes, of losses, not of subtomograms.

-> benchmarks/results/loss_options.{json,md}

    python -m benchmarks.loss_options
    python -m benchmarks.loss_options --splits 3

The digits are the 1,797 images of 8 x 8 pixels that come with scikit-learn. Each split draws six known classes; the
other four are never trained on. A small network is trained with each loss on 70 % of the known images. Measured are
the accuracy on the other known images by the nearest class mean, and the AUC with which the cosine of two embeddings
tells pairs of one unseen class from pairs of two. Every loss sees the same splits, first weights and batches.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from benchmarks import machine, study
from common.cli import run
from common.progress import progress
from loss.loss import AUTHORS, LOSSES, ORIGINAL


@dataclass(frozen=True)
class Config:
    splits: int = 10  # number of draws of known classes, training images and weights
    known: int = 6  # number of the ten classes that are known
    embedding_dim: int = 32  # numbers per embedding, E
    hidden: int = 256  # units of the network's one hidden layer
    epochs: int = 30  # passes over the training images
    batch_size: int = 64  # training images per step
    lr: float = 3e-3  # learning rate of AdamW, which falls to 0 along a cosine
    seed: int = 9  # seed of the first split; each further one adds 1
    results: str = str(study.RESULTS / "loss_options")  # path of the results, without the endings .json and .md


TRAIN_SHARE = 0.7
REFERENCE = "soft_lmccl"
RAW = {"center_features": "raw"}  # the centre term of all rows that name no other
# name: (loss, options)
ROWS = {name: (name, RAW if name in ("soft_lmccl", "softmax_center") else {}) for name in LOSSES}
ROWS |= {
    f"soft_lmccl, {text}": ("soft_lmccl", RAW | options)
    for text, options in {
        "s = 64": {"s": 64.0},
        's = "auto"': {"s": "auto"},
        "m = 0": {"m": 0.0},
        "m = 0.7": {"m": 0.7},
        "m = 1.25": {"m": 1.25},
        "warm-up over 10 epochs": {"warmup_epochs": 10},
        "bias in the cosine": {"bias": True},
        "margin weight 0.1": {"margin_weight": 0.1},
        "no centre term": {"center_weight": 0.0},
        "centre weight 0.03": {"center_weight": 0.03},
        "centre weight 0.03, normalised features": {"center_weight": 0.03, "center_features": "normalized"},
        "centres by SGD": {"center_update": "sgd"},
        "authors' recipe": AUTHORS,
        "original repository's recipe": ORIGINAL,
    }.items()
}


class Split(NamedTuple):
    """Images (N, 64) and labels (N,) to train on, to test, and of unseen classes."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    unseen: tuple[Tensor, Tensor]


def main(cfg: Config) -> None:
    torch.set_num_threads(1)
    figures: dict[str, dict[str, list[float]]] = {name: {"accuracy": [], "auc": []} for name in ROWS}
    with progress("training", total=cfg.splits * len(ROWS), unit="network") as bar:
        for number in range(cfg.splits):
            split = draw_split(cfg.known, cfg.seed + number)
            for name, (loss, options) in ROWS.items():
                network = train(cfg, split, loss, options, cfg.seed + number)
                for key, value in measure(network, split, cfg.known).items():
                    figures[name][key].append(value)
                bar.update()
    content = {
        "data": f"scikit-learn digits, {cfg.known} classes known, {10 - cfg.known} unseen",
        "n_splits": cfg.splits,
        "seed": cfg.seed,
        "epochs": cfg.epochs,
        "batch_size": cfg.batch_size,
        "embedding_dim": cfg.embedding_dim,
        **machine.record(torch.device("cpu")),
        "runs": {name: summarise(values, figures[REFERENCE]) for name, values in figures.items()},
    }
    study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def draw_split(known: int, seed: int) -> Split:
    """Known classes 0 to known - 1, in an order drawn from the seed; pixels in [0, 1]."""
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    images, labels = images.float() / 16, torch.randperm(10, generator=generator)[labels]
    order = torch.randperm(len(labels), generator=generator)
    images, labels = images[order], labels[order]
    of_known = labels < known
    edge = round(TRAIN_SHARE * int(of_known.sum()))
    known_images, known_labels = images[of_known], labels[of_known]
    return Split(
        (known_images[:edge], known_labels[:edge]),
        (known_images[edge:], known_labels[edge:]),
        (images[~of_known], labels[~of_known]),
    )


def train(cfg: Config, split: Split, loss: str, options: dict, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    images, labels = split.train
    network = nn.Sequential(nn.Linear(images.shape[1], cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, cfg.embedding_dim))
    criterion = LOSSES[loss](cfg.embedding_dim, cfg.known, **options)
    optimizer = torch.optim.AdamW(
        [{"params": network.parameters()}, {"params": list(criterion.parameters()), "weight_decay": 0.0}], lr=cfg.lr
    )
    steps = cfg.epochs * math.ceil(len(images) / cfg.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(cfg.epochs):
        criterion.start_epoch(epoch)
        for index in torch.randperm(len(images), generator=generator).split(cfg.batch_size):
            optimizer.zero_grad()
            criterion(network(images[index]), labels[index]).total.backward()
            optimizer.step()
            criterion.after_step()
            scheduler.step()
    return network


@torch.no_grad()
def measure(network: nn.Module, split: Split, known: int) -> dict[str, float]:
    """Accuracy on known test images by the nearest class mean; AUC of all pairs of unseen images by their cosine."""
    train, test, unseen = (F.normalize(network(images)) for images, _ in split)
    means = torch.stack([train[split.train[1] == k].mean(dim=0) for k in range(known)])  # (C, E)
    found = (test @ F.normalize(means).T).argmax(dim=1)
    first, second = torch.triu_indices(len(unseen), len(unseen), offset=1)
    labels = split.unseen[1]
    auc = roc_auc_score(labels[first] == labels[second], (unseen[first] * unseen[second]).sum(dim=1))
    return {"accuracy": (found == split.test[1]).float().mean().item(), "auc": float(auc)}


def summarise(values: dict[str, list[float]], reference: dict[str, list[float]]) -> dict:
    """Mean and standard deviation over splits; mean and standard error of the difference to the reference."""
    summary = {}
    for key, series in values.items():
        series, base = torch.tensor(series, dtype=torch.float64), torch.tensor(reference[key], dtype=torch.float64)
        difference = series - base
        summary[key] = {
            "mean": series.mean().item(),
            "std": series.std().item(),
            "difference": difference.mean().item(),
            "standard_error": difference.std().item() / math.sqrt(len(series)),
        }
    return summary


def page(content: dict) -> str:
    """The table with what it was measured on."""
    lines = [
        "# Losses and options on handwritten digits",
        "",
        f"{content['data']}; {content['n_splits']} splits from seed {content['seed']}, {content['epochs']} epochs, "
        f"batch {content['batch_size']}, E = {content['embedding_dim']}; torch {content['torch']}. Mean ± standard "
        f"deviation over splits; difference to {REFERENCE} with the standard error of paired differences. "
        "`python -m benchmarks.loss_options`",
        "",
        "| loss | accuracy, known | AUC, pairs of unseen classes | difference of AUC |",
        "|---|---|---|---|",
    ]
    for name, summary in content["runs"].items():
        accuracy, auc = summary["accuracy"], summary["auc"]
        lines.append(
            f"| {name} | {accuracy['mean']:.3f} ± {accuracy['std']:.3f} | {auc['mean']:.3f} ± {auc['std']:.3f} "
            f"| {auc['difference']:+.3f} ± {auc['standard_error']:.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
