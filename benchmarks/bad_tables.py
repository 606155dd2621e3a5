"""Which tables should a script take, which should it refuse? CSV and STAR files, whole and damaged, for faults.py."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

CSV_HEADS = {
    "particles": ("Input Data", "Actual Label", "Particle", "Voxel Size", "SNR Level"),
    "split": ("Input Data", "Segmentation Ground Truth", "Class", "SNR Level", "Actual Label", "Particle"),
    "coordinates": ("x", "y", "z", "Tomogram"),
}
STAR_HEADS = {
    "images": ("rlnImageName", "rlnClassNumber", "rlnImagePixelSize"),
    "places": ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnTomoName"),
}
CELLS = (
    "", " ", "nan", "inf", "-1", "1e400", "0x10", "1_000", "٣", "=1+1", "@x", "3@", "0@a.mrc", "../../../etc/passwd",
    "/etc/passwd", "/", ".", "..", "a\nb", "a\r\nb", 'a"b', "a,b", "ünï cödé", "a\0b", "x" * 5000, "x" * 200_000,
    "CON", "C:\\x", "unknown", "\ud7ff", "<script>", "9" * 400, "99999999999999999999@a.mrc", "\u2028", "NULL", "\x85",
)  # fmt: skip
DAMAGES = (
    "none", "cell", "drop column", "extra column", "twice a column", "reorder", "ragged", "BOM", "CRLF", "encoding",
    "duplicate row", "no rows", "cut", "bytes", "quotes",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of a kind (a key of CSV_HEADS or STAR_HEADS), its suffix, what was done to it, and its bytes."""

    kind: str
    suffix: str
    damage: str
    content: bytes


def tables(rng: np.random.Generator, count: int, files: list[str]) -> Iterator[Table]:
    """Tables of all kinds in turn, each damaged in one way or two.

    Args:
        files: names of volumes that are there, as a table may write them.
    """
    kinds = cycle([*((kind, ".csv") for kind in CSV_HEADS), *((kind, ".star") for kind in STAR_HEADS)])
    for kind, suffix in islice(kinds, count):
        head = list((CSV_HEADS if suffix == ".csv" else STAR_HEADS)[kind])
        rows = [[_cell(name, number, files) for name in head] for number in range(len(files))]
        damages = [str(damage) for damage in rng.choice(DAMAGES, rng.integers(1, 3), replace=False)]
        for damage in damages:
            _change(damage, head, rows, rng)
        text = _csv(head, rows) if suffix == ".csv" else _star(head, rows)
        content = text.encode(str(rng.choice(["utf-16", "latin-1", "cp1252"])) if "encoding" in damages else "utf-8",
                              "replace")  # fmt: skip
        for damage in damages:
            content = _spoil(damage, content, rng)
        yield Table(kind, suffix, " and ".join(sorted(damages)), content)


def _cell(name: str, number: int, files: list[str]) -> str:
    """What stands in a sound table."""
    known = {
        "Input Data": files[number],
        "rlnImageName": files[number],
        "Class": str(number % 2),
        "rlnClassNumber": str(1 + number % 2),
        "Actual Label": f"class{number % 2}",
        "Particle": f"p{number}",
        "Segmentation Ground Truth": "",
        "SNR Level": "003",
        "Voxel Size": "10",
        "rlnImagePixelSize": "10",
    }
    return known.get(name, "t" if name in ("Tomogram", "rlnTomoName") else str(8 + number % 4))


def _change(damage: str, head: list[str], rows: list[list[str]], rng: np.random.Generator) -> None:
    """Damage a table before it is written."""
    row = rows[rng.integers(len(rows))] if rows else None
    if damage == "no rows":
        rows.clear()
    elif damage in ("drop column", "twice a column", "extra column", "reorder"):
        places = {
            "drop column": lambda at: [i for i in range(len(head)) if i != at],
            "twice a column": lambda at: [*range(len(head)), at],
            "extra column": lambda at: [*range(len(head)), at],
            "reorder": lambda at: list(rng.permutation(len(head))),
        }[damage](int(rng.integers(len(head))))
        for line in (head, *rows):
            line[:] = [line[place] for place in places if place < len(line)]
        if damage == "extra column":
            head[-1] = str(rng.choice(CELLS[:24])) or "new"
    elif row and damage == "cell":
        row[rng.integers(len(row))] = CELLS[rng.integers(len(CELLS))]
    elif row and damage == "ragged":
        row[:] = row[:-1] if rng.random() < 0.5 else [*row, "more"]
    elif row and damage == "duplicate row":
        rows.append(list(row))


def _csv(head: list[str], rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *rows])
    return out.getvalue()


def _star(head: list[str], rows: list[list[str]]) -> str:
    labels = "".join(f"_{name} #{number}\n" for number, name in enumerate(head, start=1))
    return f"\ndata_particles\n\nloop_\n{labels}" + "".join("  ".join(row) + "\n" for row in rows) + "\n"


def _spoil(damage: str, content: bytes, rng: np.random.Generator) -> bytes:
    """Damage the bytes of a table."""
    if damage == "BOM":
        return b"\xef\xbb\xbf" + content
    if damage == "CRLF":
        return content.replace(b"\n", b"\r\n")
    if damage == "cut":
        return content[: rng.integers(len(content) + 1)]
    if damage == "quotes":
        at = rng.integers(len(content) + 1)
        return content[:at] + b'"' + content[at:]
    if damage == "bytes":
        changed = bytearray(content)
        for place in rng.integers(0, max(1, len(content)), 3):
            changed[place : place + 1] = bytes([rng.integers(256)])
        return bytes(changed)
    return content


def copick(rng: np.random.Generator) -> bytes:
    """Picks of copick, of which one value is of another type."""
    wrong = [None, [], {}, "x", -1, 1e400, True, [[]]][rng.integers(8)]
    content = {"pickable_object_name": "a", "run_name": "t", "points": [{"location": {"x": 1, "y": 2, "z": 3}}]}
    holder = [content, content["points"][0], content["points"][0]["location"]][rng.integers(3)]
    holder[list(holder)[rng.integers(len(holder))]] = wrong
    return json.dumps(content if rng.random() < 0.9 else wrong).encode()
