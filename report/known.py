"""What train.py and predict.py say of the known classes: are they named right, and are they called unknown?"""

import math

import numpy as np

from common.cli import named, plural
from evaluation.rejection import MOSTLY

MOST_NAMED = 60  # classes in a line: all of them, where there are not very many


def accuracy_warning(accuracy: float, num_classes: int) -> str:
    """Says that a network names known classes hardly better than chance; empty where it does better."""
    chance = 1 / num_classes
    if num_classes < 2 or accuracy >= min(2 * chance, (1 + chance) / 2):
        return ""
    return (
        f"{accuracy:.0%} of the validation volumes of known classes are named right (chance {chance:.0%}): too little "
        "for the network's answers to mean anything; train longer, or with more volumes"
    )


def refused_at_most(count: int, rate: float) -> str:
    """Of how many of `count` validation volumes a threshold that was set at a false-rejection rate is above, in words.

    A threshold stands at one of their scores, so that of few volumes it may be above none.
    """
    share = f"at most {rate:.0%}" if _refusable(count, rate) else "none"
    return f"{share} of the {count} validation {plural('volume', count)} of known classes"


def few_warning(count: int, rate: float) -> str:
    """Says that a threshold set at a rate can call no validation volume unknown; empty where it can, or is to."""
    if not rate or _refusable(count, rate):
        return ""
    return (
        f"{count} validation {plural('volume', count)}: --false-rejection-rate {rate:g} rejects none of fewer than "
        f"{math.ceil(1 / rate - 1e-9)}, so the threshold for unknowns is the lowest score of all; more particles, "
        "or a larger share of them for validation (csv_split.py --fractions), make it surer"
    )


def _refusable(count: int, rate: float) -> int:
    """How many of `count` validation volumes may be called unknown at a rate."""
    return int(count * rate + 1e-9)


def refusal_text(rates: np.ndarray, classes: list[str]) -> str:
    """The false-rejection rate of each known class in words, the highest first, and the rest together.

    Args:
        rates: (C,), as `class_false_rejection` of a calibration, or `class_rates` of other volumes.
    """
    order = np.argsort(-rates, kind="stable")  # NaN, of a class without a row, is last
    measured, empty = np.split(order, [np.isfinite(rates).sum()])
    parts = [f"{classes[index]} {rates[index]:.0%}" for index in measured[:MOST_NAMED]]
    rest = rates[measured[MOST_NAMED:]]
    parts += [f"the other {len(rest)} at most {rest[0]:.0%}"] if len(rest) else []
    parts += [f"no volumes of {named((classes[index] for index in empty), MOST_NAMED)}"] if len(empty) else []
    return ", ".join(parts)


def refusal_warning(rates: np.ndarray, classes: list[str]) -> str:
    """Says which known classes are mostly called unknown; empty where none is. Arguments as of `refusal_text`."""
    refused = [index for index in np.argsort(-rates, kind="stable") if rates[index] > MOSTLY]
    if not refused:
        return ""
    names = named((f"{classes[index]} ({rates[index]:.0%})" for index in refused), MOST_NAMED)
    return (
        f"most volumes of these known classes are called unknown: {names}; too few volumes trained them, or these "
        "differ too much: train on more of them, or leave the classes out"
    )
