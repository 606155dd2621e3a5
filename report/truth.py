"""Predictions beside what is known to be true, as of simulated tomograms."""

import pandas as pd

from loader.columns import UNKNOWN


def truth_text(truth: pd.Series, predictions: pd.Series, known: list[str]) -> str:
    """A table of the classes, and of picks of nothing: how many are named right, named wrong, and called unknown.

    Args:
        truth, predictions: (N,) names; a true one that is not `known` is never named right.
    """
    lines = [f"{'':24s}{'particles':>10s}{'named right':>13s}{'named wrong':>13s}{'unknown':>9s}"]
    for is_known, kind in ((True, "known"), (False, "not known")):
        chosen = truth[truth.isin(known) == is_known]
        for name, rows in chosen.groupby(chosen):
            found = predictions[rows.index]
            right, unknown = int(is_known and (found == name).sum()), int((found == UNKNOWN).sum())
            wrong = len(rows) - right - unknown
            lines.append(f"{name:13s}{kind:11s}{len(rows):10d}{right if is_known else '-':>13}{wrong:13d}{unknown:9d}")
    return "\n".join(lines)
