"""What particles are filtered, coloured and shown by: class, cluster, tomogram; and some particles of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from loader.columns import CLUSTER, NO_PARTICLE, PREDICTION, TOMOGRAM, UNKNOWN
from report.thumbnails import stretched

if TYPE_CHECKING:
    import pandas as pd

MOST_PICTURES = 16  # of a class or cluster on its contact sheet
# twenty that are told apart on white, as far as possible by all eyes; each ten have another mark
COLOURS = (
    *("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#b487ff", "#b45a00", "#5a4b00", "#ffb487"),
    *("#ffa5e1", "#87d2a5", "#3c3c96", "#873c2d", "#3c785a", "#1ee187", "#b40f1e", "#3c96ff", "#871e96", "#96d25a"),
)
MARKERS, PER_MARKER = ("circle", "triangle", "square", "diamond", "inverted_triangle"), 10
NO_GROUP = {  # what is no group of alike particles: its colour, and its place, before or after the groups
    UNKNOWN: ("#9a9ea2", -2),
    NO_PARTICLE: ("#54585c", -1),
    "no cluster": ("#b4b8bc", 1),
    "no tomogram": ("#b4b8bc", 1),
}


def texts(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as text, (N,); empty where nothing is known."""
    return table[name].fillna("").to_numpy(str) if name in table else np.full(len(table), "")


def facets(table: pd.DataFrame, rows: np.ndarray | None = None) -> list[dict]:
    """Class, and cluster and tomogram where they are known: title, values with count and mark, each particle's value.

    Of some `rows` (n,) of the table, `count` and the particles' values are of these, `all` is of the whole table.
    Values are ordered by `all`, tomograms by name; `unknown` comes first, `no cluster` last.
    """
    rows = np.arange(len(table)) if rows is None else rows
    found = {"class": texts(table, PREDICTION)}
    for key, name in (("cluster", CLUSTER), ("tomogram", TOMOGRAM)):
        if (texts(table, name) != "").any():
            found[key] = np.where(texts(table, name) == "", f"no {key}", texts(table, name))
    return [_facet(key, names, rows) for key, names in found.items()]


def _facet(key: str, names: np.ndarray, rows: np.ndarray) -> dict:
    """One of them, from each particle's value (N,)."""
    values, codes, counts = np.unique(names, return_inverse=True, return_counts=True)
    places = [NO_GROUP[value][1] if value in NO_GROUP else 0 for value in values]
    order = np.lexsort((values, np.zeros(len(values)) if key == "tomogram" else -counts, places))
    shown = np.bincount(codes[rows], minlength=len(values))
    order = order[shown[order] > 0]
    before = np.cumsum([value not in NO_GROUP for value in values[order]]) - 1  # groups before each, for its mark
    described = [
        {
            "name": str(values[code]),
            "count": int(shown[code]),
            "all": int(counts[code]),
            **_mark(values[code], number),
        }
        for code, number in zip(order, before.tolist(), strict=True)
    ]
    place = np.empty(len(values), dtype=int)
    place[order] = np.arange(len(order))
    return {"key": key, "title": key.capitalize(), "values": described, "codes": place[codes[rows]].tolist()}


def _mark(value: str, number: int) -> dict[str, str]:
    """Colour and marker of a value; number: of its group, from 0."""
    if value in NO_GROUP:
        return {"colour": NO_GROUP[value][0], "marker": "circle"}
    marker = MARKERS[number // PER_MARKER % len(MARKERS)]
    return {"colour": COLOURS[number % len(COLOURS)], "marker": marker}


def contact_sheets(made: list[dict], slices: np.ndarray, remarks: Mapping[str, str]) -> tuple[list[dict], np.ndarray]:
    """For each class and cluster the rows of MOST_PICTURES particles, and the means (M, 3, S, S) of all of each.

    The particles are evenly spread over those of the group in their order. `mean` counts on after the particles'
    slices (N, 3, S, S).
    """
    sheets, means = [], []
    for facet in made:
        codes = np.array(facet["codes"])
        for code, value in enumerate(facet["values"]):
            if facet["key"] == "tomogram" or value["name"] == "no cluster":
                continue
            rows = np.flatnonzero(codes == code)
            chosen = rows[np.linspace(0, len(rows) - 1, min(MOST_PICTURES, len(rows))).round().astype(int)]
            place = {"facet": facet["key"], "code": code, "remark": remarks.get(value["name"], "")}
            sheets.append({**place, "rows": chosen.tolist(), "mean": len(slices) + len(means)})
            means.append(stretched(slices[rows].mean(axis=0, dtype=np.float32)))
    return sheets, np.stack(means)
