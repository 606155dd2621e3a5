"""Predictions of 60 particles, with all that a page of them shows, and names that are hard to show."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from loader.columns import CLUSTER, INPUT, NEAREST, POSITION, PREDICTION, SCORE, THRESHOLD, TOMOGRAM, UNKNOWN
from loader.star import read_star, star_lines
from report.interactive import StarText

COUNT, SIDE = 60, 16
NASTY = "</script><img src=x onerror=\"document.title='broken'\"> 'ß' & <b>bold</b>"
NAMES = ("ribosome", NASTY, UNKNOWN)
STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
1  "the first group"

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnNote #3
"""


def table() -> pd.DataFrame:
    """20 ribosomes, 20 of a class with a nasty name, 20 unknown, of which 12 are in two clusters; two tomograms."""
    rows = np.arange(COUNT)
    group = rows // 20
    content = {
        INPUT: [f'/data/é <i>"{row}"</i>/{row + 1}@TS_1.mrcs' for row in rows],
        PREDICTION: [NAMES[number] for number in group],
        SCORE: np.round(np.where(group == 2, 0.1, 0.6) + rows % 20 / 100, 6),
        THRESHOLD: 0.5,
        NEAREST: [NAMES[number % 2] for number in group],
        CLUSTER: ["" if row < 48 else f"cluster_{row % 2 + 1}" for row in rows],
        TOMOGRAM: [f"TS_{row % 2 + 1}" for row in rows],
        "Note": ['two\nlines, "quoted"' if row == 3 else "" for row in rows],
    }
    axes = {name: 100.0 * (row_number + 1) * rows for row_number, name in enumerate(POSITION)}
    return pd.DataFrame({**content, **axes})


def places() -> np.ndarray:
    """Three groups of 4 x 5 points."""
    rows = np.arange(COUNT)
    group, within = rows // 20, rows % 20
    return np.stack([group * 20.0 + within % 4, within // 4 + (group == 1) * 10.0], axis=1)


def slices(count: int, side: int = SIDE) -> np.ndarray:
    """Low-passed noise, (count, 3, side, side) uint8, no two alike."""
    noise = np.random.default_rng(0).normal(size=(count, 3, side, side))
    smooth = gaussian_filter(noise, (0, 0, 1, 1))
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def star(folder: Path) -> StarText:
    """A STAR file, its rows the particles 59, 58, ... 10."""
    lines = [f'TS_{row % 2 + 1}  {row:05d}.500  "no {row}"\n' for row in range(COUNT)[:9:-1]]
    (folder / "picks.star").write_text(STAR + "".join(lines) + "\n")
    blocks = read_star(folder / "picks.star")
    head, rows, tail = star_lines(folder / "picks.star", blocks, "particles")
    return StarText("picks.star", head, {59 - number: line for number, line in enumerate(rows)}, tail)


def content(path: Path) -> dict:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.S)
    return json.loads(found[1])
