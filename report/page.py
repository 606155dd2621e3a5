"""The open-set report as one HTML page that needs nothing else: no script, no network."""

import base64
import html
from dataclasses import dataclass
from pathlib import Path

from common.cli import named, plural
from common.files import write_text
from evaluation.sections import OpenSet
from report.junk import junk_tables
from report.tables import MOST_NAMED, SETS, Cell, Table, heading, known, refused, tables, warnings
from report.terms import TERMS
from report.verdict import LIMITS, Answer, Verdict, verdict


@dataclass(frozen=True)
class Picture:
    """A PNG file, what it shows, and the section of the report (of a Table) below which it stands."""

    path: Path
    caption: str
    section: str


STYLE = """
:root { --yes: #1a7f37; --partly: #9a6700; --no: #b42318; --none: #57606a; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: .4rem; } p, ul, ol, dl { max-width: 60rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid #ccc; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; margin: 1rem 0; }
.answer { border: 1px solid #d0d7de; border-top: 6px solid var(--none); border-radius: 6px; padding: .6rem 1rem; }
.answer h3 { font-size: 1.05rem; margin: 0; } .answer ul { padding-left: 1.1rem; margin: .5rem 0; }
.answer b { display: block; font-size: 1.3rem; color: var(--none); }
.yes { border-top-color: var(--yes); } .yes b { color: var(--yes); }
.partly { border-top-color: var(--partly); } .partly b { color: var(--partly); }
.no { border-top-color: var(--no); } .no b { color: var(--no); }
.small, figcaption, dl.terms { color: #555; font-size: .9rem; }
dl.terms { background: #f5f7fa; border-radius: 6px; padding: .5rem 1rem; margin: .6rem 0; }
dl.terms div { margin: .15rem 0; } dl.terms dt { display: inline; font-weight: 600; color: #222; }
dl.terms dd { display: inline; margin: 0; }
details { border: 1px solid #d0d7de; border-radius: 6px; margin: .6rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: .5rem 0; } summary b { margin-right: .8rem; } summary span { color: #555; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .9rem; text-align: right; } th:first-child, td:first-child { text-align: left; }
tbody tr:nth-child(odd) td { background: #f5f7fa; } thead th { border-bottom: 1px solid #999; }
small { display: block; color: #666; white-space: nowrap; }
p.warning { background: #fff2cc; border-left: 4px solid #e0a800; padding: .5rem 1rem; }
figure { margin: 1rem 0; } img { max-width: 100%; max-height: 46rem; height: auto; width: auto; }
"""


def write_page(path: Path | str, report: OpenSet, pictures: dict[str, list[Picture]]) -> None:
    """Write the page.

    Args:
        report: every figure.
        pictures: name of a set, or `all`, -> its pictures; they go into the page.
    """
    page = _Page(pictures)
    body = [*_opening(report, verdict(report)), "<h2>Known classes</h2>", *map(_warning, refused(report))]
    body += [page.section(table, "all") for table in (*known(report), *junk_tables(report))]
    body += page.rest("all")
    for name, part in report.sets.items():
        body += [f"<h2>{html.escape(SETS[name])}</h2>", f"<p>{html.escape(heading(part))}</p>"]
        body += map(_warning, warnings(part))
        body += [page.section(table, name) for table in tables(part)]
        body += page.rest(name)
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Open-set report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n",
    )


def _opening(report: OpenSet, found: Verdict) -> list[str]:
    """What the page begins with: the verdict."""
    names = report.known_classes
    how = "compared with" if report.note else "trained on"
    about = f"{len(names)} known {plural('class', len(names))}: {named(names, MOST_NAMED)}"
    steps = "".join(f"<li>{html.escape(step)}</li>" for step in found.steps)
    return [
        "<h1>Can this network be trusted with new particles?</h1>",
        f'<p class="small">Checkpoint <code>{html.escape(report.checkpoint)}</code>, {how} '
        f"{html.escape(about)}. SNR convention of the data: {html.escape(report.snr_convention)}.</p>",
        *map(_warning, filter(None, (report.note, *report.warnings))),
        '<div class="answers">' + "".join(map(_answer, found.answers)) + "</div>",
        f"<h2>What to do next</h2><ol>{steps}</ol>",
        f'<p class="small">{html.escape(LIMITS)} Numbers in [brackets] are 95 % intervals from {report.bootstrap} '
        "draws of the particles, not of the classes. All figures and pictures are folded below; click on a line.</p>",
    ]


def _answer(answer: Answer) -> str:
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in answer.reasons)
    return (
        f'<div class="answer {answer.level.partition(" ")[0]}"><h3>{html.escape(answer.question)}</h3>\n'
        f"<b>{html.escape(answer.short[:1].upper() + answer.short[1:])}</b>\n<ul>{reasons}</ul></div>"
    )


def _warning(text: str) -> str:
    return f'<p class="warning">{html.escape(text)}</p>'


class _Page:
    """What was shown so far: each term is explained once, each picture stands once."""

    def __init__(self, pictures: dict[str, list[Picture]]):
        self.pictures = {name: list(of_set) for name, of_set in pictures.items()}
        self.explained: set[str] = set()

    def section(self, table: Table, name: str) -> str:
        """A folded table, with the terms that stand here first, and the pictures of its section."""
        mine = [picture for picture in self.pictures.get(name, []) if picture.section == table.section]
        self.pictures[name] = [picture for picture in self.pictures.get(name, []) if picture not in mine]
        return (
            f"<details><summary><b>{html.escape(table.title)}</b> <span>{html.escape(table.answer)}</span></summary>\n"
            f"<p>{html.escape(table.note)}</p>{self._terms(table.terms)}{_table(table)}"
            + "".join(map(_figure, mine))
            + "</details>"
        )

    def rest(self, name: str) -> list[str]:
        """The pictures of a set that belong to no table, folded."""
        found = "".join(_figure(picture) for picture in self.pictures.pop(name, []))
        return [f"<details><summary><b>Map of all classes</b></summary>{found}</details>"] if found else []

    def _terms(self, names: tuple[str, ...]) -> str:
        new = [name for name in names if name not in self.explained]
        self.explained.update(new)
        entries = "".join(
            f"<div><dt>{html.escape(name)}</dt>: <dd>{html.escape(TERMS[name])}</dd></div>" for name in new
        )
        return f'<dl class="terms">{entries}</dl>' if new else ""


def _table(table: Table) -> str:
    def row(label: str, cells: list[Cell]) -> str:
        cells = [*cells, *[("", "")] * (len(table.columns) - len(cells))]
        texts = [html.escape(value) + (f" <small>{html.escape(more)}</small>" if more else "") for value, more in cells]
        return f"<tr><td>{html.escape(label)}</td>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>"

    head = "".join(f"<th>{html.escape(column)}</th>" for column in ["", *table.columns])
    rows = "\n".join(row(label, cells) for label, cells in table.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(Path(picture.path).read_bytes()).decode()
    text = html.escape(picture.caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
