"""The page on which one looks through predictions: a map with slices, filters, what is selected saved as CSV and STAR.

It is one file that needs nothing else, no server and no network: plots by bokeh, pictures as JPEG, and the page's own
script (interactive.html, .css and .js beside this module).
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from common.cli import plural
from common.files import write_text
from loader.columns import (
    CLUSTER,
    INPUT,
    JUNK_SCORE,
    NEAREST,
    NO_PARTICLE,
    POSITION,
    PREDICTION,
    SCORE,
    TOMOGRAM,
    UNKNOWN,
)
from report import plots
from report.clusters import not_stable
from report.facets import contact_sheets, facets, texts
from report.terms import SCORES
from report.thumbnails import jpeg_texts

if TYPE_CHECKING:
    import pandas as pd

MOST_SHOWN = 5000  # particles on the page
NM = 10.0  # A
INVERTED = "All slices are shown inverted: the particles are dark in their files, and bright here."
# nothing is fetched from anywhere, whatever bokeh has in it
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class StarText:
    """A STAR file that particles came from, as text.

    name: of the file.
    head, tail: all that stands before and after the rows of its particles.
    rows: row of the table of predictions -> the particle's line.
    """

    name: str
    head: str
    rows: dict[int, str]
    tail: str


@dataclass(frozen=True)
class InteractivePage:
    """What the page is made from, of N particles of which n are shown.

    table: predictions.csv, N rows; Input Data, Prediction, and Score are needed; Cluster, Tomogram and
        Position Z, Y, X (A) are used where they are there. Every column goes into the CSV that the page saves.
    rows: (n,) numbers of the rows that are shown, ascending (`rows_to_show`).
    places: (n, 2) on the map. slices: (n, 3, S, S) uint8, across z, y and x (`central_slices`).
    score: name of the score; threshold: below which a particle is of no known class.
    notes: plain sentences on what the predictions mean. warnings: what the user has to know first.
    remarks: what is said of a class or cluster on its contact sheet, by its name.
    stars: the STAR files that particles came from; none where they came from others.
    inverted: whether the slices have another contrast than the particles' files.
    unstable: how many clusters are not stable.
    """

    table: pd.DataFrame
    rows: np.ndarray
    places: np.ndarray
    slices: np.ndarray
    score: str
    threshold: float
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    stars: tuple[StarText, ...] = ()
    inverted: bool = False
    unstable: int = 0


def rows_to_show(groups: np.ndarray, seed: int, most: int = MOST_SHOWN) -> np.ndarray:
    """At most `most` of N particles, ascending: all of small groups, and as many of each larger one, drawn at random.

    groups: (N,) names, such as class or cluster.
    """
    import pandas as pd

    order = np.random.default_rng(seed).permutation(len(groups))
    turn = pd.Series(groups[order]).groupby(groups[order]).cumcount()  # the first of every group, then the second, ...
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def write_page(path: Path | str, page: InteractivePage) -> None:
    """Write the page; the same bytes for the same predictions."""
    from bokeh.resources import Resources

    folder = Path(__file__).parent
    style, script = ((folder / f"interactive.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    parts = {
        "policy": POLICY,
        "style": style,
        "script": script,
        "bokeh": "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw),
        "content": _json(_content(page)),
        **_parts(page),
    }
    template = (folder / "interactive.html").read_text(encoding="utf-8")
    write_text(path, Template(template).substitute(parts))


def groups(table: pd.DataFrame) -> np.ndarray:
    """What each particle is drawn with, (N,): its cluster where it is in one, else its prediction."""
    clusters = texts(table, CLUSTER)
    return np.where(clusters != "", clusters, texts(table, PREDICTION))


def _content(page: InteractivePage) -> dict:
    """What the page's script works on; lists have a value for each particle that is shown."""
    table = page.table.iloc[page.rows].reset_index(drop=True)
    scores = table[SCORE].to_numpy(float)
    made = facets(page.table, page.rows)
    sheets, means = contact_sheets(made, page.slices, page.remarks)
    start, rests = jpeg_texts(np.concatenate([page.slices, means]))
    head, *lines = _csv_lines(table)
    document = plots.document(_columns(page, table), scores, page.threshold, "score")
    return {
        "scores": scores.tolist(),
        "names": table[PREDICTION].tolist(),
        "addresses": table[INPUT].tolist(),
        "facets": made,
        "sheets": sheets,
        "pictures": {"start": start, "rests": rests},
        "bars": {"most": plots.BARS, "places": plots.bars(scores).tolist()},
        "csv": {"head": head, "rows": lines},
        "stars": [_star(star, page.rows) for star in page.stars],
        "plots": {"document": document, "roots": plots.elements(document)},
    }


def _columns(page: InteractivePage, table: pd.DataFrame) -> dict[str, list | np.ndarray]:
    """The columns of the plots' source."""
    more = zip(_nearest(table), texts(table, CLUSTER), texts(table, TOMOGRAM), strict=True)
    columns = {
        "x": page.places[:, 0].astype(np.float32),
        "y": page.places[:, 1].astype(np.float32),
        "class": table[PREDICTION].tolist(),
        "score": table[SCORE].to_numpy(np.float32),
        "address": table[INPUT].tolist(),
        "more": [", ".join(filter(None, parts)) for parts in more],
    }
    if _placed(table).any():
        for axis, name in zip("zyx", POSITION, strict=True):
            columns[f"p{axis}"] = (_numbers(table[name]) / NM).astype(np.float32)
    return columns


def _nearest(table: pd.DataFrame) -> list[str]:
    """Of particles that are not of it, the nearest known class."""
    pairs = zip(texts(table, NEAREST), texts(table, PREDICTION), strict=True)
    return [f"nearest {name}" if name not in ("", given) else "" for name, given in pairs]


def _placed(table: pd.DataFrame) -> np.ndarray:
    """Of which particles it is known where they are, and in which tomogram: (N,) bool."""
    if not {TOMOGRAM, *POSITION} <= {*table}:
        return np.zeros(len(table), dtype=bool)
    there = [np.isfinite(_numbers(table[name])) for name in POSITION]
    return np.all([texts(table, TOMOGRAM) != "", *there], axis=0)


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as numbers, NaN where there is none."""
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").to_numpy(float)


def _csv_lines(table: pd.DataFrame) -> list[str]:
    """A table as CSV: its header and each of its rows, which may hold line breaks, as they stand in predictions.csv."""
    mark = "\0\n"  # no cell holds a zero byte
    return [f"{line}\n" for line in table.to_csv(index=False, lineterminator=mark).split(mark)[:-1]]


def _star(star: StarText, rows: np.ndarray) -> dict:
    """The STAR file for the particles that are shown, by their numbers on the page."""
    lines = {number: star.rows[row] for number, row in enumerate(rows.tolist()) if row in star.rows}
    return {"name": star.name, "head": star.head, "rows": lines, "tail": star.tail}


def _json(content: dict) -> str:
    """JSON that may stand in a page: nothing in it ends a script or begins a comment."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def verdict(table: pd.DataFrame, unstable: int = 0) -> str:
    """What came out, in words; unstable: how many clusters are not stable."""
    names, total = texts(table, PREDICTION), len(table)
    unknown, junk = np.sum(names == UNKNOWN), np.sum(names == NO_PARTICLE)
    classes = len({*names} - {UNKNOWN, NO_PARTICLE})
    clusters = texts(table, CLUSTER)
    found, within = len({*clusters} - {""}), np.sum(clusters != "")
    known = (
        f"{_share(total - unknown - junk, total)} of {total:,} {plural('particle', total)} are named as a known class"
    )
    lying = f"; {within:,} of these lie in {found} {plural('cluster', found)}{not_stable(unstable)}" if found else ""
    said = [
        f"{known}, {classes} {plural('class', classes)} in all." if classes else f"{known}.",
        f"{_share(unknown, total)} are unknown, which means like no known class{lying}.",
        f"{_share(junk, total)} are junk: no particle at all, such as noise, membrane or a gold bead." if junk else "",
    ]
    return " ".join(filter(None, said))


def _share(count: int, total: int) -> str:
    """A count, and its share."""
    return f"{count:,} ({count / total:.0%})" if count else "None"


def _parts(page: InteractivePage) -> dict[str, str]:
    """The words of the page, as HTML."""
    total = len(page.table)
    some = ""
    if len(page.rows) < total:
        some = (
            f"This page shows {len(page.rows):,} of the {total:,} particles, so that it opens everywhere: all of small "
            "classes and clusters, and equally many of each larger one, drawn at random. What is saved here is of "
            "these alone; the files beside this page hold all."
        )
    warnings = "".join(f'<p class="warning">{_escaped(text)}</p>' for text in (*page.warnings, some) if text)
    notes = "".join(f"<p>{_escaped(note)}</p>" for note in page.notes)
    lead = _escaped(verdict(page.table, page.unstable))
    exported = "The CSV has the columns of predictions.csv."
    if page.stars:
        exported += " A STAR file has the rows as they came in, with all that stood around them."
    return {
        "title": _escaped(f"Predictions for {total:,} {plural('particle', total)}"),
        "opening": f'<p class="lead">{lead}</p>{warnings}{_counts(page.table)}{notes}',
        "inverted": f" {INVERTED}" if page.inverted else "",
        "exports": exported,
        "meaning": _escaped(meaning(page)),
        "tomogram": _tomogram(page.table.iloc[page.rows]),
    }


def meaning(page: InteractivePage) -> str:
    """What the histogram of scores shows, in words."""
    words = SCORES[page.score]
    alike = " Likeness is 1 for what the network cannot tell apart, and near 0 for what has nothing in common."
    junk = (
        f" Junk is told by a measure of its own ({JUNK_SCORE} in the table), whatever the score: so some of it lies "
        "right of the line."
    )
    told = junk if NO_PARTICLE in {*page.table[PREDICTION]} else ""
    return (
        f"The score ({page.score}) of a particle is {words}.{alike if 'likeness' in words else ''} Left of the dashed "
        f"line, at {page.threshold:.3f}, a particle is unknown.{told} Grey: all particles on this page; blue: those "
        "that are chosen."
    )


def _counts(table: pd.DataFrame) -> str:
    """How many particles are of each class, as a list with bars."""
    lines = []
    for value in facets(table)[0]["values"]:
        share = value["count"] / len(table)
        lines.append(
            f'<li style="--share: {share:.1%}"><b title="{_escaped(value["name"])}">{_escaped(value["name"])}</b>'
            f"<span>{value['count']:,}</span><span>{share:.1%}</span></li>"
        )
    return f'<ul class="counts">{"".join(lines)}</ul>'


def _tomogram(table: pd.DataFrame) -> str:
    """The place for the two views of a tomogram, or why there is none."""
    if not _placed(table).any():
        return (
            "<p>It is not known where these particles are. It is where predict.py is given the particles.csv of "
            "extract.py, or a STAR file with coordinates and tomograms.</p>"
        )
    views = "".join(f'<div id="{name}"></div>' for name in (plots.XY, plots.ZY, plots.XZ, "legend"))
    return (
        '<p><label>Tomogram <select id="tomogram"></select></label></p><p>The particles that pass the filters, seen '
        "along z (above, left), along x (right) and along y (below), at one scale. Colours are those of the map, and "
        f'what is selected here is selected there.</p><div class="views">{views}</div>'
    )


def _escaped(text: str) -> str:
    """Text as HTML; of a file name that is not Unicode, what can be shown."""
    return html.escape(text.encode("utf-8", "replace").decode())
