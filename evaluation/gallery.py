"""The pictures of an open-set report, from its figures and the embedded particles; each is a file and a caption."""

from pathlib import Path

import numpy as np
import torch

from evaluation import figures
from evaluation.sections import Embedded, class_means
from loader.columns import snr_text

MOST_MEDOIDS = 12  # clusters on the contact sheet
MOST_POINTS = 1500  # particles on the map


def draw_set(
    folder: Path,
    name: str,
    part: dict,
    seen_seen: dict,
    known: Embedded,
    unseen: Embedded,
    scores: tuple[np.ndarray, np.ndarray],
) -> list[tuple[Path, str]]:
    """ROC curves, score histograms and similarity of class means of one unseen set.

    Args:
        part: the set's part of the report; seen_seen: verification of known pairs.
        scores: the default score of the known rows and of the unseen rows.
    """
    verification, rejection = part["verification"], part["rejection"]
    entries = {"unseen-unseen": verification["unseen_unseen"], "seen-unseen": verification["seen_unseen"]}
    entries["seen-seen"] = seen_seen
    entries |= {f"unseen-unseen, {snr_text(entry['snr'])}": entry["unseen_unseen"] for entry in verification["per_snr"]}
    curves = {
        f"{label} (AUC {entry['auc']:.3f})": (entry["roc"]["far"], entry["roc"]["val"])
        for label, entry in entries.items()
        if entry["roc"]
    }
    paths = [folder / f"{name}_{picture}.png" for picture in ("roc", "scores", "similarity")]
    figures.roc_curves(paths[0], curves, f"Same class or different? {name}.csv")
    score = rejection["default_score"]
    figures.score_histograms(
        paths[1],
        {"known classes": scores[0], "unseen classes": scores[1]},
        rejection["threshold"],
        f"{score} (higher is more known)",
        f"Known or unknown? AUROC {rejection['scores'][score]['auroc']:.3f}",
    )
    (known_names, known_means), (unseen_names, unseen_means) = class_means(known), class_means(unseen)
    means = np.concatenate([known_means, unseen_means])
    figures.similarity_matrix(paths[2], means @ means.T, known_names + unseen_names, len(known_names))
    captions = (
        "Pairs of particles, same class or different: the further up and left, the better. Right: few false accepts.",
        "Scores of known and unseen particles. Left of the dashed line a particle is called unknown.",
        "How alike the mean embeddings of the classes are. Off the diagonal, red is easily confused.",
    )
    return list(zip(paths, captions, strict=True))


def draw_medoids(
    path: Path, part: dict, images: tuple[torch.Tensor, torch.Tensor], rejected: tuple[np.ndarray, np.ndarray]
) -> list[tuple[Path, str]]:
    """The most central particle of each cluster of those called unknown; none where no cluster was found.

    Args:
        images: volumes (N_known, 1, D, H, W) and (N_unseen, 1, D, H, W).
        rejected: (N_known,) and (N_unseen,) bool, whether a row was called unknown.
    """
    found = part["discovery"]["rejected"]
    method = next((name for name in ("hdbscan", "gaussian_mixture") if found[name] and found[name]["clusters"]), None)
    if method is None:
        return []
    rows = np.flatnonzero(np.concatenate(rejected))  # the rows that were clustered, in their order
    clusters = sorted(found[method]["per_cluster"], key=lambda entry: -entry["n"])[:MOST_MEDOIDS]
    titles = [
        f"{entry['n']} particles\n{entry['purity']:.0%} {entry['class']}\nstability {entry['stability']:.2f}"
        for entry in clusters
    ]
    known = len(images[0])
    chosen = rows[[entry["medoid"] for entry in clusters]]
    volumes = [images[0][row] if row < known else images[1][row - known] for row in chosen]
    title = f"Clusters of the particles called unknown ({method}): the most central of each"
    figures.contact_sheet(path, torch.cat(volumes).numpy(), titles, title)
    return [
        (path, f"The most central particle of each cluster ({method}) among those called unknown; three directions.")
    ]


def draw_map(path: Path, known: Embedded, unseen: list[Embedded], seed: int) -> list[tuple[Path, str]]:
    """The map of known and all unseen particles, at most MOST_POINTS of them."""
    everything = known
    for rows in unseen:
        everything = everything.join(rows)
    is_known = np.arange(len(everything)) < len(known)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(everything))[:MOST_POINTS])
    shown = everything.keep(chosen)
    figures.embedding_map(path, shown.embeddings, shown.classes, is_known[chosen], seed)
    return [
        (
            path,
            f"Map of the embeddings of {len(shown)} volumes: near ones are alike. Distances far apart mean little.",
        )
    ]
