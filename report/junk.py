"""The table that says how well particles are told from junk."""

from report.tables import Cell, Table

SETS = {"test": "known classes (test.csv)", "valid_unseen": "valid_unseen.csv", "unseen": "unseen.csv"}


def junk_tables(report: dict) -> list[Table]:
    """One table, where the checkpoint tells junk."""
    found = report.get("junk")
    if not found:
        return []
    rows = [
        (SETS[name], [_figure(figures, "auroc"), _figure(figures, "called_junk"), (f"{figures['n']}", "")])
        for name, figures in found["sets"].items()
    ]
    kinds = [f"{one['kind'].removeprefix('junk_').replace('_', ' ')} {one['found']:.0%}" for one in found["per_kind"]]
    note = (
        f"Is it a particle at all? {found['n']} volumes of junk were simulated as training had it; at the threshold "
        f"{found['found']:.0%} of them are found: {', '.join(kinds)}."
    )
    answer = " ".join(filter(None, ("AUROC", *_figure(found["sets"]["test"], "auroc"))))
    columns = ["AUROC", "called junk", "volumes"]
    return [Table("junk", "Particle or junk?", answer, note, columns, rows, ("junk", "AUROC"))]


def _figure(entry: dict, key: str) -> Cell:
    """A figure and its interval."""
    low_high = entry[f"{key}_interval"]
    return f"{entry[key]:.3f}", "" if low_high is None else f"[{low_high[0]:.3f}, {low_high[1]:.3f}]"
