"""The table that says how well particles are told from junk."""

from evaluation.sections import OpenSet
from report.tables import Table, answer_text, figure_cell

SETS = {"test": "known classes (test.csv)", "valid_unseen": "valid_unseen.csv", "unseen": "unseen.csv"}


def junk_tables(report: OpenSet) -> list[Table]:
    """One table, where the checkpoint tells junk."""
    found = report.junk
    if not found:
        return []
    rows = [
        (SETS[name], [figure_cell(of_set.auroc), figure_cell(of_set.called_junk), (f"{of_set.n}", "")])
        for name, of_set in found.sets.items()
    ]
    kinds = [f"{kind.removeprefix('junk_').replace('_', ' ')} {one.found:.0%}" for kind, one in found.per_kind.items()]
    note = (
        f"Is it a particle at all? {found.n} volumes of junk were simulated as training had it; at the threshold "
        f"{found.found.value:.0%} of them are found: {', '.join(kinds)}."
    )
    answer = answer_text("AUROC", found.sets["test"].auroc)
    columns = ["AUROC", "called junk", "volumes"]
    return [Table("junk", "Particle or junk?", answer, note, columns, rows, ("junk", "AUROC"))]
