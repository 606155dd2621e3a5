"""STAR files with every value as text: blocks of keys and values, and tables, in their order, read and written back.

`00255` stays `00255` and `nan` stays `nan`, so what is read and written again holds the same text. Comments (but for
RELION's version), the numbers behind the labels and the width of white space are not kept. Libraries that read STAR
into numbers cannot do this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import InputError
from common.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

Block = "dict[str, str] | pd.DataFrame"  # key -> value, or a table of text with the labels as columns

# a value in quotes ends at a quote before white space; else white space ends it
TOKEN = re.compile(r""" "(.*?)"(?=\s|$) | '(.*?)'(?=\s|$) | (\S+) """, re.VERBOSE)
MOST_TEXTS = 100_000  # different values that are remembered at once
PIECE = 20_000  # rows that are in memory as single texts
VERSION = re.compile(r"# version (\d+)\s*$")
UNSAFE = r"""\s|^$|^["'#]"""  # what has to be written in quotes
UNSAFE_FIRST = UNSAFE + "|^_|^data_|^loop_"  # and what has to be at the start of a line


def read_star(path: Path | str) -> dict[str, Block]:
    """The blocks of a STAR file, name -> block, in the file's order; the name is what follows `data_`, often empty.

    Raises:
        InputError: no such file, not text, not a STAR file; two blocks of one name, two tables or one label twice in a
            block; a row with more or fewer values than labels. The message names the file and the line.
    """
    blocks: dict[str, _Reader] = {}
    reader = None
    for number, line in enumerate(_lines(path), start=1):
        values = split_values(line)
        if not values:
            continue
        if line.lstrip().startswith("data_") and len(values) == 1:
            name = values[0].removeprefix("data_")
            if name in blocks:
                raise InputError(f"{path}, line {number}: a second block data_{name}; expected each name once")
            reader = blocks[name] = _Reader()
        elif reader is None:
            raise InputError(f"{path}, line {number}: {line.strip()[:40]!r}; expected a block, data_...")
        else:
            problem = reader.take(line.lstrip(), values)
            if problem:
                raise InputError(f"{path}, line {number}: {problem}")
    if not blocks:
        raise InputError(f"{path}: holds no block; expected a STAR file with data_... in it")
    return {name: reader.block() for name, reader in blocks.items()}


def _lines(path: Path | str) -> Iterator[str]:
    """The lines of a file, as `str.splitlines` parts them; raises InputError where it cannot be read as text."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for line in file:
                yield from line.splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable STAR file ({error})") from error


def split_values(line: str) -> list[str]:
    """The values of a line, without quotes and without a comment behind them."""
    if not any(mark in line for mark in "\"'#"):
        return line.split()
    values = []
    for match in TOKEN.finditer(line):
        if match[3] and match[3].startswith("#"):
            break
        values.append(next(text for text in match.groups() if text is not None))
    return values


class _Reader:
    """Takes the lines of one block."""

    def __init__(self) -> None:
        self.pairs: dict[str, str] = {}
        self.labels: list[str] | None = None  # of the table, from `loop_` on
        self.rows: list[tuple[str, ...]] = []  # of the table, those that are in no piece yet
        self.pieces: list[pd.DataFrame] = []  # PIECE rows each: as a table they take a fifth of the memory
        self.texts: dict[str, str] = {}  # each value as one text, however often it stands in the table

    def take(self, line: str, values: list[str]) -> str:
        """Take a line, given also as its values; what is wrong with it, or nothing."""
        if line.startswith("loop_") and len(values) == 1:
            if self.labels is not None or self.pairs:
                return "a second table in one block; expected a block of its own"
            self.labels = []
        elif line.startswith("_") and not self.rows and not self.pieces:
            label = values[0].removeprefix("_")
            if label in self.pairs or label in (self.labels or []):
                return f"the label {label} stands twice in one block"
            if self.labels is not None:
                self.labels.append(label)
            elif len(values) != 2:
                return f"{len(values) - 1} values of {label}; expected one"
            else:
                self.pairs[label] = values[1]
        elif len(values) != len(self.labels or []):
            return f"{len(values)} values; expected {len(self.labels or [])}, one for each label"
        else:
            if len(self.texts) > MOST_TEXTS:
                self.texts.clear()
            self.rows.append(tuple(self.texts.setdefault(value, value) for value in values))
            if len(self.rows) == PIECE:
                self._gather()
        return ""

    def _gather(self) -> None:
        """Make a piece of the rows."""
        import pandas as pd

        self.pieces.append(pd.DataFrame(self.rows, columns=self.labels, dtype=str))
        self.rows = []

    def block(self) -> Block:
        """What the lines held."""
        import pandas as pd

        if self.labels is None:
            return self.pairs
        if self.rows or not self.pieces:
            self._gather()
        self.texts.clear()
        return pd.concat(self.pieces, ignore_index=True)


def star_version(path: Path | str) -> str:
    """What RELION states of its format in a comment, as `50001`; empty where the file states nothing."""
    with Path(path).open(encoding="utf-8-sig") as file:
        found = (VERSION.match(line) for line in file)
        return next((match[1] for match in found if match), "")


def write_star(path: Path | str, blocks: dict[str, Block], version: str = "") -> None:
    """Write blocks in their order, in one step; values that hold white space, or could be taken for a mark, in quotes.

    Args:
        version: of RELION's format, stated before each block; empty for none.

    Raises InputError for a value that a line of a STAR file cannot hold.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for name, block in blocks.items():
            head, rows = _block_text(path, name, block, version)
            file.write(head)
            file.writelines(rows)
        file.write("\n")


def star_lines(path: Path | str, blocks: dict[str, Block], name: str, version: str = "") -> tuple[str, list[str], str]:
    """What `write_star` writes to `path`: all before the rows of one block's table, these rows, and all behind them.

    Raises InputError as it does.
    """
    texts = {other: _block_text(path, other, block, version) for other, block in blocks.items()}
    head, rows = texts[name][0], list(texts[name][1])
    whole = [part + "".join(lines) for part, lines in texts.values()]  # of the one that was listed no row is left
    place = list(blocks).index(name)
    return "".join([*whole[:place], head]), rows, "".join([*whole[place + 1 :], "\n"])


def _block_text(path: Path | str, name: str, block: Block, version: str = "") -> tuple[str, Iterator[str]]:
    """A block as text: all before the rows of its table, and these rows, a line each; `version` as `write_star`."""
    import pandas as pd

    head = (f"\n# version {version}\n" if version else "") + f"\ndata_{name}\n\n"
    if isinstance(block, pd.DataFrame):
        head += "loop_\n" + "".join(f"_{label} #{n}\n" for n, label in enumerate(block.columns, start=1))
        return head, _row_lines(path, block)
    values = _quoted(pd.Series(list(block.values()), dtype=str), UNSAFE, path)
    pairs = zip(block, values, strict=True)
    return head + "".join(f"_{label}  {value}\n" for label, value in pairs), iter(())


def _row_lines(path: Path | str, table: pd.DataFrame) -> Iterator[str]:
    """The rows of a table, a line each; PIECE of them are in memory as text."""
    patterns = [UNSAFE_FIRST, *[UNSAFE] * (len(table.columns) - 1)]
    for start in range(0, len(table), PIECE):
        piece = table.iloc[start : start + PIECE]
        pairs = zip(piece.columns, patterns, strict=True)
        columns = [_quoted(piece[label].astype(str), unsafe, path) for label, unsafe in pairs]
        yield from ("  ".join(row) + "\n" for row in zip(*columns, strict=True))


def _quoted(values: pd.Series, unsafe: str, path: Path | str) -> list[str]:
    """The values as they stand in a file, those that the pattern `unsafe` finds in quotes."""
    if not values.str.contains(unsafe).any():
        return list(values)
    return [_quote(value, path) if re.search(unsafe, value) else value for value in values]


def _quote(value: str, path: Path | str) -> str:
    """A value in the quotes that bring it back."""
    for mark in "\"'":
        if split_values(f"{mark}{value}{mark}") == [value] and len(value.splitlines()) < 2:
            return f"{mark}{value}{mark}"
    raise InputError(f"{path}: a STAR file cannot hold the value {value[:40]!r}")
