"""The tables of the open-set report, from its figures."""

from dataclasses import dataclass

from common.cli import named, plural
from evaluation.discovery import MOST_PARTICLES, Found
from evaluation.figures import NO_FIGURE, Figure
from evaluation.known_unknown import UnseenClass
from evaluation.rejection import MOSTLY
from evaluation.sections import Floor, OpenSet, UnseenSet
from evaluation.verification import Authors
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


def tables(part: UnseenSet) -> list[Table]:
    """All tables of one unseen set; that of clusters where it was asked for."""
    clusters = [discovery(part)] if part.discovery else []
    others = [confounds(part)] if part.confounds else []
    return [verification(part), rejection(part), per_class(part), enrolment(part), *clusters, floors(part), *others]


def known(report: OpenSet) -> list[Table]:
    """The tables of the known classes: overall, and class by class."""
    columns = report.known.columns()
    rows = [
        ("accuracy, nearest prototype", [figure_cell(column.prototype_accuracy) for column in columns]),
        ("called unknown, wrongly", [figure_cell(column.false_rejection_rate) for column in columns]),
        ("AUC, seen-seen pairs", [figure_cell(column.seen_seen.auc) for column in columns]),
        ("volumes", [_count(column.n) for column in columns]),
    ]
    overall = Table(
        "known",
        "Known classes",
        f"accuracy {columns[0].prototype_accuracy.value:.3f} by nearest prototype",
        "Particles of test.csv, of the classes that training saw. They are named by nearest prototype, as predict.py "
        "does it; test.py gives the accuracy of a linear classifier too, which is often higher.",
        _levels(report.known.per_snr),
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
    classes = report.known.per_class
    worst = max(classes, key=lambda name: classes[name].false_rejection_rate.value)
    by_class = Table(
        "known_classes",
        "Known classes, one by one",
        f"most often called unknown: {worst}, {classes[worst].false_rejection_rate.value:.0%}",
        "How often each class is named right, and refused: wrongly called unknown; on valid.csv the threshold was set.",
        ["accuracy", "refused", "on valid.csv", "volumes", "particles"],
        [
            (
                name,
                [
                    figure_cell(one.prototype_accuracy),
                    figure_cell(one.false_rejection_rate),
                    _number(one.valid_false_rejection_rate),
                    _count(one.n),
                    _count(one.n_particles),
                ],
            )
            for name, one in classes.items()
        ],
        (),
    )
    return [overall, by_class]


def refused(report: OpenSet) -> list[str]:
    """A warning for each known class that is mostly called unknown."""
    return [
        f"known class {name}: {one.false_rejection_rate.value:.0%} of its {one.n} test volumes are called unknown"
        for name, one in report.known.per_class.items()
        if one.false_rejection_rate.value > MOSTLY
    ]


def missed(part: UnseenSet) -> list[str]:
    """Which unseen classes are mostly taken for a known one, the most often missed first."""
    classes = part.rejection.per_class
    rates = {name: one.unknown_detection_rate.value for name, one in classes.items()}
    return [_taken(name, classes[name]) for name in sorted(rates, key=rates.get) if 1 - rates[name] > MOSTLY]


def _taken(name: str, one: UnseenClass) -> str:
    if one.taken_for_rate > MOSTLY:
        return f"{name} is taken for {one.taken_for} in {one.taken_for_rate:.0%} of cases"
    known = f"{name} is taken for a known class in {1 - one.unknown_detection_rate.value:.0%} of cases"
    return f"{known}, most often for {one.taken_for}"


def verification(part: UnseenSet) -> Table:
    columns = part.verification.columns()
    pairs = [column.unseen_unseen for column in columns]
    rows = [
        ("accuracy, authors' protocol", [_accuracy(column.authors) for column in columns]),
        ("  always saying 'different'", [_number(column.authors.floor) for column in columns]),
        ("AUC", [figure_cell(one.auc) for one in pairs]),
        ("EER", [figure_cell(one.eer) for one in pairs]),
        ("VAL at FAR 0.01", [figure_cell((one.val_at_far or {}).get("0.01", NO_FIGURE)) for one in pairs]),
        ("VAL at FAR 0.001", [figure_cell((one.val_at_far or {}).get("0.001", NO_FIGURE)) for one in pairs]),
        ("AUC, seen-unseen pairs", [figure_cell(column.seen_unseen.auc) for column in columns]),
        ("pairs: same", [_count(one.n_same) for one in pairs]),
        ("pairs: different", [_count(one.n_different) for one in pairs]),
    ]
    note = "Two particles of classes that training never saw: are they of the same class? No pair shares a particle."
    terms = ("AUC", "authors' protocol", "EER", "VAL at FAR", "seen-seen pairs", "SNR")
    answer = answer_text("pair AUC", pairs[0].auc)
    if _single(part):
        answer = ONE_CLASS
        note += " A single unseen class has no pairs of different classes; held out with a second one it would."
        rows = [(label, cells) for label, cells in rows if any(value not in ("-", "0") for value, _ in cells)]
    return Table("verification", "Same or different?", answer, note, _levels(part.verification.per_snr), rows, terms)


def rejection(part: UnseenSet) -> Table:
    entry = part.rejection
    columns = {name: score.columns() for name, score in entry.scores.items()}
    default = columns[entry.default_score]
    rows = [
        (f"AUROC, {entry.default_score}", [figure_cell(column.auroc) for column in default]),
        (f"AUPR, {entry.default_score}", [figure_cell(column.aupr) for column in default]),
        (f"FPR95, {entry.default_score}", [figure_cell(column.fpr95) for column in default]),
        (f"OSCR, {entry.default_score}", [figure_cell(column.oscr) for column in default]),
    ]
    others = [name for name in columns if name != entry.default_score]
    rows += [(f"AUROC, {name}", [figure_cell(column.auroc) for column in columns[name]]) for name in others]
    rows.append(("knowns called unknown", [figure_cell(column.false_rejection_rate) for column in entry.columns()]))
    rows.append(("unknowns detected", [figure_cell(column.unknown_detection_rate) for column in entry.columns()]))
    note = (
        f"Is a particle of a known class, or of none of them? The threshold {entry.threshold:.3f} was set "
        f"to call {refused_at_most(entry.n_calibration, entry.wished_false_rejection_rate)} unknown. "
        f"The accuracy on known classes, by nearest prototype, is {entry.closed_set_accuracy:.3f}."
    )
    terms = ("AUROC", "AUPR", "FPR95", "OSCR", *columns)
    answer = answer_text("AUROC", default[0].auroc)
    return Table("rejection", "Known or unknown?", answer, note, _levels(part.verification.per_snr), rows, terms)


def per_class(part: UnseenSet) -> Table:
    classes, shots = part.rejection.per_class, part.enrolment.overall.unseen_only[1]
    pairs = part.verification.overall.unseen_unseen.per_class or {}
    scores, enrolled = part.rejection.default.per_class, shots.per_class or {}
    rows = [
        (
            f"{name} (most like {one.most_like})",
            [
                figure_cell(pairs[name].auc if name in pairs else NO_FIGURE),
                figure_cell(scores[name].auroc),
                figure_cell(one.unknown_detection_rate),
                figure_cell(enrolled[name].accuracy if name in enrolled else NO_FIGURE),
                _count(scores[name].n_unseen),
            ],
        )
        for name, one in classes.items()
    ]
    note = (
        "Of each unseen class: its pairs against the other unseen classes, how well it is told from the known ones, "
        "and how often it is recognised from a few named examples."
    )
    if _single(part):
        note += " A single class has no pairs against others, and nothing to be taken for from examples."
    worst = min(classes, key=lambda name: classes[name].unknown_detection_rate.value)
    answer = f"least often detected: {worst}, {classes[worst].unknown_detection_rate.value:.0%}"
    columns = ["pair AUC", "AUROC", "detected", f"{shots.shots}-shot", "volumes"]
    return Table("per_class", "Unseen classes, one by one", answer, note, columns, rows, ("AUROC", "enrolment"))


def enrolment(part: UnseenSet) -> Table:
    columns = part.enrolment.columns()
    alone, among = [column.unseen_only for column in columns], [column.with_known for column in columns]
    kinds = ((alone, "shot"), (among, "shot, knowns compete"))[_single(part) :]
    rows = [
        (f"{shots[0].shots}-{text} (chance {shots[0].chance:.2f})", [figure_cell(one.accuracy) for one in shots])
        for kind, text in kinds
        for shots in zip(*kind, strict=True)
    ]
    note = (
        "A few particles of each new class are named; are the others recognised, without training again? Mean over 100 "
        "draws of the named ones. In the lower rows the known classes are possible answers too."
    )
    shots = columns[0].unseen_only[1]
    answer = answer_text(f"{shots.shots}-shot accuracy", shots.accuracy)
    title = "Which new class, from a few examples?"
    if _single(part):
        title = "New class or known, from a few examples?"
        shots = columns[0].with_known[1]
        answer = answer_text(f"{shots.shots}-shot accuracy among known classes", shots.accuracy)
        note = (
            "A few particles of the new class are named; are the others told from the known classes, without training "
            "again? Mean over 100 draws of the named ones. A single new class cannot be taken for another new one."
        )
    return Table("enrolment", title, answer, note, _levels(part.verification.per_snr), rows, ("enrolment",))


def discovery(part: UnseenSet) -> Table:
    columns = part.discovery.columns()
    rejected, everything = [column.rejected for column in columns], [column.all_unseen for column in columns]
    rows = []
    for label, found in (("called unknown", rejected), ("all unseen", everything)):
        rows.append((f"{label}, groups", [_clusters(one.found) for one in found]))
        rows.append(("  particles", [_count(one.n) for one in found]))
    note = (
        "Particles are grouped by their embeddings; the number of groups is estimated. Groups found / true classes; "
        "the adjusted Rand index (none for a single class). In brackets the number of groups in "
        f"{everything[0].reclusterings} resamples, and the interval of the index. 'Called unknown' is what a user "
        "would have; 'all unseen' is without any mistake in rejection."
    )
    if any(one.n < one.n_there for one in rejected + everything):
        note += f" At most {MOST_PARTICLES:,} particles, drawn at random, are grouped."
    found = everything[0].found
    answer = "too few particles"
    if found:
        groups, classes = found.clusters.value, found.true_classes
        there = f"{'is' if classes == 1 else 'are'} {classes} {plural('class', classes)}"
        answer = f"{groups} {plural('group', groups)} found where there {there}"
    terms = ("groups", "adjusted Rand index", "NMI", "purity", "stable")
    return Table("discovery", "How many new classes?", answer, note, _levels(part.verification.per_snr), rows, terms)


def _clusters(found: Found | None) -> Cell:
    if found is None:
        return "-", ""
    ari = f"{found.ari.value:.2f}" if _comparable(found) else "-"
    return f"{found.clusters.value}/{found.true_classes}; {ari}", _clusters_more(found)


def _comparable(found: Found) -> bool:
    """Whether there are clusters, and classes that they could agree with."""
    return found.clusters.value > 0 and found.true_classes > 1


def _clusters_more(found: Found) -> str:
    """What stands small below a number of clusters."""
    numbers, ari = found.clusters.interval, found.ari.interval if _comparable(found) else None
    brackets = [f"[{numbers[0]:.0f}, {numbers[1]:.0f}]"] if numbers else []
    brackets += [f"[{ari[0]:.2f}, {ari[1]:.2f}]"] if ari else []
    texts = [" ".join(brackets)] if brackets else []
    texts += [f"{found.stable_clusters} stable", *([f"NMI {found.nmi.value:.2f}"] if _comparable(found) else [])]
    texts += [] if found.purity.value is None else [f"purity {found.purity.value:.2f}"]
    return "; ".join(texts)


def floors(part: UnseenSet) -> Table:
    _, *levels = _levels(part.floors[0].per_snr)
    rows = [
        (
            entry.embedding,
            [
                figure_cell(entry.unseen_auc),
                *(figure_cell(level.unseen_auc) for level in entry.per_snr.values()),
                *(figure_cell(getattr(entry, key)) for key in [*BETTER][1:]),
            ],
        )
        for entry in part.floors
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
    better = [head for key, (head, _) in BETTER.items() if _better_floors(part.floors, key)]
    measured = sum(getattr(part.floors[0], key).value is not None for key in BETTER)
    answer = f"something else is better in {len(better)} of {measured} figures: {', '.join(better)}"
    answer = answer if better else f"nothing that was tried is better in any of {measured} figures"
    return Table("floors", "What else would do it?", answer, note, columns, rows, terms)


def confounds(part: UnseenSet) -> Table:
    rows = [
        (one.factor, [*map(_number, (one.in_known, one.in_unknown, one.structure, one.alone, one.within))])
        for one in part.confounds
    ]
    note = (
        "Does 'unknown' follow something else than structure? The share of the score's variance that a factor explains "
        "among known and among unknown particles, beside the share that being known does; the AUROC of the factor "
        "alone; the score's AUROC among particles that are alike in it."
    )
    columns = ["in known", "in unknown", "structure", "alone", "within"]
    warned = sum(bool(one.warning) for one in part.confounds)
    answer = f"{warned} {plural('warning', warned)}" if warned else "nothing that was looked at"
    title = "What else does 'unknown' follow?"
    return Table("confounds", title, answer, note, columns, rows, ("structure", "alone, within"))


def warnings(part: UnseenSet) -> list[str]:
    """What the reader must know before believing the figures."""
    confounded = [one.warning for one in part.confounds if one.warning]
    return confounded + [text for key in BETTER for text in _better_floors(part.floors, key)]


def _better_floors(floors: list[Floor], key: str) -> list[str]:
    """A warning where floors, which follow the network's own entry, have the higher figure."""
    network, *others = (getattr(floor, key).value for floor in floors)
    if network is None:
        return []
    known = [(floor.embedding, value) for floor, value in zip(floors[1:], others, strict=True) if value is not None]
    better = [f"{name} {value:.3f}" for name, value in known if value > network + BETTER_BY]
    done = BETTER[key][1]
    return [f"{done} better without this network ({network:.3f}): {', '.join(better)}"] if better else []


def _single(part: UnseenSet) -> bool:
    """Whether a set holds one class alone, which has nothing to be told apart from."""
    return len(part.classes) == 1


def heading(part: UnseenSet) -> str:
    """What an unseen set holds."""
    count = len(part.classes)
    return (
        f"{part.n} volumes of {part.n_particles} particles, {count} unseen {plural('class', count)}: "
        f"{named(part.classes, MOST_NAMED)}"
    )


def _levels(per_snr: dict) -> list[str]:
    """The heads of columns: all rows, and each SNR level."""
    return ["all", *map(snr_text, per_snr)]


def answer_text(name: str, figure: Figure) -> str:
    """A figure and its interval in a line."""
    return " ".join(filter(None, (name, *figure_cell(figure))))


def _accuracy(found: Authors) -> Cell:
    """The accuracy of the authors' protocol, with its spread over folds."""
    value, low_high = figure_cell(found.accuracy)
    return value, low_high if found.std is None else f"± {found.std:.3f} over folds {low_high}"


def figure_cell(figure: Figure) -> Cell:
    """A figure, and its interval below it."""
    low_high = figure.interval if figure.value is not None else None
    return _number(figure.value)[0], f"[{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""


def _number(value: float | None) -> Cell:
    return "-" if value is None else f"{value:.3f}", ""


def _count(number: int) -> Cell:
    return f"{number}", ""
