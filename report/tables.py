"""The tables of the reports, and how they look on the terminal."""

from dataclasses import dataclass

from common.cli import named, plural
from evaluation.discovery import MOST_PARTICLES
from evaluation.rejection import CALIBRATED, MOSTLY
from loader.columns import snr_text

BETTER = {"unseen_auc": "pairs of unseen classes are told apart", "auroc": "known is told from unseen"}
BETTER_BY = 0.01  # how much a floor's figure must be above the network's for a warning
LABEL_WIDTH, COLUMN_WIDTH = 34, 13
MOST_ROWS, MOST_NAMED = 30, 20  # of a table (and a confusion matrix) on the terminal; classes in a line
SETS = {
    "unseen": "Held-out classes for the final figures (unseen.csv)",
    "valid_unseen": "Held-out classes for choices (valid_unseen.csv)",
}

Cell = tuple[str, str]  # a value, and what stands small below it: its interval


@dataclass(frozen=True)
class Table:
    """A question and the figures that answer it.

    section: the part of the report that it shows; pictures of that name stand below it.
    answer: the main figure, in a line.
    note: what the question means.
    columns, rows: of rows each a label and its cells.
    terms: keys of TERMS that the table uses.
    """

    section: str
    title: str
    answer: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    terms: tuple[str, ...]


def tables(part: dict) -> list[Table]:
    """All tables of one unseen set; that of clusters where it was asked for."""
    clusters = [discovery(part)] if "discovery" in part else []
    others = [confounds(part)] if part["confounds"] else []
    return [verification(part), rejection(part), per_class(part), enrolment(part), *clusters, floors(part), *others]


def known(report: dict) -> list[Table]:
    """The tables of the known classes: overall, and class by class."""
    figures = report["known"]
    columns = [figures, *figures["per_snr"]]
    rows = [
        ("accuracy, nearest prototype", [_cell(column, "prototype_accuracy") for column in columns]),
        ("called unknown, wrongly", [_cell(column, "false_rejection_rate") for column in columns]),
        ("AUC, seen-seen pairs", [_cell(column["seen_seen"], "auc") for column in columns]),
        ("volumes", [_count(column["n"]) for column in columns]),
    ]
    overall = Table(
        "known",
        "Known classes",
        f"accuracy {figures['prototype_accuracy']:.3f} by nearest prototype",
        "Particles of test.csv, of the classes that training saw.",
        ["all", *(snr_text(column["snr"]) for column in columns[1:])],
        rows,
        (
            "known class",
            "embedding",
            "nearest prototype",
            "interval",
            "called unknown",
            "AUC",
            "seen-seen pairs",
            "SNR",
        ),
    )
    worst = max(figures["per_class"], key=lambda entry: entry["false_rejection_rate"])
    by_class = Table(
        "known_classes",
        "Known classes, one by one",
        f"most often called unknown: {worst['class']}, {worst['false_rejection_rate']:.0%}",
        "How often each class is named right, and refused: wrongly called unknown; on valid.csv the threshold was set.",
        ["accuracy", "refused", "on valid.csv", "volumes", "particles"],
        [
            (
                entry["class"],
                [
                    *(
                        _cell(entry, key)
                        for key in ("prototype_accuracy", "false_rejection_rate", "valid_false_rejection_rate")
                    ),
                    *(_count(entry[key]) for key in ("n", "n_particles")),
                ],
            )
            for entry in figures["per_class"]
        ],
        (),
    )
    return [overall, by_class]


def refused(report: dict) -> list[str]:
    """A warning for each known class that is mostly called unknown."""
    return [
        f"known class {entry['class']}: {entry['false_rejection_rate']:.0%} of its {entry['n']} test volumes are "
        "called unknown"
        for entry in report["known"]["per_class"]
        if entry["false_rejection_rate"] > MOSTLY
    ]


def verification(part: dict) -> Table:
    columns = [part["verification"], *part["verification"]["per_snr"]]
    pairs = [column["unseen_unseen"] for column in columns]
    rows = [
        ("accuracy, authors' protocol", [_cell(column["authors"], "accuracy", "std") for column in columns]),
        ("  always saying 'different'", [_cell(column["authors"], "floor") for column in columns]),
        ("AUC", [_cell(entry, "auc") for entry in pairs]),
        ("EER", [_cell(entry, "eer") for entry in pairs]),
        ("VAL at FAR 0.01", [_rate(entry, "0.01") for entry in pairs]),
        ("VAL at FAR 0.001", [_rate(entry, "0.001") for entry in pairs]),
        ("AUC, seen-unseen pairs", [_cell(column["seen_unseen"], "auc") for column in columns]),
        ("pairs: same", [_count(entry["n_same"]) for entry in pairs]),
        ("pairs: different", [_count(entry["n_different"]) for entry in pairs]),
    ]
    note = "Two particles of classes that training never saw: are they of the same class? No pair shares a particle."
    terms = ("AUC", "authors' protocol", "EER", "VAL at FAR", "seen-seen pairs", "SNR")
    answer = _answer("pair AUC", pairs[0], "auc")
    return Table("verification", "Same or different?", answer, note, _levels(part), rows, terms)


def rejection(part: dict) -> Table:
    entry = part["rejection"]
    columns = {score: [figures, *figures["per_snr"]] for score, figures in entry["scores"].items()}
    default = entry["default_score"]
    rates = [entry, *entry["per_snr"]]
    measures = {"auroc": "AUROC", "aupr": "AUPR", "fpr95": "FPR95", "oscr": "OSCR"}
    rows = [
        (f"{name}, {default}", [_cell(column, key) for column in columns[default]]) for key, name in measures.items()
    ]
    others = [score for score in columns if score != default]
    rows += [(f"AUROC, {score}", [_cell(column, "auroc") for column in columns[score]]) for score in others]
    rows.append(("knowns called unknown", [_cell(column, "false_rejection_rate") for column in rates]))
    rows.append(("unknowns detected", [_cell(column, "unknown_detection_rate") for column in rates]))
    note = (
        f"Is a particle of a known class, or of none of them? The threshold {entry['threshold']:.3f} was set on "
        f"validation particles of known classes to call {entry['wished_false_rejection_rate']:.0%} of them unknown. "
        f"The accuracy on known classes is {entry['closed_set_accuracy']:.3f}."
    )
    terms = ("AUROC", "AUPR", "FPR95", "OSCR", *CALIBRATED, "max_logit, energy")
    answer = _answer("AUROC", columns[default][0], "auroc")
    return Table("rejection", "Known or unknown?", answer, note, _levels(part), rows, terms)


def per_class(part: dict) -> Table:
    entry, shots = part["rejection"], part["enrolment"]["unseen_only"][1]
    pairs = {one["class"]: one for one in part["verification"]["unseen_unseen"]["per_class"] or []}
    scores = {one["class"]: one for one in entry["scores"][entry["default_score"]]["per_class"]}
    enrolled = {one["class"]: one for one in shots["per_class"] or []}
    rows = [
        (
            f"{one['class']} (most like {one['most_like']})",
            [
                _cell(pairs.get(one["class"], {}), "auc"),
                _cell(scores[one["class"]], "auroc"),
                _cell(one, "unknown_detection_rate"),
                _cell(enrolled.get(one["class"], {}), "accuracy"),
                _count(scores[one["class"]]["n_unseen"]),
            ],
        )
        for one in entry["per_class"]
    ]
    note = (
        "Of each unseen class: its pairs against the other unseen classes, how well it is told from the known ones, "
        "and how often it is recognised from a few named examples."
    )
    worst = min(entry["per_class"], key=lambda one: one["unknown_detection_rate"])
    answer = f"least often detected: {worst['class']}, {worst['unknown_detection_rate']:.0%}"
    columns = ["pair AUC", "AUROC", "detected", f"{shots['shots']}-shot", "volumes"]
    return Table("per_class", "Unseen classes, one by one", answer, note, columns, rows, ("AUROC", "enrolment"))


def enrolment(part: dict) -> Table:
    entry = part["enrolment"]
    columns = [entry, *entry["per_snr"]]
    kinds = (("unseen_only", "shot"), ("with_known", "shot, knowns compete"))
    rows = [
        (
            f"{shots['shots']}-{text} (chance {shots['chance']:.2f})",
            [_cell(column[kind][number], "accuracy") for column in columns],
        )
        for kind, text in kinds
        for number, shots in enumerate(entry[kind])
    ]
    note = (
        "A few particles of each new class are named; are the others recognised, without training again? Mean over 100 "
        "draws of the named ones. In the lower rows the known classes are possible answers too."
    )
    answer = _answer(f"{columns[0]['unseen_only'][1]['shots']}-shot accuracy", columns[0]["unseen_only"][1], "accuracy")
    title = "Which new class, from a few examples?"
    return Table("enrolment", title, answer, note, _levels(part), rows, ("enrolment",))


def discovery(part: dict) -> Table:
    columns = [part["discovery"], *part["discovery"]["per_snr"]]
    rows = []
    for rows_of, label in (("rejected", "called unknown"), ("all_unseen", "all unseen")):
        found = [column[rows_of] for column in columns]
        rows.append((f"{label}, HDBSCAN", [_clusters(one["hdbscan"]) for one in found]))
        rows.append(("  particles", [_count(one["n"]) for one in found]))
    most = part["discovery"]["all_unseen"]
    note = (
        "Particles are grouped by their embeddings; the number of groups is estimated. Groups found / true classes; "
        "the adjusted Rand index (none for a single class). In brackets the number of groups in "
        f"{most['reclusterings']} resamples, and the interval of the index. 'Called unknown' is what a user would "
        "have; 'all unseen' is without any mistake in rejection."
    )
    grouped = [column[rows_of] for column in columns for rows_of in ("rejected", "all_unseen")]
    if any(one["n"] < one["n_there"] for one in grouped):
        note += f" At most {MOST_PARTICLES:,} particles, drawn at random, are grouped."
    found = most["hdbscan"]
    answer = "too few particles"
    if found:
        answer = f"{found['clusters']} groups found where there are {found['true_classes']} classes"
    terms = ("HDBSCAN", "adjusted Rand index", "NMI", "purity", "stable")
    return Table("discovery", "How many new classes?", answer, note, _levels(part), rows, terms)


def _clusters(found: dict | None) -> Cell:
    if found is None:
        return "-", ""
    ari = f"{found['ari']:.2f}" if found["clusters"] and found["true_classes"] > 1 else "-"
    return f"{found['clusters']}/{found['true_classes']}; {ari}", _clusters_more(found)


def _clusters_more(found: dict) -> str:
    """What stands small below a number of clusters."""
    comparable = found["clusters"] and found["true_classes"] > 1
    numbers, ari = found["clusters_interval"], found["ari_interval"] if comparable else None
    brackets = [f"[{numbers[0]:.0f}, {numbers[1]:.0f}]"] if numbers else []
    brackets += [f"[{ari[0]:.2f}, {ari[1]:.2f}]"] if ari else []
    texts = [" ".join(brackets)] if brackets else []
    texts += [f"{found['stable_clusters']} stable", *([f"NMI {found['nmi']:.2f}"] if comparable else [])]
    texts += [] if found["purity"] is None else [f"purity {found['purity']:.2f}"]
    return "; ".join(texts)


def floors(part: dict) -> Table:
    levels = [snr_text(entry["snr"]) for entry in part["floors"][0]["per_snr"]]
    rows = [
        (
            entry["embedding"],
            [
                _cell(entry, "unseen_auc"),
                *(_cell(level, "unseen_auc") for level in entry["per_snr"]),
                *(_cell(entry, key) for key in ("five_shot", "auroc", "known_accuracy")),
            ],
        )
        for entry in part["floors"]
    ]
    note = (
        "What brightness alone achieves, size alone, or the same network without training. Pair AUC, 5-shot accuracy, "
        "AUROC and known accuracy by nearest neighbours."
    )
    columns = ["pair AUC", *levels, "5-shot", "AUROC", "known acc."]
    terms = ("floor", "size as round blobs see it", "true masks")
    better = sum(bool(_better_floors(part["floors"], key)) for key in BETTER)
    answer = f"better in {better} of {len(BETTER)} figures" if better else "nothing that was tried does better"
    return Table("floors", "What else would do it?", answer, note, columns, rows, terms)


def confounds(part: dict) -> Table:
    rows = [
        (entry["factor"], [_cell(entry, key) for key in ("in_known", "in_unknown", "structure", "alone", "within")])
        for entry in part["confounds"]
    ]
    note = (
        "Does 'unknown' follow something else than structure? The share of the score's variance that a factor explains "
        "among known and among unknown particles, beside the share that being known does; the AUROC of the factor "
        "alone; the score's AUROC among particles that are alike in it."
    )
    columns = ["in known", "in unknown", "structure", "alone", "within"]
    warned = sum(bool(entry["warning"]) for entry in part["confounds"])
    answer = f"{warned} {plural('warning', warned)}" if warned else "nothing that was looked at"
    title = "What else does 'unknown' follow?"
    return Table("confounds", title, answer, note, columns, rows, ("structure", "alone, within"))


def warnings(part: dict) -> list[str]:
    """What the reader must know before believing the figures."""
    confounded = [entry["warning"] for entry in part["confounds"] if entry["warning"]]
    return confounded + [text for key in BETTER for text in _better_floors(part["floors"], key)]


def _better_floors(floors: list[dict], key: str) -> list[str]:
    """A warning where floors, which follow the network's own entry, have the higher figure."""
    network, *others = floors
    known = [(floor["embedding"], floor[key]) for floor in others if floor[key] is not None]
    if network[key] is None:
        return []
    better = [f"{name} {value:.3f}" for name, value in known if value > network[key] + BETTER_BY]
    return [f"{BETTER[key]} better without this network ({network[key]:.3f}): {', '.join(better)}"] if better else []


def heading(part: dict) -> str:
    """What an unseen set holds."""
    names, count = part["classes"], len(part["classes"])
    return (
        f"{part['n']} volumes of {part['n_particles']} particles, {count} unseen {plural('class', count)}: "
        f"{named(names, MOST_NAMED)}"
    )


def format_open_set(report: dict) -> str:
    """Every table of an open-set report as text, without intervals."""
    lines = [f"SNR convention: {report['snr_convention']}"]
    for table in known(report):
        lines += _text_table(table)
    lines += [f"WARNING: {warning}" for warning in refused(report)]
    for name in SETS:
        if name in report:
            lines += ["", f"{name}: {heading(report[name])}"]
            for table in tables(report[name]):
                lines += _text_table(table)
            lines += [f"WARNING: {warning}" for warning in warnings(report[name])]
    return "\n".join(lines)


def _text_table(table: Table) -> list[str]:
    rows = [_line(f"  {label}", [value for value, _ in cells]) for label, cells in table.rows[:MOST_ROWS]]
    hidden = len(table.rows) - MOST_ROWS
    more = [f"  and {hidden} more in open_set.html and open_set.json"] if hidden > 0 else []
    return [_line(table.title, table.columns), *rows, *more]


def _line(label: str, values: list[str]) -> str:
    return f"{label:<{LABEL_WIDTH}}" + "".join(f"{value:>{COLUMN_WIDTH}}" for value in values)


def _levels(part: dict) -> list[str]:
    return ["all", *(snr_text(entry["snr"]) for entry in part["verification"]["per_snr"])]


def _answer(name: str, entry: dict, key: str) -> str:
    """A figure and its interval in a line."""
    value, low_high = _cell(entry, key)
    return f"{name} {value} {low_high}".strip()


def _cell(entry: dict, key: str, spread: str = "") -> Cell:
    value, low_high = entry.get(key), entry.get(f"{key}_interval")
    if value is None:
        return "-", ""
    more = f"± {entry[spread]:.3f} over folds " if spread else ""
    return f"{value:.3f}", more + ("" if low_high is None else f"[{low_high[0]:.3f}, {low_high[1]:.3f}]")


def _rate(entry: dict, rate: str) -> Cell:
    found = (entry["val_at_far"] or {}).get(rate, {"value": None})
    return _cell({"value": found["value"], "value_interval": found.get("interval")}, "value")


def _count(number: int) -> Cell:
    return f"{number}", ""
