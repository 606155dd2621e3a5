"""What predict.py says on the terminal of the clusters of unknown particles."""

from common.cli import plural

MOST_SAID = 5  # sentences on what clusters may follow beside structure
HEAD = ("cluster", "particles", "stability", "nearest known class", "cosine", "medoid")


def clusters_text(content: dict) -> str:
    """A table of the clusters, and below it what each may follow beside structure.

    Args:
        content: `clusters` of predictions.json.
    """
    if "reason" in content:
        return f"clusters: none sought among {content['reason']}"
    copies = f", {content['n']:,} volumes" if content["n"] > content["particles"] else ""
    counts = (
        f"{content['particles']:,} unknown particles{copies} ({content['in_none']:,} are in none; a cluster has at "
    )
    counts += f"least {content['smallest']:,})"
    found = content["found"]
    if not found:
        return f"clusters: none among {counts}"
    rows = [HEAD, *(_cells(each) for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    said = what_they_may_follow(content)
    head = f"{len(found)} {plural('cluster', len(found))}{not_stable(unstable(content))}"
    return "\n".join([f"{head} among {counts}", *lines, *said])


def unstable(content: dict) -> int:
    """How many clusters are not stable; `content` as above."""
    return sum(not each["stable"] for each in content.get("found", ()))


def not_stable(count: int) -> str:
    """` (4 not stable)`, to stand behind the number of clusters; empty where all are stable."""
    return f" ({count} not stable)" if count else ""


def what_they_may_follow(content: dict) -> list[str]:
    """A sentence for each cluster and what it may follow beside structure, of the first few; `content` as above."""
    said = [f"{each['cluster']}: {why['text']}" for each in content.get("found", ()) for why in each["may_follow"]]
    more = len(said) - MOST_SAID
    return said[:MOST_SAID] + ([f"and {more} more such words on clusters in predictions.json"] if more > 0 else [])


def _cells(each: dict) -> tuple[str, ...]:
    stability = f"{each['stability']:.2f}" + ("" if each["stable"] else ", not stable")
    return (
        each["cluster"],
        f"{each['particles']:,}",
        stability,
        each["nearest_class"],
        f"{each['nearest_cosine']:.2f}",
        each["medoid"],
    )
