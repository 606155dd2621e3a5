"""What predict.py says of its predictions on the terminal."""

import pandas as pd

from evaluation.rejection import Calibration


def summary(predictions: pd.Series, scores: pd.Series, calibration: Calibration) -> str:
    """How many volumes of each class, with their median score, and what the threshold means."""
    groups = scores.groupby(predictions).agg(["size", "median"]).sort_values("size", ascending=False)
    width = max(len(predictions.name), *(len(name) for name in groups.index))
    lines = [f"{predictions.name:{width}s}  volumes  median score"]
    lines += [f"{name:{width}s}  {row['size']:7.0f}  {row['median']:12.3f}" for name, row in groups.iterrows()]
    lines.append(
        f"unknown: {calibration.score} below {calibration.threshold:.3f}, as are at most "
        f"{calibration.false_rejection_rate:.0%} of the {calibration.n} validation volumes of known classes"
    )
    return "\n".join(lines)


def trust(checkpoint: dict) -> str:
    """How often the checkpoint names known classes rightly."""
    accuracy, chance = checkpoint["metrics"]["log"][-1]["accuracy"], 1 / len(checkpoint["classes"])
    return f"the checkpoint names {accuracy:.0%} of the validation volumes of known classes right (chance {chance:.0%})"
