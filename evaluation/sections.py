"""The parts of an open-set report, each for one set of embedded particles: from embeddings to a dict ready for JSON."""

from dataclasses import dataclass

import numpy as np

from evaluation import rejection
from evaluation.bootstrap import known_unknown_interval, mean_interval
from evaluation.closed_set import snr_order
from evaluation.discovery import discover
from evaluation.enrolment import SHOTS, few_shot
from evaluation.floors import known_accuracy
from evaluation.verification import authors_protocol, pairs_at_scale


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
    """Verification of unseen classes, overall and per SNR, and with seen against unseen as the different pairs."""
    both = known.join(unseen)
    is_seen = np.repeat([True, False], [len(known), len(unseen)])
    result = _verify_one(unseen, seed, n_boot, prepare)
    result["per_snr"] = [
        {"snr": level, **_verify_one(unseen.keep(unseen.snr == level), seed, n_boot, prepare)}
        for level in unseen.levels()
    ]
    result["seen_unseen"] = _scale(both, seed, n_boot, prepare, is_seen)
    return result


def known_only(known: Embedded, correct: np.ndarray, seed: int, n_boot: int) -> dict:
    """What the known classes alone say: accuracy by nearest prototype, and verification of seen-seen pairs."""
    return {
        "n": len(known),
        "prototype_accuracy": float(correct.mean()),
        "prototype_accuracy_interval": mean_interval(correct, known.particles, n_boot, seed),
        "seen_seen": _scale(known, seed, n_boot, prepare=True),
    }


def _verify_one(rows: Embedded, seed: int, n_boot: int, prepare: bool) -> dict:
    authors = authors_protocol(rows.embeddings, rows.classes, rows.particles, seed=seed, prepare=prepare)
    return {"n": len(rows), "authors": authors, "unseen_unseen": _scale(rows, seed, n_boot, prepare)}


def _scale(rows: Embedded, seed: int, n_boot: int, prepare: bool, sides: np.ndarray | None = None) -> dict:
    return pairs_at_scale(
        rows.embeddings, rows.classes, rows.particles, seed=seed, sides=sides, n_boot=n_boot, prepare=prepare
    )


def reject(
    known: Embedded,
    unseen: Embedded,
    known_scores: dict[str, np.ndarray],
    unseen_scores: dict[str, np.ndarray],
    correct: np.ndarray,
    calibration: dict,
    seed: int,
    n_boot: int,
) -> dict:
    """Known against unseen by every score; the default score also per SNR, per unseen class and at its threshold.

    Args:
        known_scores, unseen_scores: name -> (N,), as rejection.all_scores gives them.
        correct: (N_known,) bool, whether the nearest prototype of a known row is its class's.
        calibration: of the checkpoint: score, threshold, false_rejection_rate.
    """
    name, threshold = calibration["score"], calibration["threshold"]

    def figures(score: str, in_known: np.ndarray, in_unseen: np.ndarray) -> dict:
        a, b, right = known_scores[score][in_known], unseen_scores[score][in_unseen], correct[in_known]
        if not len(a) or not len(b):
            return {"reason": f"{len(a)} known and {len(b)} unseen rows", "n_known": len(a), "n_unseen": len(b)}
        measures = {
            "auroc": lambda i, j: rejection.auroc(a[i], b[j]),
            "aupr": lambda i, j: rejection.aupr(a[i], b[j]),
            "fpr95": lambda i, j: rejection.fpr95(a[i], b[j]),
            "oscr": lambda i, j: rejection.oscr(a[i], right[i], b[j]),
        }
        particles = known.particles[in_known], unseen.particles[in_unseen]
        everything = np.arange(len(a)), np.arange(len(b))
        result = {}
        for measure, statistic in measures.items():
            result[measure] = statistic(*everything)
            result[f"{measure}_interval"] = known_unknown_interval(statistic, *particles, n_boot, seed)
        return {**result, "n_known": len(a), "n_unseen": len(b)}

    all_known, all_unseen = np.full(len(known), True), np.full(len(unseen), True)
    false_rejections, detections = known_scores[name] < threshold, unseen_scores[name] < threshold
    return {
        "scores": {score: figures(score, all_known, all_unseen) for score in known_scores},
        "default_score": name,
        "closed_set_accuracy": float(correct.mean()),
        "threshold": threshold,
        "wished_false_rejection_rate": calibration["false_rejection_rate"],
        "false_rejection_rate": float(false_rejections.mean()),
        "false_rejection_rate_interval": mean_interval(false_rejections, known.particles, n_boot, seed),
        "unknown_detection_rate": float(detections.mean()),
        "unknown_detection_rate_interval": mean_interval(detections, unseen.particles, n_boot, seed),
        "per_snr": [
            {
                "snr": level,
                "false_rejection_rate": _mean(false_rejections[known.snr == level]),
                "unknown_detection_rate": _mean(detections[unseen.snr == level]),
                **figures(name, known.snr == level, unseen.snr == level),
            }
            for level in unseen.levels()
        ],
        "per_class": [
            {
                "class": str(label),
                "unknown_detection_rate": _mean(detections[unseen.classes == label]),
                "most_like": _most_like(known, unseen.keep(unseen.classes == label)),
                **figures(name, all_known, unseen.classes == label),
            }
            for label in np.unique(unseen.classes)
        ],
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _most_like(known: Embedded, unseen_class: Embedded) -> str:
    """The known class whose mean direction is nearest to that of this unseen class."""
    names, means = class_means(known)
    return names[int(np.argmax(means @ unseen_class.embeddings.mean(axis=0)))]


def class_means(rows: Embedded) -> tuple[list[str], np.ndarray]:
    """The class names, sorted, and their mean directions (K, E), length 1."""
    names, numbers = np.unique(rows.classes, return_inverse=True)
    return [str(name) for name in names], rejection.prototypes(rows.embeddings, numbers, len(names))


def enrol(unseen: Embedded, gallery: np.ndarray, seed: int, n_boot: int) -> dict:
    """1-, 5- and 20-shot accuracy, of unseen classes alone and among the prototypes of known ones, and per SNR."""

    def shots(rows: Embedded, prototypes: np.ndarray | None) -> list[dict]:
        return [
            few_shot(rows.embeddings, rows.classes, rows.particles, number, 100, seed, prototypes, n_boot)
            for number in SHOTS
        ]

    return {
        "unseen_only": shots(unseen, None),
        "with_known": shots(unseen, gallery),
        "per_snr": [
            {"snr": level, "unseen_only": shots(unseen.keep(unseen.snr == level), None)} for level in unseen.levels()
        ],
    }


def discovery(known: Embedded, unseen: Embedded, rejected: tuple[np.ndarray, np.ndarray], seed: int) -> dict:
    """Clusters of the particles called unknown (falsely rejected knowns among them), and of all unseen ones; per SNR.

    Args:
        rejected: (N_known,) and (N_unseen,) bool, whether each row was called unknown.
    """

    def clusters(rows: Embedded) -> dict:
        return discover(rows.embeddings, rows.classes, rows.particles, seed)

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


def floor(name: str, train: Embedded, known: Embedded, unseen: Embedded, seed: int, prepare: bool) -> dict:
    """The figures that every embedding can be compared by: the network's, and the floors'.

    Known accuracy and known-against-unseen AUROC are by nearest training neighbours, so that no floor is at a
    disadvantage for not being trained.
    """
    neighbours = min(rejection.NEIGHBOURS, len(train))
    scores = [rejection.knn_cosine(rows.embeddings, train.embeddings, neighbours) for rows in (known, unseen)]

    def auc(rows: Embedded) -> float | None:
        return _scale(rows, seed, 0, prepare)["auc"]

    five_shot = few_shot(unseen.embeddings, unseen.classes, unseen.particles, 5, 100, seed, n_boot=0)
    return {
        "embedding": name,
        "unseen_auc": auc(unseen),
        "unseen_auc_per_snr": [
            {"snr": level, "auc": auc(unseen.keep(unseen.snr == level))} for level in unseen.levels()
        ],
        "five_shot": five_shot["accuracy"],
        "auroc": rejection.auroc(*scores),
        "known_accuracy": known_accuracy(train.embeddings, train.classes, known.embeddings, known.classes),
        "n_unseen": len(unseen),
        "n_known": len(known),
    }
