"""The parts of an open-set report, each for one set of embedded particles: from embeddings to a dict ready for JSON."""

from dataclasses import dataclass

import numpy as np

from evaluation import rejection
from evaluation.bootstrap import interval, known_unknown_weights, mean_interval
from evaluation.discovery import discover
from evaluation.enrolment import SHOTS, few_shot
from evaluation.floors import known_correct
from evaluation.verification import authors_protocol, pairs_at_scale
from loader.columns import snr_order

FLOOR_PAIRS = 20_000  # pairs of each kind that the intervals of a floor's AUC rest on


@dataclass(frozen=True)
class Embedded:
    """Embedded particles: embeddings (N, E), and of each its class name, particle and SNR level, all (N,)."""

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


def verify(unseen: Embedded, known: Embedded, seed: int, n_boot: int, prepare: bool = True) -> dict:
    """Verification of unseen classes, and with seen against unseen as the different pairs; overall and per SNR."""

    def figures(unseen: Embedded, known: Embedded) -> dict:
        sides = np.repeat([True, False], [len(known), len(unseen)])
        return {
            "n": len(unseen),
            "authors": authors_protocol(
                unseen.embeddings, unseen.classes, unseen.particles, seed=seed, prepare=prepare, n_boot=n_boot
            ),
            "unseen_unseen": _scale(unseen, seed, n_boot, prepare),
            "seen_unseen": _scale(known.join(unseen), seed, n_boot, prepare, sides),
        }

    per_snr = [
        {"snr": level, **figures(unseen.keep(unseen.snr == level), known.keep(known.snr == level))}
        for level in unseen.levels()
    ]
    return {**figures(unseen, known), "per_snr": per_snr}


def known_only(known: Embedded, correct: np.ndarray, seed: int, n_boot: int) -> dict:
    """What the known classes say alone: accuracy by nearest prototype, and seen-seen pairs; overall and per SNR."""

    def figures(chosen: np.ndarray) -> dict:
        rows = known.keep(chosen)
        return {
            "n": len(rows),
            "prototype_accuracy": float(correct[chosen].mean()),
            "prototype_accuracy_interval": mean_interval(correct[chosen], rows.particles, n_boot, seed),
            "seen_seen": _scale(rows, seed, n_boot, prepare=True),
        }

    per_snr = [{"snr": level, **figures(known.snr == level)} for level in known.levels()]
    return {**figures(np.full(len(known), True)), "per_snr": per_snr}


def _scale(
    rows: Embedded, seed: int, n_boot: int, prepare: bool, sides: np.ndarray | None = None, **options: int
) -> dict:
    options |= {"seed": seed, "sides": sides, "n_boot": n_boot, "prepare": prepare}
    return pairs_at_scale(rows.embeddings, rows.classes, rows.particles, **options)


def reject(
    known: Embedded,
    unseen: Embedded,
    known_scores: dict[str, np.ndarray],
    unseen_scores: dict[str, np.ndarray],
    correct: np.ndarray,
    calibration: rejection.Calibration,
    seed: int,
    n_boot: int,
) -> dict:
    """Known against unseen by every score, overall, per SNR and per unseen class; and the default at its threshold.

    Args:
        known_scores, unseen_scores: name -> (N,), as rejection.all_scores gives them.
        correct: (N_known,) bool, whether the nearest prototype of a known row is its class's.
        calibration: of the checkpoint.
    """
    name, threshold = calibration.score, calibration.threshold
    everywhere = np.full(len(known), True), np.full(len(unseen), True)
    levels = {level: (known.snr == level, unseen.snr == level) for level in unseen.levels()}
    classes = {str(label): (everywhere[0], unseen.classes == label) for label in np.unique(unseen.classes)}

    def figures(score: str, in_known: np.ndarray, in_unseen: np.ndarray) -> dict:
        a, b = known_scores[score][in_known], unseen_scores[score][in_unseen]
        counts = {"n_known": len(a), "n_unseen": len(b)}
        if not len(a) or not len(b):
            return {"reason": f"{len(a)} known and {len(b)} unseen rows", **counts}
        particles = known.particles[in_known], unseen.particles[in_unseen]
        return _with_intervals(rejection.rank(a, b, correct[in_known]), particles, n_boot, seed) | counts

    def rates(in_known: np.ndarray, in_unseen: np.ndarray) -> dict:
        rejected = {
            "false_rejection_rate": (known_scores[name] < threshold, known.particles, in_known),
            "unknown_detection_rate": (unseen_scores[name] < threshold, unseen.particles, in_unseen),
        }
        result = {}
        for rate, (values, particles, chosen) in rejected.items():
            some = chosen.any()
            result[rate] = float(values[chosen].mean()) if some else None
            result[f"{rate}_interval"] = (
                mean_interval(values[chosen], particles[chosen], n_boot, seed) if some else None
            )
        return result

    def of_class(label: str) -> dict:
        detected = {key: value for key, value in rates(*classes[label]).items() if key.startswith("unknown")}
        return {"class": label, "most_like": _most_like(known, unseen.keep(classes[label][1])), **detected}

    scores = {
        score: figures(score, *everywhere)
        | {"per_snr": [{"snr": level, **figures(score, *rows)} for level, rows in levels.items()]}
        | {"per_class": [{"class": label, **figures(score, *rows)} for label, rows in classes.items()]}
        for score in known_scores
    }
    return {
        "scores": scores,
        "default_score": name,
        "closed_set_accuracy": float(correct.mean()),
        "threshold": threshold,
        "wished_false_rejection_rate": calibration.false_rejection_rate,
        **rates(*everywhere),
        "per_snr": [{"snr": level, **rates(*rows)} for level, rows in levels.items()],
        "per_class": [of_class(label) for label in classes],
    }


def _with_intervals(
    ranking: rejection.Ranking,
    particles: tuple[np.ndarray, np.ndarray],
    n_boot: int,
    seed: int,
    names: tuple[str, ...] = ("auroc", "aupr", "fpr95", "oscr"),
) -> dict:
    """Some measures of ranked rows, each with its interval over particles, those of known and of unseen rows."""
    drawn = [rejection.measures(ranking, weights) for weights in known_unknown_weights(*particles, n_boot, seed)]
    result = {}
    measured = rejection.measures(ranking)
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


def enrol(unseen: Embedded, gallery: np.ndarray, seed: int, n_boot: int) -> dict:
    """1-, 5- and 20-shot accuracy, of unseen classes alone and among prototypes of known ones; overall and per SNR."""

    def shots(rows: Embedded, prototypes: np.ndarray | None) -> list[dict]:
        return [
            few_shot(rows.embeddings, rows.classes, rows.particles, number, 100, seed, prototypes, n_boot)
            for number in SHOTS
        ]

    def figures(rows: Embedded) -> dict:
        return {"unseen_only": shots(rows, None), "with_known": shots(rows, gallery)}

    per_snr = [{"snr": level, **figures(unseen.keep(unseen.snr == level))} for level in unseen.levels()]
    return {**figures(unseen), "per_snr": per_snr}


def discovery(
    known: Embedded, unseen: Embedded, rejected: tuple[np.ndarray, np.ndarray], seed: int, n_boot: int
) -> dict:
    """Clusters of the particles called unknown (falsely rejected knowns among them), and of all unseen ones; per SNR.

    Args:
        rejected: (N_known,) and (N_unseen,) bool, whether each row was called unknown.
    """

    def clusters(rows: Embedded) -> dict:
        return discover(rows.embeddings, rows.classes, rows.particles, seed, n_boot)

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


def floor(name: str, train: Embedded, known: Embedded, unseen: Embedded, seed: int, n_boot: int, prepare: bool) -> dict:
    """The figures that every embedding can be compared by: the network's, and the floors'.

    Known accuracy and known-against-unseen AUROC are by nearest training neighbours, so that no floor is at a
    disadvantage for not being trained.
    """
    labels = np.unique(train.classes, return_inverse=True)[1]
    reference = train.embeddings, labels, rejection.class_neighbours(labels)
    scores = [rejection.class_knn_cosine(rows.embeddings, *reference) for rows in (known, unseen)]
    particles = known.particles, unseen.particles
    correct = known_correct(train.embeddings, train.classes, known.embeddings, known.classes)
    five_shot = few_shot(unseen.embeddings, unseen.classes, unseen.particles, 5, 100, seed, n_boot=n_boot)

    def auc(rows: Embedded) -> dict:
        found = _scale(rows, seed, n_boot, prepare, bootstrap_pairs=FLOOR_PAIRS)
        return {"unseen_auc": found["auc"], "unseen_auc_interval": found["auc_interval"]}

    return {
        "embedding": name,
        **auc(unseen),
        "per_snr": [{"snr": level, **auc(unseen.keep(unseen.snr == level))} for level in unseen.levels()],
        "five_shot": five_shot["accuracy"],
        "five_shot_interval": five_shot["accuracy_interval"],
        **_with_intervals(rejection.rank(*scores), particles, n_boot, seed, ("auroc",)),
        "known_accuracy": float(correct.mean()),
        "known_accuracy_interval": mean_interval(correct, known.particles, n_boot, seed),
        "n_unseen": len(unseen),
        "n_known": len(known),
    }
