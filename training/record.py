"""What an epoch leaves behind: checkpoints, logs, and one line on the terminal."""

import shutil
from pathlib import Path

from common.files import atomic_path, write_csv, write_text
from loss.base import Loss
from model import load_checkpoint
from training.state import TrainingState

BOARD_FOLDER = "tensorboard"
RUN_FILES = ("checkpoint.pt", "last.pt", "loss.txt", "log.csv")
LOWEST_SHOWN = 1e-3  # of the peak: a learning rate below it is near 0
HALF_WRITTEN = ".*.pt"  # what a kill in the middle of a save leaves


def epoch_checkpoints(save_dir: Path) -> list[Path]:
    """checkpoint<epoch>.pt, by epoch; a copy under another name is the user's own."""
    found = {path: path.stem.removeprefix("checkpoint") for path in save_dir.glob("checkpoint*.pt")}
    return sorted((path for path, epoch in found.items() if epoch.isdecimal()), key=lambda path: int(found[path]))


def run_files(save_dir: Path) -> list[Path]:
    """The files of the run that a folder holds; none where it holds none."""
    return epoch_checkpoints(save_dir) + [save_dir / name for name in RUN_FILES if (save_dir / name).is_file()]


def remove_half_written(save_dir: Path) -> None:
    for path in save_dir.glob(HALF_WRITTEN):
        path.unlink()


def remove_run(save_dir: Path) -> None:
    for path in run_files(save_dir):
        path.unlink()
    remove_half_written(save_dir)
    shutil.rmtree(save_dir / BOARD_FOLDER, ignore_errors=True)


def merit(row: dict) -> tuple[float, float]:
    """What makes an epoch the best: validation accuracy, then validation loss."""
    return row["accuracy"], -row["valid_loss"]


def epochs_since_best(log: list[dict]) -> int:
    """Epochs since the best one; 0 when it is the last, or there is none."""
    return log[-1]["epoch"] - max(log, key=merit)["epoch"] if log else 0


def stopped_text(path: Path | str, checkpoint: dict) -> str:
    """Says that the run of a checkpoint was stopped before its last epoch; empty where it was not, or nothing tells.

    The last.pt beside it tells, where that is of the same run.
    """
    last = Path(path).parent / "last.pt"
    if not last.is_file():
        return ""
    content = load_checkpoint(last)
    cfg, log = content["config"], content["metrics"]["log"]
    early = cfg["patience"] and epochs_since_best(log) >= cfg["patience"]
    if not log or log[-1]["epoch"] >= cfg["epochs"] or early or checkpoint["metrics"]["log"][-1] not in log:
        return ""
    return (
        f"the run of this checkpoint was stopped after epoch {log[-1]['epoch']} of {cfg['epochs']}, so that the "
        "network may get better: train.py --resume goes on with it"
    )


def save_epoch(state: TrainingState) -> None:
    """Write last.pt, on an improvement the checkpoint of this epoch and checkpoint.pt, and the logs."""
    save_dir = Path(state.cfg.save_dir)
    if epochs_since_best(state.log) == 0:
        own = save_dir / f"checkpoint{state.epoch}.pt"
        state.save(own)
        with atomic_path(save_dir / "checkpoint.pt") as temporary:
            shutil.copyfile(own, temporary)
        for path in epoch_checkpoints(save_dir)[: -state.cfg.keep]:
            path.unlink()
    state.save(save_dir / "last.pt")
    write_logs(state)


def write_logs(state: TrainingState) -> None:
    """log.csv and loss.txt, one row per epoch."""
    import pandas as pd  # a quarter of a second that --help need not wait for

    save_dir = Path(state.cfg.save_dir)
    log = pd.DataFrame(state.log)
    write_csv(save_dir / "log.csv", log)
    lines = [f"epoch {row.epoch} train {row.train_loss:.6f} valid {row.valid_loss:.6f}" for row in log.itertuples()]
    write_text(save_dir / "loss.txt", "\n".join(lines) + "\n")


class Board:
    """The event files that TensorBoard shows, save_dir/tensorboard, where the settings want them."""

    def __init__(self, state: TrainingState):
        self.writer = None
        if state.cfg.tensorboard and state.group.first:
            from torch.utils.tensorboard import SummaryWriter  # not every machine has the package

            folder = Path(state.cfg.save_dir) / BOARD_FOLDER
            self.writer = SummaryWriter(str(folder), purge_step=state.epoch + 1)

    def add(self, row: dict) -> None:
        """The figures of an epoch."""
        if self.writer:
            for name, value in row.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, row["epoch"])
            self.writer.flush()


def weighted(row: dict, criterion: Loss, twin_weight: float) -> str:
    """The terms that add up to the loss, each with its weight; empty where there is one alone."""
    weights = dict(zip(("softmax", "margin", "center"), criterion.term_weights, strict=True)) | {"twin": twin_weight}
    parts = [(weight, f"{name} {row[name]:.4f}") for name, weight in weights.items() if weight and row[name]]
    texts = [text if weight == 1 else f"{weight:g} x {text}" for weight, text in parts]
    return f" = {' + '.join(texts)}" if len(texts) > 1 else ""


def summary(state: TrainingState, seconds_left: float) -> str:
    """The epoch in one line."""
    row, cfg = state.log[-1], state.cfg
    rate = f"{row['lr']:.2g}" if row["lr"] > LOWEST_SHOWN * cfg.lr else "near 0"
    left = "" if row["epoch"] == cfg.epochs else f"  {duration(seconds_left)} left"
    terms = weighted(row, state.criterion, cfg.clean_twin)
    best = "  best so far" if epochs_since_best(state.log) == 0 else ""
    return (
        f"epoch {row['epoch']}/{cfg.epochs}  loss {row['train_loss']:.4f}{terms}  "
        f"valid {row['valid_loss']:.4f}  accuracy {row['accuracy']:.4f}  lr {rate}  "
        f"{row['volumes_per_s']:.0f} volumes/s{left}{best}"
    )


def duration(seconds: float) -> str:
    """A time as people read it: `40 s`, `3.5 min`, `2.1 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
