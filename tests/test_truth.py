"""Predictions beside the truth."""

import numpy as np
import pandas as pd

from report.truth import truth_text


def test_each_class_tells_how_many_are_named_right_and_wrong_and_what_is_not_known_is_right_as_junk_alone():
    rows = [
        ("a", "a", np.nan), ("a", "b", ""), ("a", "unknown", ""), ("b", "b", ""), ("new", "new", ""),
        ("junk", "unknown", "cluster_2"), ("junk", "unknown", "cluster_1"), ("junk", "unknown", "cluster_2"),
        ("junk", "a", np.nan), ("junk", "junk", np.nan),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["Actual Label", "Prediction", "Cluster"], index=range(7, 17))
    heading, *lines = truth_text(table, ["a", "b"]).splitlines()
    assert heading.split() == ["particles", "named", "right", "named", "wrong", "unknown,", "most", "of", "them", "in"]
    assert [line.split() for line in lines] == [
        ["a", "known", "3", "1", "1", "1"],
        ["b", "known", "1", "1", "0", "0"],
        ["junk", "not", "known", "5", "1", "1", "3", "2", "cluster_2"],
        ["new", "not", "known", "1", "-", "1", "0"],
    ]
