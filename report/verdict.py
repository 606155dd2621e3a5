"""What the figures of an open-set report mean for a biologist: three questions, by stated limits, and what next.

The limits are for the lower end of a figure's 95 % interval, so that few particles do not pass for good ones. A figure
that size, brightness or an untrained network reaches as well shows nothing of the network, however high it is.
"""

from dataclasses import dataclass
from textwrap import wrap

from common.cli import named, plural
from evaluation.figures import Figure
from evaluation.rejection import MOSTLY
from evaluation.sections import OpenSet, UnseenSet
from loader.columns import snr_text
from report.tables import BETTER_BY, MOST_NAMED, missed

YES, PARTLY, NO, NOT_SHOWN = "yes", "partly", "no", "not shown"
KNOWN_LIMITS = 0.9, 0.7  # accuracy on known classes from which the answer is yes, and partly
PAIR_LIMITS = 0.9, 0.75  # of AUROC and of the AUC of pairs, likewise
FEW = 30  # particles: with fewer, nothing is shown
FEW_CLASSES = 4  # unseen classes: with fewer, the answer says how many
WORSE_BY = 0.05  # accuracy at one SNR level below that of all, from which it is named
MOST_MISSED = 5  # unseen classes that are mostly taken for a known one, in words
SHOTS = 1  # place of 5-shot among the numbers of examples
PLAIN = {  # the floors in plain words
    "untrained network": "a network that was not trained",
    "intensity only": "brightness alone",
    "size as round blobs see it": "size alone, as the volumes show it",
    "size only (true masks)": "the true size alone, which no one knows of a real particle",
}
SHORT = {  # the same, in an answer
    "untrained network": "a network without training",
    "intensity only": "brightness alone",
    "size as round blobs see it": "size alone",
    "size only (true masks)": "size alone",
}
DONE = {  # figures of a floor, and what it does with them
    "known_accuracy": "tells these classes apart",
    "auroc": "tells known from new",
    "unseen_auc": "tells these classes apart",
}
WIDTH = 110  # of a line on the terminal


@dataclass(frozen=True)
class Answer:
    """A question, one of YES, PARTLY, NO and NOT_SHOWN, and why; because: why a high figure shows nothing, in short."""

    question: str
    level: str
    reasons: tuple[str, ...]
    because: str = ""

    @property
    def short(self) -> str:
        """The answer in a line."""
        return f"{self.level}: {self.because}" if self.because else self.level


@dataclass(frozen=True)
class Verdict:
    """The answers, and what to do next, the most urgent first."""

    answers: tuple[Answer, ...]
    steps: tuple[str, ...]


LIMITS = (
    f"Yes and partly: the lower end of the 95 % interval is at least {KNOWN_LIMITS[0]:.0%} and {KNOWN_LIMITS[1]:.0%} "
    f"(names of known classes), or {PAIR_LIMITS[0]:.0%} and {PAIR_LIMITS[1]:.0%} (the other two). Not shown: fewer "
    f"than {FEW} particles, no class held out, or a floor (size, brightness, an untrained network) does as well, "
    f"within {BETTER_BY:.2f}."
)


def verdict(report: OpenSet) -> Verdict:
    """The verdict on a report: of unseen.csv, or of valid_unseen.csv where that holds nothing."""
    part = next(iter(report.sets.values()), None)
    judged = [_known(report, part), _unknown(part), _apart(part)]
    steps = [step for _, steps in judged for step in steps]
    steps.append("Look at some particles of each kind by eye: these figures hold for particles like those of the test.")
    return Verdict(tuple(answer for answer, _ in judged), tuple(dict.fromkeys(steps)))  # each once, in order


def _known(report: OpenSet, part: UnseenSet | None) -> tuple[Answer, list[str]]:
    figures, classes = report.known.overall, len(report.known_classes)
    accuracy = figures.prototype_accuracy
    level = _level(accuracy, KNOWN_LIMITS)
    reasons = [
        f"It names {accuracy.value:.0%} {_interval(accuracy)}of the test volumes "
        f"of known classes right, each by its nearest prototype ({figures.n_particles} particles of {classes} "
        f"{plural('class', classes)}; guessing: {1 / classes:.0%})."
    ]
    steps = []
    if level == NO:
        steps.append(
            "Known classes are not told apart: train longer (train.py --epochs), with a wider network (--width) or "
            "with more particles of each class."
        )
    elif level == PARTLY:
        steps.append(
            "See in confusion.png (test.py draws it) which classes are taken for each other: join them, or give them "
            "more training particles."
        )
    levels = {level: found.prototype_accuracy.value for level, found in report.known.per_snr.items()}
    worst = min(levels, key=levels.get, default=None)
    if worst is not None and levels[worst] < accuracy.value - WORSE_BY:
        reasons.append(f"At {snr_text(worst)} alone it is {levels[worst]:.0%}.")
    refused = [name for name, one in report.known.per_class.items() if one.false_rejection_rate.value > MOSTLY]
    if refused:
        names = named(refused, MOST_NAMED)
        reasons.append(f"Most particles of {names} are called unknown.")
        steps.append(f"Train on more particles of {names}, or leave the class out: most of its particles are refused.")
    question = "Can the names of known classes be trusted?"
    if classes < 2:
        return Answer(question, NOT_SHOWN, ("There is one known class: nothing to mix up.",)), steps
    level = _enough(figures.n_particles, "known", level, reasons, steps)
    level, because = _against_floors(part, "known_accuracy", level, reasons)
    return Answer(question, level, tuple(reasons), because), steps


def _unknown(part: UnseenSet | None) -> tuple[Answer, list[str]]:
    question = "Can the answer “unknown” be trusted?"
    if part is None:
        return Answer(question, NOT_SHOWN, ("No class was held out of training, so it was not tested.",)), [
            "To test “unknown”, hold classes that you know out of training: csv_split.py --unseen NAMES (two or more), "
            "train again, then open_set.py."
        ]
    rates, wished = part.rejection.overall, part.rejection.wished_false_rejection_rate
    auroc = part.rejection.default.overall.auroc
    level = _level(auroc, PAIR_LIMITS)
    reasons = [
        f"It calls {rates.unknown_detection_rate.value:.0%} of the particles of new classes unknown, and wrongly "
        f"{rates.false_rejection_rate.value:.0%} of those of known classes (meant: at most {wished:.0%}).",
        f"Of one known and one new particle, the known one has the higher score in {auroc.value:.0%} "
        f"{_interval(auroc)}of cases (AUROC; guessing: 50%).",
    ]
    taken = missed(part)
    if taken:
        more = f"; and {len(taken) - MOST_MISSED} more classes likewise" if len(taken) > MOST_MISSED else ""
        reasons.append(f"{'; '.join(taken[:MOST_MISSED])}{more}.")
    steps = []
    if (rates.false_rejection_rate.interval or [0])[0] > wished:
        reasons.append("The threshold refuses more known particles than it was set to.")
    followed = [one.factor for one in part.confounds if one.warning]
    if followed:
        reasons.append(f"In part it follows something else than structure: {named(followed)}.")
        level = PARTLY if level == YES else level
    classes = len(part.classes)
    if classes < FEW_CLASSES:
        reasons.append(f"Tested with {classes} new {plural('class', classes)} alone: others may fare otherwise.")
    level = _enough(part.n_particles, "new", level, reasons, steps)
    level, because = _against_floors(part, "auroc", level, reasons, steps)
    if level in (PARTLY, NOT_SHOWN):
        steps.append(
            "Take “unknown” as a list to look through, not as an answer: sort predictions.csv by its score, and look "
            "at the particles on both sides of the threshold."
        )
    elif level == NO:
        steps.append(
            "Do not rely on “unknown”: train with more classes, of more various shapes (train.py --recipe diverse adds "
            "simulated ones), then test again."
        )
    else:
        steps.append("Sort your own particles with predict.py; what it calls unknown is worth a closer look.")
    return Answer(question, level, tuple(reasons), because), steps


def _apart(part: UnseenSet | None) -> tuple[Answer, list[str]]:
    question = "Do new classes come apart from each other?"
    if part is None:
        return Answer(question, NOT_SHOWN, ("No class was held out of training, so it was not tested.",)), []
    auc, classes = part.verification.overall.unseen_unseen.auc, len(part.classes)
    if auc.value is None:
        reason = f"{classes} new {plural('class', classes)} of {part.n_particles} particles: no pairs to compare."
        step = "Hold two or more classes with several particles each out of training: csv_split.py --unseen NAMES."
        return Answer(question, NOT_SHOWN, (reason,)), [step]
    level = _level(auc, PAIR_LIMITS)
    reasons = [
        "Of one pair of the same new class and one of two new classes, the first is the more alike in "
        f"{auc.value:.0%} {_interval(auc)}of cases (AUC; guessing: 50%)."
    ]
    steps = []
    level = _enough(part.n_particles, "new", level, reasons, steps)
    level, because = _against_floors(part, "unseen_auc", level, reasons, steps)
    shots = part.enrolment.overall.unseen_only[SHOTS]
    if shots.accuracy.value is not None:
        reasons.append(
            f"With {shots.shots} named examples of each, {shots.accuracy.value:.0%} of the others are named right "
            f"(guessing: {shots.chance:.0%})."
        )
    found = part.discovery.overall.all_unseen.found if part.discovery else None
    if found:
        groups, true = found.clusters.value, found.true_classes
        reasons.append(
            f"Grouped without examples, they make {groups} {plural('group', groups)}; there are {true} classes."
        )
    if level == NO:
        steps.append(
            "Train with more classes, of more various shapes (train.py --recipe diverse adds simulated ones): that is "
            "what helps with classes never seen."
        )
    else:
        steps.append(
            "Name 5 to 20 examples of each new class that you find among the unknown, and compare the others with them "
            "(embeddings.npz of predict.py holds their embeddings)."
        )
    return Answer(question, level, tuple(reasons), because), steps


def _level(figure: Figure, limits: tuple[float, float]) -> str:
    low = (figure.interval or [figure.value])[0]
    return YES if low >= limits[0] else PARTLY if low >= limits[1] else NO


def _enough(particles: int, kind: str, level: str, reasons: list[str], steps: list[str]) -> str:
    """The level where there are particles enough to say; else the reason and the step are added."""
    if particles >= FEW:
        return level
    reasons.append(f"{particles} {kind} {plural('particle', particles)} in the test: too few to say.")
    steps.append(f"Test on at least {FEW} {kind} particles, better on some hundreds.")
    return NOT_SHOWN


def _against_floors(
    part: UnseenSet | None, key: str, level: str, reasons: list[str], steps: list[str] | None = None
) -> tuple[str, str]:
    """The level where no floor does as well; else that and why in short, and reason and step are added."""
    values = {floor.embedding: getattr(floor, key).value for floor in part.floors} if part else {}
    own = values.pop(part.floors[0].embedding) if values else None
    others = {} if own is None else {name: value for name, value in values.items() if value is not None}
    others = {name: value for name, value in others.items() if value >= own - BETTER_BY}
    if not others:
        return level, ""
    named = "; ".join(f"{PLAIN[name]}: {value:.0%}" for name, value in others.items())
    reasons.append(f"In one and the same comparison this network reaches {own:.0%}, and {named}.")
    if steps is not None:
        steps.append(
            "Test with held-out classes that are alike in size and brightness: only then does structure decide."
        )
    best = max(others, key=others.get)
    return (NO, "") if level == NO else (NOT_SHOWN, f"{SHORT[best]} {DONE[key]} as well")


def _interval(figure: Figure) -> str:
    low_high = figure.interval
    return f"[{100 * low_high[0]:.0f} to {100 * low_high[1]:.0f}] " if low_high else ""


def format_verdict(found: Verdict) -> str:
    """The verdict as text for the terminal."""
    lines = ["THE VERDICT"]
    for answer in found.answers:
        lines += [f"{answer.question} {answer.level.upper()}{answer.short.removeprefix(answer.level)}"]
        lines += wrap(" ".join(answer.reasons), WIDTH, initial_indent="    ", subsequent_indent="    ")
    lines.append("What to do next")
    for number, step in enumerate(found.steps, start=1):
        lines += wrap(step, WIDTH, initial_indent=f"  {number}. ", subsequent_indent="     ")
    return "\n".join(lines)
