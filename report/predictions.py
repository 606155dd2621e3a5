"""What predict.py says of its predictions: on the terminal, and as a picture."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import plural
from evaluation.rejection import Calibration
from loader.columns import FAILED_FILE, PREDICTION, SCORE, UNKNOWN
from loader.prepare import prepare
from model import trained_classes
from prediction.predicted import Predicted
from report.known import refused_at_most

if TYPE_CHECKING:
    import pandas as pd

MOST_NOTES = 10  # lines on what was done to the volumes
MOST_GROUPS, PER_GROUP = 8, 4  # classes in the picture, and volumes of each


def what_was_done(notes: Counter) -> str:
    """What was done to how many volumes, the most frequent first; empty where nothing was."""
    lines = [f"{count} {plural('volume', count)}: {note}" for note, count in notes.most_common(MOST_NOTES)]
    if len(notes) > MOST_NOTES:
        lines.append(f"and {len(notes) - MOST_NOTES} more combinations of box and voxel size")
    return "\n".join(lines)


def failure_warning(failed: dict[int, str], count: int) -> str:
    """Says how many of `count` volumes could not be read, and why the first of them; empty where all could."""
    if not failed:
        return ""
    first = next(iter(failed.values()))
    return f"{len(failed)} of {count} volumes could not be read and are left out, see {FAILED_FILE}; the first: {first}"


def summary(predictions: pd.Series, scores: pd.Series, calibration: Calibration) -> str:
    """How many volumes of each class, with their median score, and what the threshold means."""
    groups = scores.groupby(predictions).agg(["size", "median"]).sort_values("size", ascending=False)
    width = max(len(predictions.name), *(len(name) for name in groups.index))
    lines = [f"{predictions.name:{width}s}  volumes  median score"]
    lines += [f"{name:{width}s}  {row['size']:7.0f}  {row['median']:12.3f}" for name, row in groups.iterrows()]
    if calibration.class_thresholds is None:
        lines.append(
            f"unknown: {calibration.score} below {calibration.threshold:.3f}, as are "
            f"{refused_at_most(calibration.n, calibration.false_rejection_rate)}"
        )
    else:
        lines.append(
            f"unknown: {calibration.score} below the threshold of the nearest class; scores are moved so that "
            f"{calibration.threshold:.3f} is every class's"
        )
    return "\n".join(lines)


def trust(checkpoint: dict) -> str:
    """How often the checkpoint names known classes rightly."""
    accuracy, chance = checkpoint["metrics"]["log"][-1]["accuracy"], 1 / len(trained_classes(checkpoint))
    return f"the checkpoint names {accuracy:.0%} of the validation volumes of known classes right (chance {chance:.0%})"


def draw(path: Path, predicted: Predicted, warning: str) -> bool:
    """The picture: how many of each class, the scores, and slices of the surest volumes of the largest classes.

    Says whether it could be drawn.
    """
    from report.attempt import attempt  # here, as matplotlib takes a second
    from report.pictures import PredictionPage, prediction_page

    table = predicted.table
    counts = table[PREDICTION].value_counts()
    rows = []
    names = list(counts.index[:MOST_GROUPS])
    if UNKNOWN in counts and UNKNOWN not in names:
        names[-1] = UNKNOWN
    for name in names:
        scores = table.loc[table[PREDICTION] == name, SCORE].sort_values(ascending=name == UNKNOWN)
        shown = scores.head(PER_GROUP)
        volumes = [prepare(predicted.inputs[number], predicted.preprocessing).image for number in shown.index]
        rows.append((f"{name}\n{counts[name]}", volumes, [f"{value:.2f}" for value in shown]))
    calibration = predicted.checkpoint["calibration"]
    page = PredictionPage(
        dict(counts),
        table[SCORE].to_numpy(),
        calibration.threshold,
        calibration.score,
        rows,
        UNKNOWN,
        warning,
        predicted.preprocessing.contrast == "dark",
    )
    return attempt(path, lambda path: prediction_page(path, page))
