"""What is said of the known classes, in words."""

import numpy as np
import pytest

from evaluation.rejection import fit_threshold
from report.known import (
    MOST_NAMED,
    accuracy_warning,
    few_warning,
    refusal_text,
    refusal_warning,
    refused_at_most,
)


def test_refusals_are_told_from_the_highest_and_warned_of_above_a_half():
    rates = np.array([0.0, 0.5, 1.0])
    assert refusal_text(rates, ["a", "b", "c"]) == "c 100%, b 50%, a 0%"
    assert refusal_text(np.array([np.nan, 0.5]), ["a", "b"]) == "b 50%, no volumes of a"
    assert "called unknown: c (100%); too few" in refusal_warning(rates, ["a", "b", "c"])
    assert refusal_warning(rates[:2], ["a", "b"]) == ""


def test_every_known_class_is_named_but_where_there_are_very_many():
    rates = np.linspace(1, 0, MOST_NAMED)
    names = [f"class{number}" for number in range(MOST_NAMED)]
    assert refusal_text(rates, names).count("class") == refusal_text(rates, names).count("%") == MOST_NAMED >= 60
    more = np.linspace(1, 0, 2 * MOST_NAMED + 5)
    names = [f"class{number}" for number in range(len(more))]
    assert refusal_text(more, names).endswith(f"the other {MOST_NAMED + 5} at most {more[MOST_NAMED]:.0%}")
    assert refusal_text(more, names).count("class") == MOST_NAMED
    refused = int((more > 0.5).sum())
    assert f"and {refused - MOST_NAMED} more; too few" in refusal_warning(more, names)
    assert refusal_text(np.full(len(more), np.nan), names).endswith(f"and {len(more) - MOST_NAMED} more")


@pytest.mark.parametrize(("accuracy", "classes", "said"), [(0.6, 3, True), (0.7, 3, False), (0.19, 10, True)])
def test_a_network_hardly_better_than_chance_is_warned_of(accuracy, classes, said):
    warning = accuracy_warning(accuracy, classes)
    assert (f"(chance {1 / classes:.0%}): too little" in warning) == said == bool(warning)


def test_of_one_class_there_is_no_chance_to_beat():
    assert accuracy_warning(0.0, 1) == ""


@pytest.mark.parametrize(("count", "rate"), [(12, 0.05), (19, 0.05), (20, 0.05), (6, 0.15), (7, 0.15), (30, 0.0)])
def test_few_validation_volumes_are_warned_of_where_the_threshold_is_above_none_of_them(count, rate):
    scores = np.random.default_rng(count).normal(size=count)
    below = int(np.sum(scores < fit_threshold(scores, rate)))
    said = f"at most {rate:.0%}" if below else "none"
    assert refused_at_most(count, rate) == f"{said} of the {count} validation volumes of known classes"
    warned = few_warning(count, rate)
    assert bool(warned) == (not below and rate > 0)
    assert not warned or f"{count} validation volumes: --false-rejection-rate {rate:g} rejects none" in warned
