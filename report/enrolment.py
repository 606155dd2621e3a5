"""What is said of enrolled classes: how sure each is."""

from evaluation.enrolled import Enlarged, EnrolledClass


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
            f"of the known classes' reference volumes {found.known_after:.1%} are named right among all classes, "
            f"{found.known_before:.1%} without the enrolled ones"
        )
    return "\n".join([*lines, *map(_warning, filter(_doubtful, found.enrolled))])


def _row(one: EnrolledClass) -> tuple[str, ...]:
    rival = ("-", "-") if one.rival is None else (one.rival, f"{one.rival_cosine:.2f}")
    shares = (one.accuracy, one.refused)
    return one.name, one.source, *map(_share, shares), *rival, _share(one.false_acceptance)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _doubtful(one: EnrolledClass) -> bool:
    """Whether a class is hardly told from others."""
    return (one.refused or 0) > 0.5 or (one.accuracy is not None and one.accuracy < 0.5) or (one.junk or 0) > 0.5


def _warning(one: EnrolledClass) -> str:
    found = [
        f"{one.refused:.0%} of its own would be called unknown" if (one.refused or 0) > 0.5 else "",
        f"{one.accuracy:.0%} of its own are named right" if one.accuracy is not None and one.accuracy < 0.5 else "",
        f"{one.junk:.0%} of its own are called junk" if (one.junk or 0) > 0.5 else "",
    ]
    return f"{one.name} is hardly told from others: {'; '.join(filter(None, found))}"
