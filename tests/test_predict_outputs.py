"""What predict.py says of contrast and writes of its numbers, without a network."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import predict
from evaluation.rejection import Calibration
from loader.dataset import contrast_warning
from loader.prepare import Input, Preprocessing, prepare
from prediction.outputs import save_embeddings
from prediction.predicted import Predicted, rounded


def test_embeddings_of_many_volumes_hold_their_long_names_in_few_bytes(tmp_path):
    names = [f"/data/tomogrammes_été/tomogram_{row // 10}/particle_{row}.mrc" for row in range(20_000)]
    table = pd.DataFrame({"Input Data": names, "Prediction": ["a", "unknown"] * 10_000})
    predicted = Predicted(table, np.ones((20_000, 2), np.float32), None, None, {"classes": ["a"]})
    save_embeddings(tmp_path / "e.npz", predicted, "c.pt")
    assert (tmp_path / "e.npz").stat().st_size < 20_000 * (2 * 4 + 4) + 1.2 * len("".join(names).encode())
    with np.load(tmp_path / "e.npz", allow_pickle=False) as kept:
        assert bytes(kept["inputs"]).decode().split("\0") == names
        assert kept["predictions"][:4].tolist() == [0, -1, 0, -1]


def test_rounding_moves_no_score_across_the_threshold():
    scores = [0.1234560, 0.12345609, 0.1234561, 0.12345449, 0.5]
    columns = {"Prediction": ["unknown", "unknown", "a", "unknown", "a"], "Score": scores, "Threshold": 0.1234561}
    table = rounded(pd.DataFrame(columns))
    assert set(table["Threshold"]) == {0.123456}
    assert list(table["Score"]) == [0.123455, 0.123455, 0.123456, 0.123454, 0.5]
    assert list(table["Score"] >= table["Threshold"]) == [False, False, True, False, True]


@pytest.mark.parametrize("level", ["01", "infinity"])
def test_the_contrast_of_few_volumes_is_recognised(trained, level):
    """At SNR 0.1 and without noise, known and unknown classes alike, in sixes and, for almost every one, alone."""
    names = [str(path) for path in sorted((trained / "data_").glob(f"*SNR{level}/subtomogram_mrc/*.mrc"))]
    preprocessing = Preprocessing(16, 20.0)
    found = np.array([prepare(Input(name), preprocessing).skewness for name in names])
    assert np.mean([not contrast_warning(value, "bright") for value in found]) == 1
    assert all(contrast_warning(-some, "bright") for some in np.array_split(found, len(found) // 6))
    assert np.mean([bool(contrast_warning(-value, "bright")) for value in found]) > 0.5


def test_noise_alone_is_of_neither_contrast_and_many_volumes_need_less_each():
    noise = np.random.default_rng(0).normal(size=(500, 200))
    assert sum(bool(contrast_warning(some, "bright")) for some in noise) <= 3  # 0.35 are expected
    assert not contrast_warning(np.full(100, -0.39), "bright") and contrast_warning(np.full(100, -0.41), "bright")
    assert not contrast_warning(np.full(10_000, -0.19), "bright") and contrast_warning(np.full(10_000, -0.21), "bright")
    assert contrast_warning(np.append(np.full(100, -0.41), [np.nan] * 900), "bright")
    assert not contrast_warning(np.full(3, np.nan), "bright")
    assert "look bright, not dark" in contrast_warning(np.array([-4.1]), "dark")


def test_few_validation_volumes_are_no_matter_where_each_class_has_a_threshold_of_its_own():
    own = Calibration("max_cosine", 0.5, 0.05, 18, np.eye(2), class_thresholds=np.array([0.5, 0.6]))
    assert predict.few_volumes({"calibration": own}) == ""
    assert "18 validation volumes" in predict.few_volumes({"calibration": replace(own, class_thresholds=None)})
