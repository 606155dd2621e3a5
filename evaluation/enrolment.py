"""Enrolment: a few particles of a new class make its prototype; are the others recognised, without any training?"""

from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import Resampling, mean_figure
from evaluation.figures import NO_FIGURE, Figure
from evaluation.rejection import unit

SHOTS = (1, 5, 20)


@dataclass(frozen=True)
class Enrolment:
    """How many particles of each new class are named, and over how many draws of these the figures are means."""

    shots: int
    episodes: int = 100


@dataclass(frozen=True)
class ShotClass:
    """The accuracy on n queries of one class, 0 to 1."""

    accuracy: Figure
    n: int


@dataclass(frozen=True)
class FewShot:
    """Accuracy from a few examples. Of a class of too few particles, or of one class alone, the figures are None, and
    `reason` says so.

    accuracy: mean over queries of the share of right episodes, 0 to 1; std: of the accuracy, over episodes.
    n: volumes, of so many `classes`; gallery: prototypes that compete, and chance: the share that guessing names right.
    seed: that the examples were drawn by.
    """

    accuracy: Figure
    std: float | None
    per_class: dict[str, ShotClass] | None
    shots: int
    episodes: int
    n: int
    classes: int
    seed: int
    gallery: int
    chance: float
    reason: str = ""


def few_shot(
    embeddings: np.ndarray,
    labels: np.ndarray,
    particles: np.ndarray,
    plan: Enrolment,
    resampling: Resampling,
    gallery: np.ndarray | None = None,
) -> FewShot:
    """Accuracy of unseen classes by prototypes of a few particles (shots) each, over many draws of these particles.

    In an episode one volume each of as many particles of every class makes that class's prototype; every volume of all
    other particles is a query, so that shot and query never share a particle.

    Args:
        embeddings: (N, E) of unseen classes.
        labels: (N,) class names.
        particles: (N,) an identity that all copies of one particle share.
        plan: shots and episodes; resampling: its seed draws the shots too.
        gallery: (C, E) prototypes of known classes that compete; a query that goes to one of them is wrong.
    """
    embeddings = unit(np.asarray(embeddings, dtype=np.float64))
    names, numbers = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    particles = np.unique(np.asarray(particles), return_inverse=True)[1]
    competitors = len(names) + (0 if gallery is None else len(gallery))
    shots, n = plan.shots, len(labels)
    given = {"shots": shots, "episodes": plan.episodes, "n": n, "classes": len(names), "seed": resampling.seed}
    given |= {"gallery": competitors, "chance": 1 / max(competitors, 1)}
    members = [np.flatnonzero(numbers == number) for number in range(len(names))]
    fewest = min((len(np.unique(particles[rows])) for rows in members), default=0)
    if fewest <= shots or competitors < 2:
        reason = f"the smallest class has {fewest} particles; more than {shots} are needed"
        if competitors < 2:
            reason = "one class: there is nothing to choose"
        return FewShot(accuracy=NO_FIGURE, std=None, per_class=None, **given, reason=reason)

    rng = np.random.default_rng(resampling.seed)
    right, asked = np.zeros(len(labels)), np.zeros(len(labels))
    accuracies = []
    for _ in range(plan.episodes):
        shot_rows = [_draw_shots(rows, particles[rows], shots, rng) for rows in members]
        class_prototypes = unit(np.stack([embeddings[rows].mean(axis=0) for rows in shot_rows]))  # (K, E)
        if gallery is not None:
            class_prototypes = np.concatenate([class_prototypes, unit(gallery)])
        shown = np.zeros(particles.max() + 1, dtype=bool)
        shown[particles[np.concatenate(shot_rows)]] = True
        queries = ~shown[particles]
        hits = ((embeddings @ class_prototypes.T).argmax(axis=1) == numbers) & queries
        right += hits
        asked += queries
        accuracies.append(hits.sum() / queries.sum())
    rate = right[asked > 0] / asked[asked > 0]
    of_class, of_particle = numbers[asked > 0], particles[asked > 0]

    def of_rows(mine: np.ndarray) -> Figure:
        return mean_figure(rate[mine], of_particle[mine], resampling)

    return FewShot(
        accuracy=of_rows(np.full(len(rate), True)),
        std=float(np.std(accuracies)),
        per_class={
            str(name): ShotClass(of_rows(of_class == number), int(np.sum(of_class == number)))
            for number, name in enumerate(names)
        },
        **given,
    )


def _draw_shots(rows: np.ndarray, particles: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """One row each of `shots` different particles."""
    shuffled = rng.permutation(len(rows))
    first = np.unique(particles[shuffled], return_index=True)[1]  # one row, at random, of each particle
    return rows[shuffled[rng.choice(first, shots, replace=False)]]
