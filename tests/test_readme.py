"""The README's two ways from your own files to an answer, followed to the letter; and where the documents point to."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from loader.volume import write_volume
from tests.picks import loop
from tests.scripts import REPOSITORY, succeed

BOX, PER_FOLDER = 8, 5
DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])


def own_data_blocks() -> list[list[str]]:
    """The blocks of indented lines of the section; the first line of each names files, the others are commands."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Your own data\n")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block).splitlines() for block in re.findall(r"(?m)(?:^    .*\n)+", section)]


def follow(commands: list[str], folder: Path) -> str:
    """Run commands as they stand, in a folder; what the last one printed."""
    for command in commands:
        python, script, *options = shlex.split(command.replace("$REPO", str(REPOSITORY)), comments=True)
        assert python == "python"
        said = succeed(script, *options, cwd=folder)
    assert script == str(REPOSITORY / "predict.py")
    return said


def ball(shape: tuple[int, int, int], centre: Sequence[float], radius: float) -> np.ndarray:
    z, y, x = (np.arange(side) - middle for side, middle in zip(shape, centre, strict=True))
    return (z**2)[:, None, None] + (y**2)[:, None] + x**2 < radius**2


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Path, list[str], str]:
    """A user's folder after the first way, the names of the classes, and what the last command printed."""
    (layout, repository, *commands), _ = own_data_blocks()
    assert repository.startswith("REPO=")
    folder = tmp_path_factory.mktemp("own")
    folders = re.findall(r"(\S+)/\*\.mrc", layout)
    rng = np.random.default_rng(0)
    for size, name in enumerate(folders, start=1):
        for number in range(PER_FOLDER):
            volume = rng.normal(size=(BOX,) * 3) - 4 * ball((BOX,) * 3, [(BOX - 1) / 2] * 3, size)  # dark, as raw
            write_volume(folder / name / f"{number}.mrc", volume.astype(np.float32), 13.5)
    said = follow(commands, folder)
    written = commands[-1].partition("# -> ")[2]
    assert written + "predictions.csv" in said
    return folder, [name.removeprefix("data_/") for name in folders if name.startswith("data_/")], written


def test_your_own_mrc_files_lead_to_predictions_by_the_commands_of_the_readme(followed):
    folder, known, written = followed
    table = pd.read_csv(folder / written / "predictions.csv")
    assert len(table) == PER_FOLDER
    assert set(table["Prediction"]) <= {*known, "unknown"}
    assert set(table["Nearest Class"]) <= set(known) and len(known) >= 2


def test_your_own_tomograms_and_picks_lead_to_predictions_by_the_commands_of_the_readme(followed):
    folder, known, _ = followed
    _, (layout, *commands) = own_data_blocks()
    (tomograms, suffix), star = layout.split()[0].split("/*"), layout.split()[1]
    shape, places, rng = (40, 48, 60), [(20.3, 23, 24), (19, 22.6, 35.5)], np.random.default_rng(1)
    volume = rng.normal(size=shape) - 4 * sum(ball(shape, place, 4.5) for place in places)
    write_volume(folder / tomograms / f"TS_01{suffix}", volume.astype(np.float32), 10.0)
    rows = [f"{x} {y} {z} TS_01.tomostar" for z, y, x in places]
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnMicrographName"
    (folder / star).write_text(loop(labels, rows))
    said = follow(commands, folder)
    written = "results/model_save-checkpoint/picks/predictions.csv"
    assert written in said and (folder / "extracted" / "check.png").is_file()
    table = pd.read_csv(folder / written)
    assert list(table["Source Row"]) == [1, 2] and set(table["Nearest Class"]) <= set(known)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_links_and_benchmarks_that_a_document_names_are_there(document):
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert not [link for link in links if not (document.parent / link).exists()]
    assert not [
        name
        for name in re.findall(r"(?<!test_)benchmarks[./]([a-z]\w+)", text)
        if not list((REPOSITORY / "benchmarks").glob(f"{name}*"))
    ]


def test_the_front_page_is_short_and_narrow():
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 100
