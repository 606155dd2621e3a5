"""The README's way from your own MRC files to an answer, followed to the letter; and where the documents point to."""

import re
import runpy
import shlex

import numpy as np
import pandas as pd
import pytest

from loader.volume import write_volume
from tests.scripts import REPOSITORY

BOX, PER_FOLDER = 8, 5
DOCUMENTS = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])


def own_data_lines() -> list[str]:
    """The indented lines of the section: one of files, one of where the repository is, then the commands."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## Your own data\n")[2].partition("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("    ")]


def test_your_own_mrc_files_lead_to_predictions_by_the_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    layout, repository, *commands = own_data_lines()
    assert repository.startswith("REPO=")
    folders = re.findall(r"(\S+)/\*\.mrc", layout)
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:BOX, :BOX, :BOX] - (BOX - 1) / 2
    for size, folder in enumerate(folders, start=1):
        particle = np.hypot(np.hypot(z, y), x) < size
        for number in range(PER_FOLDER):
            volume = rng.normal(size=particle.shape) - 4 * particle  # dark, as in a raw tomogram
            write_volume(tmp_path / folder / f"{number}.mrc", volume.astype(np.float32), 13.5)

    monkeypatch.chdir(tmp_path)
    for command in commands:
        python, script, *options = shlex.split(command.replace("$REPO", str(REPOSITORY)), comments=True)
        assert python == "python"
        monkeypatch.setattr("sys.argv", [script, *options])
        runpy.run_path(script, run_name="__main__")
    assert script == str(REPOSITORY / "predict.py")
    written = commands[-1].partition("# -> ")[2]
    assert written + "predictions.csv" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / written / "predictions.csv")
    known = [folder.removeprefix("data_/") for folder in folders if folder.startswith("data_/")]
    assert len(table) == PER_FOLDER
    assert set(table["Prediction"]) <= {*known, "unknown"}
    assert set(table["Nearest Class"]) <= set(known) and len(known) >= 2


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
