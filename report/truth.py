"""Predictions beside what is known to be true, as of simulated tomograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loader.columns import CLUSTER, LABEL, NO_PARTICLE, PREDICTION, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd


def truth_text(table: pd.DataFrame, known: list[str]) -> str:
    """A table of the true classes: how many are named right, named wrong and called unknown, and in which cluster
    most of the unknown ones are.

    Args:
        table: (N rows) Actual Label (the true one), Prediction, and Cluster, empty for none. A class that is not
            `known` is never named right; a pick of nothing is, by `junk`.
    """
    lines = [f"{'':22s}particles  named right  named wrong  unknown, most of them in"]
    for is_known, kind in ((True, "known"), (False, "not known")):
        for name, rows in table[table[LABEL].isin(known) == is_known].groupby(LABEL):
            is_unknown = rows[PREDICTION] == UNKNOWN
            can_be_right = is_known or name == NO_PARTICLE
            right = int((rows[PREDICTION] == name).sum()) if can_be_right else "-"
            wrong = len(rows) - int(is_unknown.sum()) - (right if can_be_right else 0)
            text = f"{name:12s}{kind:10s}{len(rows):9d}{right:>13}{wrong:13d}{is_unknown.sum():9d}"
            clusters = rows.loc[is_unknown & rows[CLUSTER].fillna("").ne(""), CLUSTER].value_counts()
            lines.append(f"{text}  {clusters.iloc[0]} {clusters.index[0]}" if len(clusters) else text)
    return "\n".join(lines)
