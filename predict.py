"""Which known class is each of these volumes, or is it unknown?

CHECKPOINT, MRC files | N@stack.mrcs | stacks | folders | CSV files | STAR files
    -> results/<save_dir>-<checkpoint>/predict/{predictions.{csv,json,png},embeddings.npz,report.html}
       and, for particles of a STAR file, {predictions.star,stars/*.star}

    python predict.py model_save/checkpoint.pt new_particles
    python predict.py model_save/checkpoint.pt one.mrc 17@stack.mrcs particles.csv --name second   # -> .../second/
    torchrun --standalone --nproc_per_node=4 predict.py model_save/checkpoint.pt particles.star    # four GPUs

The files may have another box or voxel size than the training volumes; they are brought to these. A particle is unknown
where its score is below the checkpoint's threshold; the nearest known class is told nevertheless. predictions.json
says what the predictions were made from; those that are replaced are named. embeddings.npz (np.load) has the rows of
predictions.csv: embeddings, predictions (an index into classes, -1 for unknown), and inputs as UTF-8 bytes with a zero
byte between two. report.html is a page to look through the predictions with: map, slices, filters; what one selects
there is saved as CSV and as STAR. predictions.star is the STAR file as it came, also the one behind extract.py's
particles.csv, with class and score of each particle added; stars/ has one file per class and per cluster. A volume that
is not there or cannot be read is listed in failed.csv and has no row elsewhere; the exit code is 3 then. A run that was
ended goes on when called again.
"""

import common.installed  # noqa: F401  where packages are missing it says so

import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import tyro
from torch import nn

from common.cli import Device, InputError, check_choices, choose_device, is_first_process, run, warn
from common.files import alone_in, claim_results, results_folder
from common.group import Group, join
from loader.columns import PREDICTION, SCORE
from loader.dataset import contrast_warning
from loader.rows import tilt_ranges
from model import load_model, trained_classes
from prediction.clusters import clustered
from prediction.enrol import Enrolling, Setting, Wanted, enrolled, read_wanted
from prediction.inputs import coarsest, find_inputs
from prediction.outputs import failures, replaced, write_failures, write_predictions
from prediction.parts import PARTS_FOLDER, Embedded, Parts, fingerprint
from prediction.predicted import Predicted, classified
from prediction.star import write_stars
from prediction.stream import Work, embed_inputs
from report.clusters import clusters_text
from report.enrolment import enrolment_text
from report.explore import draw_page
from report.known import accuracy_warning, few_warning
from report.predictions import draw, failure_warning, summary, trust, what_was_done
from simulation.conditions import outside_training

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    inputs: tyro.conf.Positional[tuple[str, ...]]  # MRC files, N@stack.mrcs, stacks, folders, CSV files, STAR files
    results_dir: str = "results"  # folder of the results
    name: str = "predict"  # name of the folder in it; another one keeps earlier predictions
    contrast: Literal["", "bright", "dark"] = ""  # contrast of the particles; empty: as in the training files
    voxel_size: float = 0.0  # voxel size (A) of all inputs and examples, where their headers are wrong; 0: as these say
    enrolling: tyro.conf.OmitArgPrefixes[Enrolling] = field(default_factory=Enrolling)
    batch_size: int = 256  # volumes embedded at once
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    page: bool = True  # write report.html, to look through the predictions; of many, its map takes half a minute

    @property
    def folder(self) -> Path:
        """Of the results."""
        return results_folder(self.results_dir, self.checkpoint) / self.name


PARTLY = 3  # exit code where some volumes could not be read


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    check(cfg)
    wanted = read_wanted(cfg.enrolling)
    alone = alone_in(cfg.folder, "wait, or give another --name") if is_first_process() else nullcontext()
    with alone:
        complete = predict(cfg, wanted, device)
    if not complete:
        sys.exit(PARTLY)


def predict(cfg: Config, wanted: Wanted, device: torch.device) -> bool:
    """From the inputs to the results; says whether every volume could be read, on the first process."""
    with join(device) as (group, device):
        model, checkpoint = load_model(cfg.checkpoint, device)
        changed = {"contrast": cfg.contrast} if cfg.contrast else {}
        work = Work(
            find_inputs(cfg.inputs, cfg.voxel_size), replace(checkpoint["preprocessing"], **changed), cfg.batch_size
        )
        embedded = embed(cfg, model, work, group, device)
    if embedded is None:
        return True  # the first process goes on
    if embedded.notes:
        print(what_was_done(embedded.notes))
    inverted = contrast_warning(embedded.skewness, work.preprocessing.contrast)
    warnings = [inverted, chance(checkpoint)]
    warnings.append(few_volumes(checkpoint))
    warnings.append(failure_warning(embedded.failed, len(work.inputs)))

    inputs = work.inputs.take(embedded.rows)
    warnings.append(outside_training(checkpoint["config"], coarsest(inputs), tilt_ranges([inputs.table])))

    if wanted:
        checkpoint = with_enrolled(cfg, wanted, model, checkpoint, replace(work, inputs=inputs), device)
    table = classified(embedded.embeddings, inputs, checkpoint)
    predicted = Predicted(table, embedded.embeddings, inputs, work.preprocessing, checkpoint)
    predicted = clustered(predicted, embedded)

    warnings = [*filter(None, warnings)]
    for warning in warnings:
        warn(warning)
    write(cfg, predicted, warnings, failures(embedded.failed, work.inputs))
    if inverted:
        warn(f"do not trust these predictions: {inverted}")  # again, as the last line: names may look sure
    return not embedded.failed


def check(cfg: Config) -> None:
    """Refuse options that make no sense."""
    check_choices(cfg)
    if cfg.batch_size < 1:
        raise InputError(f"--batch-size {cfg.batch_size}: expected at least 1")
    if not 0 <= cfg.voxel_size < float("inf"):
        raise InputError(f"--voxel-size {cfg.voxel_size:g}: expected a number of A, or 0")
    if cfg.name in ("", "..") or Path(cfg.name).name != cfg.name:
        raise InputError(f"--name {cfg.name!r}: expected the name of a folder, not a path")
    if cfg.folder.is_file():
        raise InputError(f"--name {cfg.name}: a file of the results; expected the name of a folder")


def embed(cfg: Config, model: nn.Module, work: Work, group: Group, device: torch.device) -> Embedded | None:
    """The embeddings, kept in the results folder until all is written; None on other processes than the first."""
    settings = {"batch_size": cfg.batch_size, "device": device.type}
    parts = Parts(cfg.folder / PARTS_FOLDER, fingerprint(work.inputs, work.preprocessing, cfg.checkpoint, settings))
    if group.first:
        claim_results(cfg.results_dir, cfg.checkpoint)
        if parts.open():
            print(f"{parts.folder}: embeddings of other inputs or settings, from a run that was ended, are removed")
    group.wait()
    return embed_inputs(model, work, parts, group, device)


def chance(checkpoint: dict) -> str:
    """The warning of a network that names known classes hardly better than chance; empty where it does better."""
    return accuracy_warning(checkpoint["metrics"]["log"][-1]["accuracy"], len(trained_classes(checkpoint)))


def few_volumes(checkpoint: dict) -> str:
    """The warning of a threshold that was set on too few volumes; empty where there were enough, or each class has its
    own."""
    calibration = checkpoint["calibration"]
    own = calibration.class_thresholds is not None
    return "" if own else few_warning(calibration.n, calibration.false_rejection_rate)


def with_enrolled(
    cfg: Config, wanted: Wanted, model: nn.Module, checkpoint: dict, work: Work, device: torch.device
) -> dict:
    """The checkpoint with the classes that are asked for; says how sure they are."""
    setting = Setting(model, work.preprocessing, device, cfg.batch_size, cfg.voxel_size, coarsest(work.inputs) or 0.0)
    checkpoint, found, imaging = enrolled(checkpoint, wanted, cfg.enrolling, setting)
    print(enrolment_text(found, imaging))
    return checkpoint


def write(cfg: Config, predicted: Predicted, warnings: Sequence[str], failed: "pd.DataFrame") -> None:
    """Write everything into the results folder, and say what was found."""
    folder = cfg.folder
    before = replaced(folder)
    if before:
        print(before)
    names = write_predictions(folder, predicted, cfg.checkpoint, asdict(cfg)) + write_failures(folder, failed)
    stars, notes = write_stars(folder, predicted)
    for note in notes:
        print(note)
    names += stars
    if draw(folder / "predictions.png", predicted, "; ".join(warnings)):
        names.append("predictions.png")
    if cfg.page and draw_page(folder / "report.html", predicted, warnings):
        names.append("report.html")
    table, checkpoint = predicted.table, predicted.checkpoint
    print(summary(table[PREDICTION], table[SCORE], checkpoint["calibration"]))
    print(trust(checkpoint))
    print(clusters_text(predicted.clusters))
    print(f"written: {', '.join(str(folder / name) for name in names)}", flush=True)
    shutil.rmtree(folder / PARTS_FOLDER)


if __name__ == "__main__":
    run(main, Config, __doc__)
