"""Train the network and its loss on the known classes.

csv_split/{train,valid}.csv -> model_save/{checkpoint<epoch>,checkpoint,last}.pt, loss.txt, log.csv

    python train.py
    python train.py --width 16 --epochs 10 --save-dir model_save
    python train.py --resume

checkpoint.pt is the best so far: the highest validation accuracy by class prototypes, ties by validation loss.
"""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from common.cli import InputError, choose_device, run
from common.files import atomic_path, write_csv, write_text
from evaluation.rejection import DEFAULT_SCORE, classify, fit_threshold, prototypes
from loader.augment import apply_half_turns, apply_shifts, draw_half_turns, draw_shifts, safe_half_turns
from loader.dataset import Split, class_names, load_split
from loss.loss import LOSSES
from model import embed
from training.run import RUN_FILES, Run, remove_run


@dataclass(frozen=True)
class Config:
    csv_dir: str = "csv_split"  # folder of train.csv and valid.csv
    save_dir: str = "model_save"  # folder of the checkpoints and logs
    contrast: str = "bright"  # of the particles in the files: bright or dark
    backbone: str = "resnet"  # a name in models/ResNet.py: BACKBONES
    depth: int = 18  # layers of the backbone
    width: int = 64  # channels of its first stage; 16 is the preset for a CPU
    embedding_dim: int = 512  # E
    upsample: int = 1  # enlarge the box on the device, 2 as the original did
    loss: str = "soft_lmccl"  # a name in loss/loss.py: LOSSES
    loss_options: dict[str, str] = field(default_factory=dict)  # its options, as: s 30 m 0.35
    epochs: int = 30  # passes over train.csv
    batch_size: int = 64  # volumes a step
    lr: float = 3e-3  # peak of the one-cycle schedule (AdamW)
    weight_decay: float = 0.01  # of the network's weights; the loss's own parameters have none
    clip: float = 5.0  # largest norm of the network's gradient; 0 for no limit
    half_turns: bool = True  # augment by the half turns that keep the missing wedge
    shift: int = 2  # augment by shifts of so many voxels at most along each axis
    prototype_per_class: int = 100  # training volumes of a class that make its prototype
    false_rejection_rate: float = 0.05  # share of validation knowns that the threshold may call unknown
    keep: int = 3  # improvements kept as checkpoint<epoch>.pt
    seed: int = 9  # of weights, order and augmentation
    device: str = "auto"  # auto, cpu or cuda
    resume: bool = False  # go on from last.pt
    overwrite: bool = False  # delete the run that save_dir holds


EMBED_BATCH = 256  # volumes at once where no gradient is needed


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    save_dir = Path(cfg.save_dir)
    check(cfg, save_dir)
    train = load_split(Path(cfg.csv_dir) / "train.csv", contrast=cfg.contrast)
    if not len(train):
        raise InputError(f"{cfg.csv_dir}/train.csv: holds no volume")
    valid = load_split(Path(cfg.csv_dir) / "valid.csv", train.preprocessing)
    classes = class_names(train.rows, f"{cfg.csv_dir}/train.csv")
    if class_names(valid.rows, f"{cfg.csv_dir}/valid.csv") != classes:
        raise InputError(f"{cfg.csv_dir}: train.csv and valid.csv have different classes; run csv_split.py again")
    turns = safe_half_turns(*(train.preprocessing["tilt_range"] or (None, None))) if cfg.half_turns else ()

    state = Run(cfg, classes, train.preprocessing, steps_per_epoch(len(train), cfg.batch_size), device)
    if cfg.resume and (save_dir / "last.pt").is_file():
        state.load(save_dir / "last.pt")
    elif cfg.overwrite:
        remove_run(save_dir)
    n_parameters = sum(parameter.numel() for parameter in state.model.parameters())
    print(
        f"{len(train)} training and {len(valid)} validation volumes of {len(classes)} classes, "
        f"{train.preprocessing['box']}^3 voxels; {cfg.loss}, {cfg.backbone}{cfg.depth} of width {cfg.width} "
        f"({n_parameters / 1e6:.1f} M parameters), on {device}; half turns: {', '.join(turns) or 'none'}"
    )
    gallery = draw_gallery(train.labels, cfg.prototype_per_class, cfg.seed)
    while state.epoch < cfg.epochs:
        started = time.perf_counter()
        terms = train_epoch(state, train, turns)
        speed = len(train) / (time.perf_counter() - started)
        state.epoch += 1
        figures, calibration = validate(state, train, valid, gallery)
        improved = not state.log or merit(figures) > max(map(merit, state.log))
        lr = state.scheduler.get_last_lr()[0]
        state.log.append({"epoch": state.epoch, **terms, **figures, "lr": lr, "volumes_per_s": round(speed, 1)})
        save_epoch(state, calibration, improved)
        left = (cfg.epochs - state.epoch) * (time.perf_counter() - started)
        print(summary(state, improved, left), flush=True)
    best = max(state.log, key=merit)
    print(f"best: epoch {best['epoch']}, validation accuracy {best['accuracy']:.4f}; {save_dir / 'checkpoint.pt'}")


def check(cfg: Config, save_dir: Path) -> None:
    """Refuse options that make no sense, and a folder that holds a run."""
    for name in ("epochs", "batch_size", "prototype_per_class", "keep"):
        if getattr(cfg, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected at least 1")
    if cfg.shift < 0:
        raise InputError(f"--shift {cfg.shift}: expected 0 or more voxels")
    if cfg.batch_size < 2:
        raise InputError("--batch-size 1: expected at least 2, for batch normalisation")
    if cfg.loss not in LOSSES:
        raise InputError(f"--loss {cfg.loss}: expected one of {', '.join(LOSSES)}")
    if cfg.resume and cfg.overwrite:
        raise InputError("--resume and --overwrite exclude each other")
    held = [path for pattern in RUN_FILES for path in save_dir.glob(pattern)]
    if held and not cfg.resume and not cfg.overwrite:
        raise InputError(f"{save_dir}: holds a run ({held[0].name}); give --resume, --overwrite or another --save-dir")


def merit(row: dict) -> tuple[float, float]:
    """What makes an epoch the best: validation accuracy, then validation loss."""
    return row["accuracy"], -row["valid_loss"]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """A last batch of one volume is left out: batch normalisation cannot use it."""
    return count // batch_size + (count % batch_size > 1)


def draw_gallery(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Indices of at most `per_class` training volumes of each class, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == label][:per_class] for label in labels.unique()]
    return torch.cat(chosen).sort().values


def train_epoch(state: Run, train: Split, turns: tuple[str, ...]) -> dict[str, float]:
    """One pass over the training volumes, in an order, with turns and shifts that depend on seed and epoch alone."""
    cfg, device = state.cfg, state.device
    generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + state.epoch)
    order = torch.randperm(len(train), generator=generator)
    choice = draw_half_turns(len(train), turns, generator)
    shifts = draw_shifts(len(train), cfg.shift, generator)
    batches = torch.split(order, cfg.batch_size)[: steps_per_epoch(len(train), cfg.batch_size)]
    state.model.train()
    state.criterion.train()
    state.criterion.start_epoch(state.epoch)
    sums, seen = torch.zeros(4, dtype=torch.float64), 0
    text = f"epoch {state.epoch + 1}/{cfg.epochs}"
    with tqdm(total=len(train), desc=text, unit="volume", leave=False) as bar:
        for number, index in enumerate(batches, start=1):
            volumes = train.images[index].to(device, torch.float32)
            volumes = apply_half_turns(volumes, choice[index].to(device), turns)
            volumes = apply_shifts(volumes, shifts[index].to(device))
            volumes = volumes.contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                embeddings = state.model(volumes)
            terms = step(state, embeddings, train.labels[index].to(device))
            if not terms.isfinite().all():
                raise InputError(
                    f"epoch {state.epoch + 1}, batch {number}: loss or gradient is not finite; the "
                    f"last good checkpoint is kept in {cfg.save_dir}; try a lower --lr"
                )
            sums += terms * len(index)
            seen += len(index)
            bar.update(len(index))
    names = ("train_loss", "softmax", "margin", "center")
    return {name: float(value) / seen for name, value in zip(names, sums, strict=True)}


def step(state: Run, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One step of the optimiser: the terms of the loss (4,), NaN and no step where loss or gradient is not finite."""
    terms = state.criterion(embeddings, labels)
    state.optimizer.zero_grad(set_to_none=True)
    terms.total.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), state.cfg.clip or float("inf"))
    if not (terms.total.isfinite() and norm.isfinite()):
        return torch.full((4,), float("nan"))
    state.optimizer.step()
    state.criterion.after_step()
    state.scheduler.step()
    return torch.stack(terms).detach().double().cpu()


@torch.inference_mode()
def validate(state: Run, train: Split, valid: Split, gallery: torch.Tensor) -> tuple[dict, dict]:
    """Validation accuracy by class prototypes and loss; and the threshold below which a particle is unknown."""
    cfg = state.cfg
    found = embed(state.model, train.images[gallery], state.device, EMBED_BATCH, "prototypes")
    class_prototypes = prototypes(found, train.labels[gallery].numpy(), len(state.classes))
    raw = embed(state.model, valid.images, state.device, EMBED_BATCH, "validation", normalised=False)
    predictions, scores = classify(raw, class_prototypes)
    state.criterion.eval()
    batches = zip(torch.from_numpy(raw).split(cfg.batch_size), valid.labels.split(cfg.batch_size), strict=True)
    losses = [
        float(state.criterion(part.to(state.device), labels.to(state.device)).total) * len(labels)
        for part, labels in batches
    ]
    figures = {"valid_loss": sum(losses) / len(valid), "accuracy": float((predictions == valid.labels.numpy()).mean())}
    calibration = {
        "score": DEFAULT_SCORE,
        "threshold": float(fit_threshold(scores, cfg.false_rejection_rate)),
        "false_rejection_rate": cfg.false_rejection_rate,
        "n": len(valid),
        "prototypes": torch.from_numpy(class_prototypes),
    }
    return figures, calibration


def save_epoch(state: Run, calibration: dict, improved: bool) -> None:
    """Write last.pt, on an improvement the checkpoint of this epoch and checkpoint.pt, and the logs."""
    save_dir = Path(state.cfg.save_dir)
    if improved:
        own = save_dir / f"checkpoint{state.epoch}.pt"
        state.save(own, calibration)
        with atomic_path(save_dir / "checkpoint.pt") as temporary:
            shutil.copyfile(own, temporary)
        kept = sorted(save_dir.glob("checkpoint[0-9]*.pt"), key=lambda path: int(path.stem.removeprefix("checkpoint")))
        for path in kept[: -state.cfg.keep]:
            path.unlink()
    state.save(save_dir / "last.pt", calibration)
    log = pd.DataFrame(state.log)
    write_csv(save_dir / "log.csv", log)
    lines = [f"epoch {row.epoch} train {row.train_loss:.6f} valid {row.valid_loss:.6f}" for row in log.itertuples()]
    write_text(save_dir / "loss.txt", "\n".join(lines) + "\n")


def summary(state: Run, improved: bool, seconds_left: float) -> str:
    row = state.log[-1]
    return (
        f"epoch {row['epoch']}/{state.cfg.epochs}  loss {row['train_loss']:.4f} (softmax {row['softmax']:.4f} "
        f"margin {row['margin']:.4f} center {row['center']:.2f})  valid {row['valid_loss']:.4f}  "
        f"accuracy {row['accuracy']:.4f}{' *' if improved else '  '}  lr {row['lr']:.1e}  "
        f"{row['volumes_per_s']:.0f} volumes/s  {seconds_left / 60:.1f} min left"
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
