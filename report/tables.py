"""The tables of the open-set report, from its figures."""

from dataclasses import dataclass

from common.cli import named, plural
from evaluation.discovery import MOST_PARTICLES
from evaluation.rejection import MOSTLY
from loader.columns import snr_text
from report.known import refused_at_most

BETTER = {  # figures of a floor: the head of its column, and what it says is done
    "unseen_auc": ("pair AUC", "pairs of unseen classes are told apart"),
    "five_shot": ("5-shot", "unseen classes are named from five examples each"),
    "auroc": ("AUROC", "known is told from unseen"),
    "known_accuracy": ("known acc.", "known classes are named by their nearest neighbours"),
}
BETTER_BY = 0.01  # how much a floor's figure must be above the network's to count as better
ONE_CLASS = "pairs of new classes not measured: a single class was held out"
MOST_NAMED = 20  # classes in a line
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
        "Particles of test.csv, of the classes that training saw. They are named by nearest prototype, as predict.py "
        "does it; test.py gives the accuracy of a linear classifier too, which is often higher.",
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


def missed(part: dict) -> list[str]:
    """Which unseen classes are mostly taken for a known one, the most often missed first."""
    classes = sorted(part["rejection"]["per_class"], key=lambda one: one["unknown_detection_rate"])
    return [_taken(one) for one in classes if 1 - one["unknown_detection_rate"] > MOSTLY]


def _taken(one: dict) -> str:
    if one["taken_for_rate"] > MOSTLY:
        return f"{one['class']} is taken for {one['taken_for']} in {one['taken_for_rate']:.0%} of cases"
    known = f"{one['class']} is taken for a known class in {1 - one['unknown_detection_rate']:.0%} of cases"
    return f"{known}, most often for {one['taken_for']}"


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
    if _single(part):
        answer = ONE_CLASS
        note += " A single unseen class has no pairs of different classes; held out with a second one it would."
        rows = [(label, cells) for label, cells in rows if any(value not in ("-", "0") for value, _ in cells)]
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
        f"Is a particle of a known class, or of none of them? The threshold {entry['threshold']:.3f} was set "
        f"to call {refused_at_most(entry['n_calibration'], entry['wished_false_rejection_rate'])} unknown. "
        f"The accuracy on known classes, by nearest prototype, is {entry['closed_set_accuracy']:.3f}."
    )
    terms = ("AUROC", "AUPR", "FPR95", "OSCR", *columns)
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
    if _single(part):
        note += " A single class has no pairs against others, and nothing to be taken for from examples."
    worst = min(entry["per_class"], key=lambda one: one["unknown_detection_rate"])
    answer = f"least often detected: {worst['class']}, {worst['unknown_detection_rate']:.0%}"
    columns = ["pair AUC", "AUROC", "detected", f"{shots['shots']}-shot", "volumes"]
    return Table("per_class", "Unseen classes, one by one", answer, note, columns, rows, ("AUROC", "enrolment"))


def enrolment(part: dict) -> Table:
    entry = part["enrolment"]
    columns = [entry, *entry["per_snr"]]
    kinds = (("unseen_only", "shot"), ("with_known", "shot, knowns compete"))[_single(part) :]
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
    shots = columns[0]["unseen_only"][1]
    answer = _answer(f"{shots['shots']}-shot accuracy", shots, "accuracy")
    title = "Which new class, from a few examples?"
    if _single(part):
        title = "New class or known, from a few examples?"
        shots = entry["with_known"][1]
        answer = _answer(f"{shots['shots']}-shot accuracy among known classes", shots, "accuracy")
        note = (
            "A few particles of the new class are named; are the others told from the known classes, without training "
            "again? Mean over 100 draws of the named ones. A single new class cannot be taken for another new one."
        )
    return Table("enrolment", title, answer, note, _levels(part), rows, ("enrolment",))


def discovery(part: dict) -> Table:
    columns = [part["discovery"], *part["discovery"]["per_snr"]]
    rows = []
    for rows_of, label in (("rejected", "called unknown"), ("all_unseen", "all unseen")):
        found = [column[rows_of] for column in columns]
        rows.append((f"{label}, groups", [_clusters(one["found"]) for one in found]))
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
    found = most["found"]
    answer = "too few particles"
    if found:
        groups, classes = found["clusters"], found["true_classes"]
        there = f"{'is' if classes == 1 else 'are'} {classes} {plural('class', classes)}"
        answer = f"{groups} {plural('group', groups)} found where there {there}"
    terms = ("groups", "adjusted Rand index", "NMI", "purity", "stable")
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
                *(_cell(entry, key) for key in [*BETTER][1:]),
            ],
        )
        for entry in part["floors"]
    ]
    note = (
        "What brightness alone achieves, size alone, or the same network without training. AUROC and known accuracy "
        "are by nearest neighbours here, which need no training, and so differ from those by prototypes and by the "
        "linear classifier of test.py. A figure counts as better where any of these means is more than "
        f"{BETTER_BY:g} above this network; one that could not be measured does not count."
    )
    pair, *others = (head for head, _ in BETTER.values())
    columns = [pair, *levels, *others]
    terms = ("floor", "size as round blobs see it", "true masks")
    better = [head for key, (head, _) in BETTER.items() if _better_floors(part["floors"], key)]
    measured = sum(part["floors"][0][key] is not None for key in BETTER)
    answer = f"something else is better in {len(better)} of {measured} figures: {', '.join(better)}"
    answer = answer if better else f"nothing that was tried is better in any of {measured} figures"
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
    done = BETTER[key][1]
    return [f"{done} better without this network ({network[key]:.3f}): {', '.join(better)}"] if better else []


def _single(part: dict) -> bool:
    """Whether a set holds one class alone, which has nothing to be told apart from."""
    return len(part["classes"]) == 1


def heading(part: dict) -> str:
    """What an unseen set holds."""
    names, count = part["classes"], len(part["classes"])
    return (
        f"{part['n']} volumes of {part['n_particles']} particles, {count} unseen {plural('class', count)}: "
        f"{named(names, MOST_NAMED)}"
    )


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
