"""How the tables of the open-set report look on the terminal."""

from evaluation.sections import OpenSet
from report.junk import junk_tables
from report.tables import Table, heading, known, refused, tables, warnings

LABEL_WIDTH, COLUMN_WIDTH = 34, 13
MOST_ROWS = 30  # of a table, and classes of a confusion matrix


def format_open_set(report: OpenSet) -> str:
    """Every table of an open-set report as text, without intervals."""
    lines = [f"SNR convention: {report.snr_convention}"]
    for table in (*known(report), *junk_tables(report)):
        lines += _text_table(table)
    lines += [f"WARNING: {warning}" for warning in refused(report)]
    for name, part in report.sets.items():
        lines += ["", f"{name}: {heading(part)}"]
        for table in tables(part):
            lines += _text_table(table)
        lines += [f"WARNING: {warning}" for warning in warnings(part)]
    return "\n".join(lines)


def _text_table(table: Table) -> list[str]:
    rows = [_line(f"  {label}", [value for value, _ in cells]) for label, cells in table.rows[:MOST_ROWS]]
    hidden = len(table.rows) - MOST_ROWS
    more = [f"  and {hidden} more in open_set.html and open_set.json"] if hidden > 0 else []
    return [_line(table.title, table.columns), *rows, *more]


def _line(label: str, values: list[str]) -> str:
    return f"{label:<{LABEL_WIDTH}}" + "".join(f"{value:>{COLUMN_WIDTH}}" for value in values)
