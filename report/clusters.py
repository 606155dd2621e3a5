"""What predict.py says on the terminal of the clusters of unknown particles."""

from common.cli import plural
from prediction.predicted import NotClustered, UnknownCluster, UnknownClusters

MOST_SAID = 5  # sentences on what clusters may follow beside structure
HEAD = ("cluster", "particles", "stability", "nearest known class", "cosine", "medoid")


def clusters_text(clusters: UnknownClusters | NotClustered) -> str:
    """A table of the clusters, and below it what each may follow beside structure."""
    if isinstance(clusters, NotClustered):
        return f"clusters: none sought among {clusters.reason}"
    copies = f", {clusters.n:,} volumes" if clusters.n > clusters.particles else ""
    counts = (
        f"{clusters.particles:,} unknown particles{copies} ({clusters.in_none:,} are in none; a cluster has at "
        f"least {clusters.smallest:,})"
    )
    found = clusters.found
    if not found:
        return f"clusters: none among {counts}"
    rows = [HEAD, *(_cells(each) for each in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    said = what_they_may_follow(found)
    head = f"{len(found)} {plural('cluster', len(found))}{not_stable(unstable(found))}"
    return "\n".join([f"{head} among {counts}", *lines, *said])


def of_unknown(clusters: UnknownClusters | NotClustered | None) -> list[UnknownCluster]:
    """The clusters that were found; none where none could be sought."""
    return clusters.found if isinstance(clusters, UnknownClusters) else []


def unstable(found: list[UnknownCluster]) -> int:
    """How many clusters are not stable."""
    return sum(not each.stable for each in found)


def not_stable(count: int) -> str:
    """` (4 not stable)`, to stand behind the number of clusters; empty where all are stable."""
    return f" ({count} not stable)" if count else ""


def what_they_may_follow(found: list[UnknownCluster]) -> list[str]:
    """A sentence for each cluster and what it may follow beside structure, of the first few."""
    said = [f"{each.cluster}: {why.text}" for each in found for why in each.may_follow]
    more = len(said) - MOST_SAID
    return said[:MOST_SAID] + ([f"and {more} more such words on clusters in predictions.json"] if more > 0 else [])


def _cells(each: UnknownCluster) -> tuple[str, ...]:
    stability = f"{each.stability:.2f}" + ("" if each.stable else ", not stable")
    return each.cluster, f"{each.particles:,}", stability, each.nearest_class, f"{each.nearest_cosine:.2f}", each.medoid
