"""The pictures of an open-set report, from its figures and the embedded particles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from evaluation.clusters import STABLE
from evaluation.embedded import Embedded, class_means
from evaluation.sections import Evaluated
from evaluation.verification import Pairs
from loader.columns import snr_text
from report import pictures
from report.attempt import attempt
from report.page import Picture

MOST_MEDOIDS = 12  # clusters on the contact sheet
MOST_POINTS = 1500  # particles on the map
MOST_LEVELS = 8  # SNR levels with a curve


def _attempt(picture: Picture, draw: Callable[[Path], None]) -> list[Picture]:
    return [picture] if attempt(picture.path, draw) else []


def draw_set(folder: Path, of: Evaluated, seen_seen: Pairs) -> list[Picture]:
    """ROC curves, score histograms and similarity of class means of one unseen set.

    Args:
        seen_seen: verification of known pairs.
    """
    rejection = of.part.rejection
    score, threshold = rejection.default_score, rejection.threshold

    def scores(path: Path) -> None:
        title = f"Known or unknown? AUROC {rejection.default.overall.auroc.value:.3f}"
        values = {"known classes": of.known.scores[score], "unseen classes": of.unseen.scores[score]}
        pictures.score_histograms(path, values, threshold, f"{score} (higher is more known)", title)

    def similarity(path: Path) -> None:
        (known_names, known_means), (unseen_names, unseen_means) = (
            class_means(of.known.rows),
            class_means(of.unseen.rows),
        )
        means = np.concatenate([known_means, unseen_means])
        pictures.similarity_matrix(path, means @ means.T, known_names + unseen_names, len(known_names))

    roc = Picture(
        folder / f"{of.name}_roc.png",
        "Pairs of particles, same class or different: the further up and left, the better. Right: few false accepts.",
        "verification",
    )
    histograms = Picture(
        folder / f"{of.name}_scores.png",
        "Scores of known and unseen particles. Left of the dashed line a particle is called unknown.",
        "rejection",
    )
    classes = sum(len(np.unique(side.rows.classes)) for side in (of.known, of.unseen))
    some = f" Of {classes} classes, the {pictures.MOST_CLASSES} most alike." if classes > pictures.MOST_CLASSES else ""
    matrix = Picture(
        folder / f"{of.name}_similarity.png",
        f"How alike the mean embeddings of the classes are. Off the diagonal, red is easily confused.{some}",
        "per_class",
    )
    drawn = _attempt(roc, lambda path: _draw_roc(path, of, seen_seen))
    return drawn + _attempt(histograms, scores) + _attempt(matrix, similarity)


def _draw_roc(path: Path, of: Evaluated, seen_seen: Pairs) -> None:
    verification = of.part.verification
    entries = {
        "unseen-unseen": verification.overall.unseen_unseen,
        "seen-unseen": verification.overall.seen_unseen,
        "seen-seen": seen_seen,
    }
    levels = [*verification.per_snr.items()][:MOST_LEVELS]
    entries |= {f"unseen-unseen, {snr_text(level)}": figures.unseen_unseen for level, figures in levels}
    curves = {
        f"{label} (AUC {pairs.auc.value:.3f})": (pairs.roc.far, pairs.roc.val)
        for label, pairs in entries.items()
        if pairs.roc
    }
    pictures.roc_curves(path, curves, f"Same class or different? {of.name}.csv")


def draw_medoids(path: Path, of: Evaluated, images: tuple[torch.Tensor, torch.Tensor]) -> list[Picture]:
    """The most central particle of each cluster of those called unknown; none where no cluster was found.

    Args:
        images: volumes (N_known, 1, D, H, W) and (N_unseen, 1, D, H, W).
    """
    found = of.part.discovery.overall.rejected.found
    if not found or not found.clusters.value:
        return []
    clusters = sorted(found.per_cluster, key=lambda one: -one.n)[:MOST_MEDOIDS]

    def draw(path: Path) -> None:
        rejection = of.part.rejection
        scores = np.concatenate([side.scores[rejection.default_score] for side in (of.known, of.unseen)])
        rows = np.flatnonzero(scores < rejection.threshold)  # the rows that were clustered, in their order
        titles = [f"{one.n} particles\n{one.purity:.0%} {one.class_}\n{_stability(one.stability)}" for one in clusters]
        known, chosen = len(images[0]), rows[[one.medoid for one in clusters]]
        volumes = [images[0][row] if row < known else images[1][row - known] for row in chosen]
        title = "Clusters of the particles called unknown: the most central of each"
        pictures.contact_sheet(path, torch.cat(volumes).numpy(), titles, title)

    number = found.clusters.value
    some = f" The {len(clusters)} largest of {number} clusters." if number > len(clusters) else ""
    caption = f"The most central particle of each cluster among those called unknown; three directions.{some}"
    return _attempt(Picture(path, caption, "discovery"), draw)


def _stability(value: float) -> str:
    """How stable a cluster is, in two lines where it is not."""
    return f"stability {value:.2f}" + ("" if value >= STABLE else "\nnot stable")


def draw_map(path: Path, known: Embedded, unseen: list[Embedded], seed: int) -> list[Picture]:
    """The map of known and all unseen particles, at most MOST_POINTS of them."""
    everything = known
    for rows in unseen:
        everything = everything.join(rows)
    is_known = np.arange(len(everything)) < len(known)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(everything))[:MOST_POINTS])
    shown = everything.keep(chosen)
    classes, most = len(np.unique(shown.classes)), pictures.MOST_CLASSES
    some = f" Of {classes} classes, the {most} with the most volumes are named." if classes > most else ""
    caption = f"Map of the embeddings of {len(shown)} volumes: near ones are alike. Distances far apart mean little."

    def draw(path: Path) -> None:
        points = pictures.umap_points(shown.embeddings, seed)
        pictures.embedding_map(path, points, shown.classes, is_known[chosen])

    return _attempt(Picture(path, caption + some, "map"), draw)
