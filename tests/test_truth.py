"""Predictions beside the truth."""

import pandas as pd

from report.truth import truth_text


def test_each_class_tells_how_many_are_named_right_and_wrong_and_what_is_not_known_is_never_right():
    truth = pd.Series(["a", "a", "a", "b", "junk", "junk", "new"], index=[3, 4, 5, 6, 7, 8, 9])
    found = pd.Series(["a", "b", "unknown", "b", "unknown", "a", "new"], index=truth.index)
    heading, *rows = truth_text(truth, found, ["a", "b"]).splitlines()
    assert heading.split() == ["particles", "named", "right", "named", "wrong", "unknown"]
    assert [row.split() for row in rows] == [
        ["a", "known", "3", "1", "1", "1"],
        ["b", "known", "1", "1", "0", "0"],
        ["junk", "not", "known", "2", "-", "1", "1"],
        ["new", "not", "known", "1", "-", "1", "0"],
    ]
    assert len({len(line) for line in (heading, *rows)}) == 1
