"""The parts of an open-set report, each computed for one set of embedded particles; `plain` makes JSON of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from common.progress import progress
from evaluation import rejection
from evaluation.bootstrap import Resampling, mean_figure
from evaluation.discovery import Discovered, discover
from evaluation.embedded import Embedded, Scored, View
from evaluation.enrolment import SHOTS, Enrolment, FewShot, few_shot
from evaluation.figures import BySnr, Figure
from evaluation.floors import Confound, known_correct
from evaluation.junk import JunkCalibration
from evaluation.known_unknown import Known, Rejection, pairs_of
from evaluation.ranking import rank, with_intervals
from evaluation.verification import AUTHORS, SCALE, Authors, Pairs, authors_protocol

FLOOR_PAIRS = 20_000  # pairs of each kind that the intervals of a floor's AUC rest on
T = TypeVar("T")


@dataclass(frozen=True)
class Verification:
    """Pairs of n unseen rows; and those of a known and an unseen row as the different ones (`seen_unseen`)."""

    n: int
    authors: Authors
    unseen_unseen: Pairs
    seen_unseen: Pairs


@dataclass(frozen=True)
class Enrolments:
    """A few shots of each unseen class, for every number of SHOTS: alone, and among the prototypes of known classes."""

    unseen_only: list[FewShot]
    with_known: list[FewShot]


@dataclass(frozen=True)
class Discovery:
    """Clusters of the particles that are called unknown, known ones among them, and of all unseen ones."""

    rejected: Discovered
    all_unseen: Discovered


@dataclass(frozen=True)
class PairAuc:
    """The AUC of pairs of unseen rows."""

    unseen_auc: Figure


@dataclass(frozen=True)
class Floor:
    """The figures of an unseen set that every embedding can be compared by; none where there were too few rows.

    unseen_auc: of pairs of unseen rows; five_shot: accuracy; auroc, known_accuracy: by the nearest training rows.
    """

    embedding: str
    unseen_auc: Figure
    per_snr: dict[str, PairAuc]
    five_shot: Figure
    auroc: Figure
    known_accuracy: Figure
    n_unseen: int
    n_known: int


@dataclass(frozen=True)
class FromJunk:
    """n particles of a set against junk: AUROC, and the share of them that is called junk, 0 to 1."""

    auroc: Figure
    called_junk: Figure
    n: int


@dataclass(frozen=True)
class JunkKind:
    """The share of n volumes of a kind of junk that is found, 0 to 1."""

    found: float
    n: int


@dataclass(frozen=True)
class Junk:
    """Particle or junk: n volumes of junk, the threshold of its score, the share of them that is found, 0 to 1; and
    each set of particles, by name."""

    n: int
    threshold: float
    found: Figure
    sets: dict[str, FromJunk]
    per_kind: dict[str, JunkKind]


@dataclass(frozen=True)
class UnseenSet:
    """The figures of one unseen set, of n rows; discovery: None where it was not asked for."""

    classes: list[str]
    n: int
    n_particles: int
    verification: BySnr[Verification]
    rejection: Rejection
    enrolment: BySnr[Enrolments]
    floors: list[Floor]  # the network first
    confounds: list[Confound]
    discovery: BySnr[Discovery] | None = None


@dataclass(frozen=True)
class OpenSet:
    """All that open_set.json holds.

    confidence, bootstrap, seed: of the intervals. note: on classes that were enrolled, else empty.
    valid_unseen, unseen: None where the file holds nothing; junk: None where the checkpoint tells none.
    """

    checkpoint: str
    known_classes: list[str]
    snr_convention: str
    confidence: float
    bootstrap: int
    seed: int
    known: Known
    note: str
    warnings: list[str]
    valid_unseen: UnseenSet | None = None
    unseen: UnseenSet | None = None
    junk: Junk | None = None

    @property
    def sets(self) -> dict[str, UnseenSet]:
        """The unseen sets that are there, by name, the one for the final figures first."""
        return {name: part for name in ("unseen", "valid_unseen") if (part := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Evaluated:
    """One unseen set (valid_unseen or unseen), its part of the report, and the particles of test.csv and its own."""

    name: str
    part: UnseenSet
    known: Scored
    unseen: Scored


def compute(steps: dict[str, Callable[[Resampling], Any]], resampling: Resampling) -> dict[str, Any]:
    """The result of each step, with a bar that says which is at work."""
    results = {}
    with progress("figures", total=len(steps), unit="part") as bar:
        for name, step in steps.items():
            bar.set_description(name)
            results[name] = step(resampling)
            bar.update()
    return results


def verify(unseen: Embedded, known: Embedded, resampling: Resampling) -> BySnr[Verification]:
    """Verification of unseen classes, and with seen against unseen as the different pairs; overall and per SNR."""

    def figures(unseen: Embedded, known: Embedded) -> Verification:
        sides = np.repeat([True, False], [len(known), len(unseen)])
        return Verification(
            n=len(unseen),
            authors=authors_protocol(unseen.embeddings, unseen.classes, unseen.particles, AUTHORS, resampling),
            unseen_unseen=pairs_of(unseen, SCALE, resampling),
            seen_unseen=pairs_of(known.join(unseen), SCALE, resampling, sides),
        )

    per_snr = {
        level: figures(unseen.keep(unseen.snr == level), known.keep(known.snr == level)) for level in unseen.levels()
    }
    return BySnr(figures(unseen, known), per_snr)


def enrol(unseen: Embedded, gallery: np.ndarray, resampling: Resampling) -> BySnr[Enrolments]:
    """1-, 5- and 20-shot accuracy, of unseen classes alone and among prototypes of known ones; overall and per SNR."""

    def shots(rows: Embedded, prototypes: np.ndarray | None) -> list[FewShot]:
        given = rows.embeddings, rows.classes, rows.particles
        return [few_shot(*given, Enrolment(number), resampling, prototypes) for number in SHOTS]

    return _by_snr(unseen, lambda rows: Enrolments(shots(rows, None), shots(rows, gallery)))


def _by_snr(rows: Embedded, figures: Callable[[Embedded], T]) -> BySnr[T]:
    return BySnr(figures(rows), {level: figures(rows.keep(rows.snr == level)) for level in rows.levels()})


def discovery(
    known: Embedded, unseen: Embedded, rejected: tuple[np.ndarray, np.ndarray], resampling: Resampling
) -> BySnr[Discovery]:
    """Clusters of the particles called unknown (falsely rejected knowns among them), and of all unseen ones; per SNR.

    Args:
        rejected: (N_known,) and (N_unseen,) bool, whether each row was called unknown.
    """

    def clusters(rows: Embedded) -> Discovered:
        return discover(rows.embeddings, rows.classes, rows.particles, resampling)

    called = known.keep(rejected[0]).join(unseen.keep(rejected[1]))
    share = float(rejected[0].sum() / max(len(called), 1))
    return BySnr(
        Discovery(replace(clusters(called), known_among_them=share), clusters(unseen)),
        {
            level: Discovery(*(clusters(rows.keep(rows.snr == level)) for rows in (called, unseen)))
            for level in unseen.levels()
        },
    )


def floor(view: View, name: str, resampling: Resampling) -> Floor:
    """The figures of an unseen set that every embedding can be compared by: the network's, and the floors'.

    Known accuracy and known-against-unseen AUROC are by nearest training neighbours, so that no floor is at a
    disadvantage for not being trained.
    """
    train, known, unseen = (view.sets[part] for part in ("train", "test", name))
    labels = np.unique(train.classes, return_inverse=True)[1]
    reference = train.embeddings, labels, rejection.class_neighbours(labels)
    scores = [rejection.class_knn_cosine(rows.embeddings, *reference) for rows in (known, unseen)]
    correct = known_correct(train.embeddings, train.classes, known.embeddings, known.classes)
    plan = replace(SCALE, prepare=view.prepare, resampled=FLOOR_PAIRS)
    auc = _by_snr(unseen, lambda rows: PairAuc(pairs_of(rows, plan, resampling).auc))
    return Floor(
        embedding=view.name,
        unseen_auc=auc.overall.unseen_auc,
        per_snr=auc.per_snr,
        five_shot=few_shot(unseen.embeddings, unseen.classes, unseen.particles, Enrolment(5), resampling).accuracy,
        **with_intervals(rank(*scores), (known.particles, unseen.particles), resampling, ("auroc",)),
        known_accuracy=mean_figure(correct, known.particles, resampling),
        n_unseen=len(unseen),
        n_known=len(known),
    )


def junk(
    calibration: JunkCalibration,
    embeddings: np.ndarray,
    kinds: list[str],
    sets: dict[str, Embedded],
    resampling: Resampling,
) -> Junk:
    """Particles of each set against junk: AUROC, how much junk the threshold finds, and how many particles it costs.

    Args:
        embeddings, kinds: (M, E) and (M,) of junk.
        sets: of particles, known and unseen.
    """
    scores, names = calibration.score(embeddings), np.array(kinds)
    numbers = np.arange(len(scores)) + max(int(rows.particles.max()) for rows in sets.values()) + 1
    found = scores >= calibration.threshold

    def against(rows: Embedded) -> FromJunk:
        own, particles = calibration.score(rows.embeddings), rows.particles
        ranked = with_intervals(rank(-own, -scores), (particles, numbers), resampling, ("auroc",))
        called = mean_figure(own >= calibration.threshold, particles, resampling)
        return FromJunk(**ranked, called_junk=called, n=len(rows))

    return Junk(
        n=len(scores),
        threshold=calibration.threshold,
        found=mean_figure(found, numbers, resampling),
        sets={name: against(rows) for name, rows in sets.items()},
        per_kind={
            str(kind): JunkKind(float(found[names == kind].mean()), int((names == kind).sum()))
            for kind in np.unique(names)
        },
    )
