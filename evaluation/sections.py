"""The parts of an open-set report, each for one set of embedded particles: from embeddings to a dict ready for JSON."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.progress import progress
from evaluation import rejection
from evaluation.bootstrap import Resampling, interval, known_unknown_weights, mean_interval
from evaluation.discovery import discover
from evaluation.enrolment import SHOTS, Enrolment, few_shot
from evaluation.floors import known_correct
from evaluation.junk import JunkCalibration
from evaluation.ranking import Ranking, measures, rank
from evaluation.verification import AUTHORS, SCALE, PairPlan, authors_protocol, pairs_at_scale
from loader.columns import snr_order

FLOOR_PAIRS = 20_000  # pairs of each kind that the intervals of a floor's AUC rest on


@dataclass(frozen=True)
class Embedded:
    """Embedded particles: embeddings (N, E), and of each its class name, particle and SNR level, all (N,).

    Particles are names, or their numbers (`number_particles`), which save time.
    """

    embeddings: np.ndarray
    classes: np.ndarray
    particles: np.ndarray
    snr: np.ndarray

    def __len__(self) -> int:
        return len(self.embeddings)

    def keep(self, chosen: np.ndarray) -> "Embedded":
        """Only the chosen rows."""
        return Embedded(self.embeddings[chosen], self.classes[chosen], self.particles[chosen], self.snr[chosen])

    def join(self, other: "Embedded") -> "Embedded":
        """These rows, then the other's."""
        fields = ("embeddings", "classes", "particles", "snr")
        return Embedded(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in fields))

    def levels(self) -> list[str]:
        """The SNR levels, in order; empty when there is only one."""
        levels = sorted(np.unique(self.snr), key=snr_order)
        return levels if len(levels) > 1 else []


@dataclass(frozen=True)
class Scored:
    """Embedded particles, and every score of theirs by name, each (N,), as rejection.all_scores gives them."""

    rows: Embedded
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class View:
    """All sets of particles as one embedding sees them: the network's, or a floor's.

    sets: train, test and the unseen sets.
    prepare: whether pairs are compared as the authors do; not where all components hold meaning.
    """

    name: str
    sets: dict[str, Embedded]
    prepare: bool


@dataclass(frozen=True)
class Evaluated:
    """One unseen set (valid_unseen or unseen), its part of the report, and the particles of test.csv and its own."""

    name: str
    part: dict
    known: Scored
    unseen: Scored


def compute(steps: dict[str, Callable[[Resampling], dict]], resampling: Resampling) -> dict[str, dict]:
    """The result of each step, with a bar that says which is at work."""
    results = {}
    with progress("figures", total=len(steps), unit="part") as bar:
        for name, step in steps.items():
            bar.set_description(name)
            results[name] = step(resampling)
            bar.update()
    return results


def verify(unseen: Embedded, known: Embedded, resampling: Resampling) -> dict:
    """Verification of unseen classes, and with seen against unseen as the different pairs; overall and per SNR."""

    def figures(unseen: Embedded, known: Embedded) -> dict:
        sides = np.repeat([True, False], [len(known), len(unseen)])
        return {
            "n": len(unseen),
            "authors": authors_protocol(unseen.embeddings, unseen.classes, unseen.particles, AUTHORS, resampling),
            "unseen_unseen": _pairs(unseen, SCALE, resampling),
            "seen_unseen": _pairs(known.join(unseen), SCALE, resampling, sides),
        }

    per_snr = [
        {"snr": level, **figures(unseen.keep(unseen.snr == level), known.keep(known.snr == level))}
        for level in unseen.levels()
    ]
    return {**figures(unseen, known), "per_snr": per_snr}


def valid_rates(calibration: rejection.Calibration, classes: list[str]) -> dict[str, float]:
    """Share of each known class's validation volumes that the threshold calls unknown, where that is known."""
    rates = calibration.class_false_rejection
    named = {} if rates is None else dict(zip(classes, map(float, rates), strict=True))
    return {name: rate for name, rate in named.items() if np.isfinite(rate)}


def known_only(
    known: Embedded, correct: np.ndarray, rejected: np.ndarray, valid_rates: dict[str, float], resampling: Resampling
) -> dict:
    """What the known classes say alone: accuracy by nearest prototype, how often they are called unknown, and seen-seen
    pairs; overall, per SNR and (without pairs) per class.

    Args:
        correct, rejected: (N,) bool, whether a row's nearest prototype is its class's, and whether it is called
            unknown.
        valid_rates: share of each class's validation volumes that is called unknown; a class may be missing.
    """

    def rates(chosen: np.ndarray) -> dict:
        particles = known.particles[chosen]
        result = {"n": len(particles), "n_particles": len(np.unique(particles))}
        for name, values in (("prototype_accuracy", correct[chosen]), ("false_rejection_rate", rejected[chosen])):
            result[name] = float(values.mean())
            result[f"{name}_interval"] = mean_interval(values, particles, resampling)
        return result

    def figures(chosen: np.ndarray) -> dict:
        return {**rates(chosen), "seen_seen": _pairs(known.keep(chosen), SCALE, resampling)}

    return {
        **figures(np.full(len(known), True)),
        "per_snr": [{"snr": level, **figures(known.snr == level)} for level in known.levels()],
        "per_class": [
            {
                "class": str(name),
                **rates(known.classes == name),
                "valid_false_rejection_rate": valid_rates.get(str(name)),
            }
            for name in np.unique(known.classes)
        ],
    }


def _pairs(rows: Embedded, plan: PairPlan, resampling: Resampling, sides: np.ndarray | None = None) -> dict:
    return pairs_at_scale(rows.embeddings, rows.classes, rows.particles, plan, resampling, sides)


def reject(
    known: Scored,
    unseen: Scored,
    correct: np.ndarray,
    calibration: rejection.Calibration,
    names: list[str],
    resampling: Resampling,
) -> dict:
    """Known against unseen by every score, overall, per SNR and per unseen class; and the default at its threshold.

    Args:
        correct: (N_known,) bool, whether the nearest prototype of a known row is its class's.
        calibration: of the checkpoint; names: of its classes.
    """
    name, threshold = calibration.score, calibration.threshold
    everywhere = np.full(len(known.rows), True), np.full(len(unseen.rows), True)
    levels = {level: (known.rows.snr == level, unseen.rows.snr == level) for level in unseen.rows.levels()}
    of_unseen = unseen.rows.classes
    classes = {str(label): (everywhere[0], of_unseen == label) for label in np.unique(of_unseen)}

    def figures(score: str, in_known: np.ndarray, in_unseen: np.ndarray) -> dict:
        a, b = known.scores[score][in_known], unseen.scores[score][in_unseen]
        counts = {"n_known": len(a), "n_unseen": len(b)}
        if not len(a) or not len(b):
            return {"reason": f"{len(a)} known and {len(b)} unseen rows", **counts}
        particles = known.rows.particles[in_known], unseen.rows.particles[in_unseen]
        return _with_intervals(rank(a, b, correct[in_known]), particles, resampling) | counts

    def rates(in_known: np.ndarray, in_unseen: np.ndarray) -> dict:
        sides = {"false_rejection_rate": (known, in_known), "unknown_detection_rate": (unseen, in_unseen)}
        result = {}
        for rate, (side, chosen) in sides.items():
            some, values, particles = chosen.any(), side.scores[name] < threshold, side.rows.particles
            result[rate] = float(values[chosen].mean()) if some else None
            result[f"{rate}_interval"] = mean_interval(values[chosen], particles[chosen], resampling) if some else None
        return result

    def of_class(label: str) -> dict:
        chosen = classes[label]
        detected = {key: value for key, value in rates(*chosen).items() if key.startswith("unknown")}
        rows, called = unseen.rows.keep(chosen[1]), unseen.scores[name][chosen[1]] >= threshold
        return {"class": label, "most_like": _most_like(known.rows, rows), **taken_for(rows, called), **detected}

    def taken_for(rows: Embedded, called_known: np.ndarray) -> dict:
        nearest = rejection.classify(rows.embeddings, calibration.prototypes)[0]
        counts = np.bincount(nearest[called_known], minlength=len(names))
        most = int(counts.argmax())
        return {"taken_for": names[most] if counts[most] else None, "taken_for_rate": float(counts[most] / len(rows))}

    scores = {
        score: figures(score, *everywhere)
        | {"per_snr": [{"snr": level, **figures(score, *rows)} for level, rows in levels.items()]}
        | {"per_class": [{"class": label, **figures(score, *rows)} for label, rows in classes.items()]}
        for score in known.scores
    }
    return {
        "scores": scores,
        "default_score": name,
        "closed_set_accuracy": float(correct.mean()),
        "threshold": threshold,
        "wished_false_rejection_rate": calibration.false_rejection_rate,
        "n_calibration": calibration.n,
        **rates(*everywhere),
        "per_snr": [{"snr": level, **rates(*rows)} for level, rows in levels.items()],
        "per_class": [of_class(label) for label in classes],
    }


def _with_intervals(
    ranking: Ranking,
    particles: tuple[np.ndarray, np.ndarray],
    resampling: Resampling,
    names: tuple[str, ...] = ("auroc", "aupr", "fpr95", "oscr"),
) -> dict:
    """Some measures of ranked rows, each with its interval over particles, those of known and of unseen rows."""
    drawn = [measures(ranking, weights) for weights in known_unknown_weights(*particles, resampling)]
    result = {}
    measured = measures(ranking)
    for name in names:
        result |= {name: measured[name], f"{name}_interval": interval([draw[name] for draw in drawn])}
    return result


def _most_like(known: Embedded, unseen_class: Embedded) -> str:
    """The known class whose mean direction is nearest to that of this unseen class."""
    names, means = class_means(known)
    return names[int(np.argmax(means @ unseen_class.embeddings.mean(axis=0)))]


def class_means(rows: Embedded) -> tuple[list[str], np.ndarray]:
    """The class names, sorted, and their mean directions (K, E), length 1."""
    names, numbers = np.unique(rows.classes, return_inverse=True)
    return [str(name) for name in names], rejection.prototypes(rows.embeddings, numbers, len(names))


def enrol(unseen: Embedded, gallery: np.ndarray, resampling: Resampling) -> dict:
    """1-, 5- and 20-shot accuracy, of unseen classes alone and among prototypes of known ones; overall and per SNR."""

    def shots(rows: Embedded, prototypes: np.ndarray | None) -> list[dict]:
        given = rows.embeddings, rows.classes, rows.particles
        return [few_shot(*given, Enrolment(number), resampling, prototypes) for number in SHOTS]

    def figures(rows: Embedded) -> dict:
        return {"unseen_only": shots(rows, None), "with_known": shots(rows, gallery)}

    per_snr = [{"snr": level, **figures(unseen.keep(unseen.snr == level))} for level in unseen.levels()]
    return {**figures(unseen), "per_snr": per_snr}


def discovery(
    known: Embedded, unseen: Embedded, rejected: tuple[np.ndarray, np.ndarray], resampling: Resampling
) -> dict:
    """Clusters of the particles called unknown (falsely rejected knowns among them), and of all unseen ones; per SNR.

    Args:
        rejected: (N_known,) and (N_unseen,) bool, whether each row was called unknown.
    """

    def clusters(rows: Embedded) -> dict:
        return discover(rows.embeddings, rows.classes, rows.particles, resampling)

    called_unknown = known.keep(rejected[0]).join(unseen.keep(rejected[1]))
    return {
        "rejected": {
            **clusters(called_unknown),
            "known_among_them": float(rejected[0].sum() / max(len(called_unknown), 1)),
        },
        "all_unseen": clusters(unseen),
        "per_snr": [
            {
                "snr": level,
                "rejected": clusters(called_unknown.keep(called_unknown.snr == level)),
                "all_unseen": clusters(unseen.keep(unseen.snr == level)),
            }
            for level in unseen.levels()
        ],
    }


def floor(view: View, name: str, resampling: Resampling) -> dict:
    """The figures of an unseen set that every embedding can be compared by: the network's, and the floors'.

    Known accuracy and known-against-unseen AUROC are by nearest training neighbours, so that no floor is at a
    disadvantage for not being trained.
    """
    train, known, unseen = (view.sets[part] for part in ("train", "test", name))
    labels = np.unique(train.classes, return_inverse=True)[1]
    reference = train.embeddings, labels, rejection.class_neighbours(labels)
    scores = [rejection.class_knn_cosine(rows.embeddings, *reference) for rows in (known, unseen)]
    particles = known.particles, unseen.particles
    correct = known_correct(train.embeddings, train.classes, known.embeddings, known.classes)
    five_shot = few_shot(unseen.embeddings, unseen.classes, unseen.particles, Enrolment(5), resampling)
    plan = replace(SCALE, prepare=view.prepare, resampled=FLOOR_PAIRS)

    def auc(rows: Embedded) -> dict:
        found = _pairs(rows, plan, resampling)
        return {"unseen_auc": found["auc"], "unseen_auc_interval": found["auc_interval"]}

    return {
        "embedding": view.name,
        **auc(unseen),
        "per_snr": [{"snr": level, **auc(unseen.keep(unseen.snr == level))} for level in unseen.levels()],
        "five_shot": five_shot["accuracy"],
        "five_shot_interval": five_shot["accuracy_interval"],
        **_with_intervals(rank(*scores), particles, resampling, ("auroc",)),
        "known_accuracy": float(correct.mean()),
        "known_accuracy_interval": mean_interval(correct, known.particles, resampling),
        "n_unseen": len(unseen),
        "n_known": len(known),
    }


def junk(
    calibration: JunkCalibration,
    embeddings: np.ndarray,
    kinds: list[str],
    sets: dict[str, Embedded],
    resampling: Resampling,
) -> dict:
    """Particles of each set against junk: AUROC, how much junk the threshold finds, and how many particles it costs.

    Args:
        embeddings, kinds: (M, E) and (M,) of junk.
        sets: of particles, known and unseen.
    """
    scores, names = calibration.score(embeddings), np.array(kinds)
    numbers = np.arange(len(scores)) + max(int(rows.particles.max()) for rows in sets.values()) + 1
    found = scores >= calibration.threshold

    def against(rows: Embedded) -> dict:
        own = calibration.score(rows.embeddings)
        called, particles = own >= calibration.threshold, rows.particles
        ranked = _with_intervals(rank(-own, -scores), (particles, numbers), resampling, ("auroc",))
        lost = {
            "called_junk": float(called.mean()),
            "called_junk_interval": mean_interval(called, particles, resampling),
        }
        return ranked | lost | {"n": len(rows)}

    return {
        "n": len(scores),
        "threshold": calibration.threshold,
        "found": float(found.mean()),
        "found_interval": mean_interval(found, numbers, resampling),
        "sets": {name: against(rows) for name, rows in sets.items()},
        "per_kind": [
            {"kind": str(kind), "found": float(found[names == kind].mean()), "n": int((names == kind).sum())}
            for kind in np.unique(names)
        ],
    }
