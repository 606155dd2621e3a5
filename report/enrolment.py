"""What is said of enrolled classes: how sure each is."""

from common.cli import plural
from evaluation.enrolled import Enlarged, EnrolledClass

MOST_NOTES = 10  # enrolled classes in sentences
ALIKE = 0.9  # cosine of two prototypes above which it is warned that one class may be taken for the other
OFTEN = 0.3  # share of a class's own examples that are refused above which it is warned of


def enrolment_text(found: Enlarged, imaging: str) -> str:
    """A line per enrolled class, what the columns mean, and what became of the known ones.

    Args:
        imaging: that structures and other shapes were simulated under, in words; empty where none were.
    """
    heads = ("class", "from", "named right", "refused", "nearest other", "cosine", "others let in")
    rows = [heads, *map(_row, found.enrolled)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    table = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines = ["enrolled classes:", *(f"    {line}" for line in table)]
    lines.append(
        "named right, refused: of their own examples, each compared with the others alone. Others let in: of shapes "
        "that are not of the class, the share that would be taken for it"
    )
    cohorts = dict.fromkeys((one.name, one.cohort) for one in found.enrolled if one.cohort_n)
    lines += [f"    {name}: {text}" for name, text in cohorts]
    lines += [f"    {imaging}"] if imaging else []
    if found.known_before is not None:
        lines.append(
            f"of the known classes' reference volumes ({_reference(found)}) {found.known_after:.1%} are named right "
            f"among all classes, {found.known_before:.1%} without the enrolled ones"
        )
    return "\n".join([*lines, *enrolment_warnings(found.enrolled)])


def _reference(found: Enlarged) -> str:
    """What the known classes' reference volumes are; a calibration has a cohort where they were simulated."""
    simulated = found.calibration.cohort is not None
    files = "simulated, under training's imaging or as calibrate.py was told" if simulated else "training files"
    before = found.calibration.enrolled - len(found.enrolled)
    more = ", and the examples of classes enrolled before" if before else ""
    return f"{files}{more}; not the validation volumes"


def enrolment_warnings(enrolled: list[EnrolledClass]) -> list[str]:
    """Sentences on each enrolled class that is hardly told from others, often refused, or nearly another class."""
    return [warning for one in enrolled for warning in (_hardly_told(one), _refused(one), _nearly(one)) if warning]


def enrolment_notes(enrolled: list[EnrolledClass]) -> list[str]:
    """How sure each enrolled class is, in a sentence; of the first few."""
    said = [_note(one) for one in enrolled[:MOST_NOTES]]
    more = len(enrolled) - len(said)
    return said + ([f"And {more} more enrolled {plural('class', more)}, see predictions.json."] if more else [])


def _note(one: EnrolledClass) -> str:
    parts = [
        f"{one.accuracy:.0%} of its own examples are named right" if one.accuracy is not None else "",
        f"{one.refused:.0%} are called unknown" if one.refused is not None else "",
        f"the nearest other class is {one.rival} (cosine {one.rival_cosine:.2f})" if one.rival is not None else "",
        f"{one.false_acceptance:.0%} of other shapes are let in" if one.false_acceptance is not None else "",
    ]
    return f"Enrolled class {one.name}, from {one.source}: {', '.join(filter(None, parts)) or 'not tested'}."


def _row(one: EnrolledClass) -> tuple[str, ...]:
    rival = ("-", "-") if one.rival is None else (one.rival, f"{one.rival_cosine:.2f}")
    shares = (one.accuracy, one.refused)
    return one.name, one.source, *map(_share, shares), *rival, _share(one.false_acceptance)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _hardly_told(one: EnrolledClass) -> str:
    found = [
        f"{one.refused:.0%} of its own would be called unknown" if (one.refused or 0) > 0.5 else "",
        f"{one.accuracy:.0%} of its own are named right" if one.accuracy is not None and one.accuracy < 0.5 else "",
        f"{one.junk:.0%} of its own are called junk" if (one.junk or 0) > 0.5 else "",
    ]
    return f"{one.name} is hardly told from others: {'; '.join(filter(None, found))}" if any(found) else ""


def _refused(one: EnrolledClass) -> str:
    """Of what `_hardly_told` does not say already."""
    if not OFTEN < (one.refused or 0) <= 0.5:
        return ""
    return f"{one.name} is often refused: {one.refused:.0%} of its own ({one.source}) would be called unknown"


def _nearly(one: EnrolledClass) -> str:
    if (one.rival_cosine or 0) <= ALIKE:
        return ""
    return (
        f"{one.name} is nearly {one.rival} (cosine {one.rival_cosine:.2f} of their prototypes): "
        "particles of one may be named as the other"
    )
