"""Clusters of the particles that are called unknown: two columns of the table, and what is said of each cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from common.cli import plural
from evaluation.clusters import STABLE, Clusters, find_clusters, nearest_classes
from evaluation.communities import NOISE, SMALLEST_CLUSTER
from evaluation.factors import Followed, edge_distance, followed
from loader.columns import (
    CLUSTER,
    INPUT,
    NEAREST_CLUSTER,
    PARTICLE,
    POSITION,
    RUNNER_UP_COSINE,
    SNR,
    SOURCE_FILE,
    TOMOGRAM,
    cluster_name,
    snr_value,
)
from prediction.parts import Embedded
from prediction.predicted import MayFollow, NotClustered, Predicted, UnknownCluster, UnknownClusters

if TYPE_CHECKING:
    import pandas as pd

SEED = 0  # of everything that clustering draws
MOST_NAMED = 3  # groups in a line
SIZE = "brightness or size"  # the factor of `central_brightness`
OF_SIZE = (
    ". This is how bright the middle of a volume is, in which a true new class that is larger or smaller than the "
    "others differs too"
)


def clustered(predicted: Predicted, embedded: Embedded) -> Predicted:
    """The same with the columns Cluster and Nearest Cluster, and with `clusters`, which goes into predictions.json.

    Copies of one particle, volumes of one name in the column Particle whose rows are of one file, are in one cluster
    and count once.
    """
    rows, told = predicted.unknown, predicted.inputs.table
    particles = particle_numbers(told[[SOURCE_FILE, PARTICLE]].iloc[rows])
    count = int(particles.max(initial=-1) + 1)
    found = find_clusters(predicted.embeddings, rows, SEED, particles)
    own, nearest = np.full((2, len(predicted)), "", dtype=object)
    if found is None:
        few = f"{count} unknown {plural('particle', count)}; {2 * SMALLEST_CLUSTER} are needed"
        table = with_columns(predicted.table, own, nearest)
        return replace(predicted, table=table, clusters=NotClustered(len(rows), count, few))
    labels = np.array([*map(cluster_name, range(len(found))), ""], dtype=object)  # the last: NOISE
    own[rows], nearest[rows] = labels[found.numbers], labels[found.nearest]
    factors = {name: per_particle(values[rows], particles) for name, values in factors_at_hand(told, embedded).items()}
    of_particles = found.numbers[np.unique(particles, return_index=True)[1]]
    clusters = UnknownClusters(
        n=len(rows),
        particles=count,
        in_none=int(np.sum(found.numbers == NOISE)),
        smallest=SMALLEST_CLUSTER,
        by_centres=found.by_centres,
        seed=SEED,
        found=described(found, predicted, of_particles, followed(of_particles, factors, SEED)),
    )
    return replace(predicted, table=with_columns(predicted.table, own, nearest), clusters=clusters)


def particle_numbers(told: pd.DataFrame) -> np.ndarray:
    """Particles by Source File and Particle as numbers without gaps, (N,); a volume without a name is one of its own.

    Two tables may use one name for two particles: extract.py counts the particles of a tomogram anew in each.
    """
    numbers = told.groupby([SOURCE_FILE, PARTICLE], sort=False).ngroup().to_numpy()
    own = numbers.max(initial=-1) + 1 + np.arange(len(told))
    return np.unique(np.where(told[PARTICLE] == "", own, numbers), return_inverse=True)[1]


def per_particle(values: np.ndarray, particles: np.ndarray) -> np.ndarray:
    """One value for each particle (N,) of those of its copies, (P,): of numbers the median, of text the first."""
    import pandas as pd

    grouped = pd.Series(values).groupby(particles)
    return (grouped.median() if np.issubdtype(values.dtype, np.number) else grouped.first()).to_numpy(values.dtype)


def with_columns(table: pd.DataFrame, own: np.ndarray, nearest: np.ndarray) -> pd.DataFrame:
    """The table with the names of clusters (N,) after the classes, and before what the source told."""
    table = table.copy()
    place = table.columns.get_loc(RUNNER_UP_COSINE) + 1
    table.insert(place, CLUSTER, own)
    table.insert(place + 1, NEAREST_CLUSTER, nearest)
    return table


def factors_at_hand(told: pd.DataFrame, embedded: Embedded) -> dict[str, np.ndarray]:
    """What a cluster must not follow, as far as it is known: of the volumes themselves, and of what a table told.

    The names stand in a sentence. The brightness of the centre goes with the size of a complex, so that clusters of
    true structures may differ in it.
    """
    import pandas as pd

    factors = {SIZE: embedded.brightness, "noise": embedded.noise}
    tomograms = told[TOMOGRAM].to_numpy(str)
    if len(np.unique(tomograms)) > 1:
        factors["tomogram"] = tomograms
    if told[SNR].replace("", np.nan).nunique() > 1:
        factors["SNR level"] = snr_levels(told[SNR])
    positions = told[[*POSITION]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if np.isfinite(positions).any():
        border, middle = edge_distance(positions, tomograms)
        factors |= {"distance from the tomogram's border": border, "distance from its middle along z": middle}
    return factors


def snr_levels(told: pd.Series) -> np.ndarray:
    """The levels (N,) as numbers, NaN where empty; as text, for groups, where one of them is no number."""
    values = {level: snr_value(level) for level in told.unique() if level}
    return told.to_numpy(str) if None in values.values() else told.map(values).to_numpy(float)


def in_words(found: Followed) -> str:
    """What a cluster follows, and of size that a true class may do so."""
    if found.groups:
        many = len(found.groups) > MOST_NAMED
        listed = f"{len(found.groups)} of {found.groups_there}" if many else ", ".join(found.groups)
        text = f"{found.own:.0%} of it, and {found.others:.0%} of the other unknown particles, are in {listed}"
    else:
        word, share = ("larger", found.effect) if found.effect > 0.5 else ("smaller", 1 - found.effect)
        text = f"of one of its particles and another unknown one, that of its own is {word} in {share:.0%} of pairs "
        text += f"(median {found.own:.3g}, of the others {found.others:.3g})"
    more = OF_SIZE if found.factor == SIZE else ""
    return f"it may follow the {found.factor} rather than structure: {text}{more}"


def described(
    found: Clusters, predicted: Predicted, of_particles: np.ndarray, follows: list[Followed]
) -> list[UnknownCluster]:
    """What is said of each cluster; `of_particles` (P,) is the cluster of each particle."""
    counts = np.bincount(of_particles[of_particles != NOISE], minlength=len(found))
    classes = predicted.checkpoint["classes"]
    numbers, cosines = nearest_classes(found, predicted.checkpoint["calibration"].prototypes)
    rows, addresses = predicted.unknown, predicted.table[INPUT]
    return [
        UnknownCluster(
            cluster=cluster_name(index),
            n=int(size),
            particles=int(counts[index]),
            stability=float(found.stability[index]),
            stable=bool(found.stability[index] >= STABLE),
            medoid=addresses.iloc[rows[found.medoids[index]]],
            nearest_class=classes[numbers[index]],
            nearest_cosine=float(cosines[index]),
            may_follow=[
                MayFollow(each.factor, each.effect, each.p, in_words(each)) for each in follows if each.cluster == index
            ],
        )
        for index, size in enumerate(found.sizes())
    ]
