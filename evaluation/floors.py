"""Floors: what size or brightness alone would achieve, and whether "unknown" follows something other than structure.

A floor is an embedding made of simple features, so that every figure of the network can be computed for it.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from evaluation.ranking import auroc
from loader.columns import SNR, TOMOGRAM
from loader.dataset import Split

NEIGHBOURS = 15  # of the classifier of known classes
ANGLE = 0.1  # radians a standard deviation near the mean
STRATA = 4  # equal parts of a numeric factor within which the score is looked at again
BLOBS = (0.04, 0.07, 0.11, 0.16, 0.22)  # of the box: standard deviations of the round blobs
CHUNK = 256  # volumes at once
MARGIN = 0.05  # loss of AUROC within strata that makes a warning


@dataclass(frozen=True)
class Confound:
    """A nuisance factor, and what a score has to do with it.

    in_known, in_unknown: share of the score's variance that the factor explains within each set, 0 to 1; None where it
        does not vary there. structure: the share that being known explains.
    alone: AUROC of a numeric factor by itself, taken as 0.5 or more; None for groups.
    auroc: of the score; within: the same between rows that are alike in the factor, None where known and unknown rows
        never are.
    warning: text, or None.
    """

    factor: str
    in_known: float | None
    in_unknown: float | None
    structure: float
    alone: float | None
    auroc: float
    within: float | None
    warning: str | None


def feature_embedding(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Features as directions: near ones have a high cosine, so that they can stand where embeddings stand.

    Args:
        features: (N, F).
        reference: (M, F), training rows, whose mean and standard deviation are taken off.

    Returns:
        (N, F + 1), length 1. They hold their meaning in all components: no centring by the authors' protocol.
    """
    features, reference = np.asarray(features, dtype=float), np.asarray(reference, dtype=float)
    spread = reference.std(axis=0)
    scaled = (features - reference.mean(axis=0)) / np.where(spread > 0, spread, 1)
    lifted = np.column_stack([ANGLE * scaled, np.ones(len(scaled))])  # (N, F) -> (N, F + 1)
    return lifted / np.linalg.norm(lifted, axis=1, keepdims=True)


def size_features(voxels: np.ndarray) -> np.ndarray:
    """Logarithm of the number of voxels (N,) of each mask, (N, 1): an oracle, since real data has no true masks."""
    return np.log(np.maximum(voxels, 1))[:, None]


def blob_features(images: torch.Tensor) -> np.ndarray:
    """How well round blobs of several sizes fit the middle of each volume, (N, F): size as the volume itself shows it.

    Args:
        images: (N, 1, D, D, D), mean 0 and standard deviation 1 each.

    Returns:
        The inner product with a Gaussian of mean 0 and length 1, for each of BLOBS: responses to white noise are of
        variance 1.
    """
    side = images.shape[-1]
    squares = (torch.arange(side) - (side - 1) / 2) ** 2
    distance = squares[:, None, None] + squares[None, :, None] + squares
    blobs = torch.stack([torch.exp(-0.5 * distance / (share * side) ** 2).flatten() for share in BLOBS], dim=1)
    blobs = F.normalize(blobs - blobs.mean(dim=0), dim=0)  # (D^3, F)
    return torch.cat([part.flatten(1).cpu().float() @ blobs for part in images.split(CHUNK)]).numpy()


def known_correct(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> np.ndarray:
    """Whether the vote of the nearest training embeddings (N, E) names each test row's known class, (M,) bool."""
    from sklearn.neighbors import KNeighborsClassifier  # here: open_set.py --help does without scikit-learn

    classifier = KNeighborsClassifier(min(NEIGHBOURS, len(train)), weights="distance").fit(train, train_labels)
    return classifier.predict(test) == test_labels


def explained(scores: np.ndarray, factor: np.ndarray) -> float | None:
    """The share of the variance of the scores' ranks that a factor explains, 0 to 1; None where it does not vary.

    A text factor counts by its groups (eta squared, corrected for their number), a numeric one by its ranks (Spearman's
    rho squared).
    """
    if len(np.unique(factor)) < 2 or len(np.unique(scores)) < 2:
        return None
    from scipy.stats import rankdata  # here, for the same reason

    ranks = rankdata(scores)
    if np.issubdtype(factor.dtype, np.number):
        return float(np.corrcoef(ranks, rankdata(factor))[0, 1] ** 2)
    groups = np.unique(factor, return_inverse=True)[1]
    counts = np.bincount(groups)
    if len(counts) >= len(scores):
        return None
    means = np.bincount(groups, ranks) / counts
    within = np.sum((ranks - means[groups]) ** 2) / (len(ranks) - len(counts))
    return float(max(0.0, 1 - within / ranks.var(ddof=1)))


def factors(known: Split, unseen: Split) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What "unknown" must not follow: name -> values of the known and of the unseen particles; only what varies."""
    columns = {"SNR": SNR, "tomogram": TOMOGRAM}
    result = {
        name: tuple(split.rows[column].to_numpy(str) for split in (known, unseen))
        for name, column in columns.items()
        if column in known.rows and column in unseen.rows
    }
    for number, name in enumerate(("mean intensity", "contrast (standard deviation)")):
        result[name] = known.intensity[:, number], unseen.intensity[:, number]
    return {name: values for name, values in result.items() if len(np.unique(np.concatenate(values))) > 1}


def confounds(
    known_scores: np.ndarray, unknown_scores: np.ndarray, factors: dict[str, tuple[np.ndarray, np.ndarray]]
) -> list[Confound]:
    """Does the score follow a nuisance factor instead of known against unknown?

    Args:
        known_scores, unknown_scores: (N_known,), (N_unknown,), higher is more known.
        factors: name -> values of the known and of the unknown rows, numbers or text.
    """
    scores = np.concatenate([known_scores, unknown_scores])
    is_known = np.repeat(["known", "unknown"], [len(known_scores), len(unknown_scores)])
    structure, overall = explained(scores, is_known) or 0.0, auroc(known_scores, unknown_scores)
    table = []
    for name, (known, unknown) in factors.items():
        entry = Confound(
            factor=name,
            in_known=explained(known_scores, known),
            in_unknown=explained(unknown_scores, unknown),
            structure=structure,
            alone=_alone(known, unknown),
            auroc=overall,
            within=auroc_within(known_scores, unknown_scores, known, unknown),
            warning=None,
        )
        table.append(replace(entry, warning=_warning(entry)))
    return table


def _alone(known: np.ndarray, unknown: np.ndarray) -> float | None:
    if not np.issubdtype(known.dtype, np.number):
        return None
    value = auroc(known, unknown)
    return max(value, 1 - value)


def auroc_within(
    known_scores: np.ndarray, unknown_scores: np.ndarray, known: np.ndarray, unknown: np.ndarray
) -> float | None:
    """The AUROC within groups of a factor (equal parts of a numeric one), averaged by the pairs that each group holds.

    None where no group holds both known and unknown rows.
    """
    if np.issubdtype(known.dtype, np.number):
        edges = np.quantile(np.concatenate([known, unknown]), np.arange(1, STRATA) / STRATA)
        known, unknown = np.searchsorted(edges, known), np.searchsorted(edges, unknown)
    areas, pairs = [], []
    for group in np.intersect1d(known, unknown):
        a, b = known_scores[known == group], unknown_scores[unknown == group]
        areas.append(auroc(a, b))
        pairs.append(len(a) * len(b))
    return float(np.average(areas, weights=pairs)) if areas else None


def _warning(entry: Confound) -> str | None:
    name, follows = entry.factor, max(entry.in_known or 0, entry.in_unknown or 0)
    if follows > max(entry.structure, 0.1):
        return f'"unknown" follows {name}: it explains {follows:.0%} of the score, structure {entry.structure:.0%}'
    if entry.within is None:
        return (
            f"{name} differs altogether between known and unknown particles: nothing shows which of the two is scored"
        )
    if entry.auroc - entry.within > MARGIN:
        return f'part of "unknown" is {name}: AUROC {entry.auroc:.3f}, among its like only {entry.within:.3f}'
    return None
