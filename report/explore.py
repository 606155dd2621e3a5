"""From what predict.py found to its page (interactive.py): what is shown and said, where on the map, how it looks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.cli import plural
from common.machine import release
from common.threads import in_threads
from evaluation.enrolled import EnrolledClass
from loader.prepare import Input, Preprocessing, prepare
from loader.star import star_lines
from prediction.predicted import NotClustered, Predicted, UnknownCluster
from prediction.star import star_sources
from report.attempt import attempt
from report.clusters import of_unknown, unstable, what_they_may_follow
from report.enrolment import enrolment_notes, enrolment_warnings
from report.interactive import InteractivePage, StarText, groups, rows_to_show, write_page
from report.known import refused_at_most
from report.predictions import trust
from report.thumbnails import central_slices

SEED = 9  # of the map, and of what is shown of many particles
FEW = 50  # particles, of which principal components make the better map


def draw_page(path: Path, predicted: Predicted, warnings: Sequence[str]) -> bool:
    """Write the page of predictions; says whether it could be."""
    return attempt(path, lambda path: write_page(path, page_of(predicted, warnings)))


def page_of(predicted: Predicted, warnings: Sequence[str]) -> InteractivePage:
    """What the page shows; the volumes of it are read once more."""
    calibration = predicted.checkpoint["calibration"]
    rows = rows_to_show(groups(predicted.table), SEED)
    shown = [(predicted.inputs[row], predicted.preprocessing) for row in rows.tolist()]
    clusters = of_unknown(predicted.clusters)
    slices = np.stack([*in_threads(_slices, shown, "slices")])
    embeddings = predicted.embeddings[rows]
    release(predicted.embeddings)
    return InteractivePage(
        predicted.table,
        rows,
        map_places(embeddings, SEED),
        slices,
        calibration.score,
        calibration.threshold,
        notes(predicted),
        (
            *map(sentence, warnings),
            *enrolment_warnings(enrolled_classes(predicted)),
            *what_they_may_follow(clusters),
        ),
        remarks=remarks(clusters),
        stars=star_texts(predicted, rows),
        inverted=predicted.preprocessing.contrast == "dark",
        unstable=unstable(clusters),
    )


def _slices(given: tuple[Input, Preprocessing]) -> np.ndarray:
    """The slices of a volume."""
    return central_slices(prepare(*given).image)


def map_places(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Embeddings (N, E) in the plane, (N, 2): by UMAP, or of few by their first principal components."""
    if len(embeddings) >= FEW:
        from report.pictures import umap_points  # here, as matplotlib takes a second

        return umap_points(embeddings, seed)
    left, spread, _ = np.linalg.svd(embeddings - embeddings.mean(axis=0), full_matrices=False)
    components = (left * spread)[:, :2]
    return np.pad(components, ((0, 0), (0, 2 - components.shape[1])))


def star_texts(predicted: Predicted, shown: np.ndarray) -> tuple[StarText, ...]:
    """The STAR files that particles came from, with the lines of the rows `shown`; those that differ in nothing but the
    rows of particles are one."""
    same: dict[tuple[str, str], list[tuple[str, dict[int, str]]]] = {}
    for source in star_sources(predicted)[0]:  # what could not be read is told with predictions.star
        places = np.flatnonzero(np.isin(source.numbers, shown))
        blocks = {**source.blocks, source.block: source.blocks[source.block].iloc[places]}
        head, lines, tail = star_lines(source.path, blocks, source.block, source.version)
        rows = dict(zip(source.numbers[places].tolist(), lines, strict=True))
        same.setdefault((head, tail), []).append((source.path.name, rows))
    made = []
    for (head, tail), files in same.items():
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        made.append(
            StarText(files[0][0] + more, head, {row: line for _, rows in files for row, line in rows.items()}, tail)
        )
    return tuple(made)


def notes(predicted: Predicted) -> tuple[str, ...]:
    """What the predictions mean, in sentences."""
    calibration = predicted.checkpoint["calibration"]
    means = "Unknown means that the score, which is higher the more a particle is like the known ones "
    means += f"({calibration.score}), is below "
    if calibration.class_thresholds is None:
        refused = refused_at_most(calibration.n, calibration.false_rejection_rate)
        means += f"{calibration.threshold:.3f}. So it is for {refused}, which would be called unknown by mistake."
    else:
        means += "the threshold of the nearest class. Each class has its own, and scores are moved so that "
        means += f"{calibration.threshold:.3f} is every class's."
    trusted, clusters = trust(predicted.checkpoint), predicted.clusters
    none = f"No clusters were sought among {clusters.reason}." if isinstance(clusters, NotClustered) else ""
    new = enrolment_notes(enrolled_classes(predicted))
    return tuple(filter(None, (means, f"{sentence(trusted)}.", *new, none)))


def sentence(text: str) -> str:
    """A text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def enrolled_classes(predicted: Predicted) -> list[EnrolledClass]:
    """The classes that were enrolled, now or when the checkpoint was made, and how sure they are."""
    return [EnrolledClass(**one) for one in predicted.checkpoint["config"].get("enrolled", [])]


def remarks(clusters: list[UnknownCluster]) -> dict[str, str]:
    """What is said of each cluster, by its name."""
    return {found.cluster: _remark(found) for found in clusters}


def _remark(found: UnknownCluster) -> str:
    """What is said of one."""
    stable = "" if found.stable else " (not stable)"
    nearest = f"nearest known class {found.nearest_class}, cosine {found.nearest_cosine:.2f}"
    size = f"{found.particles:,} {plural('particle', found.particles)} in all"
    return f"{size}, stability {found.stability:.2f}{stable}, {nearest}"
