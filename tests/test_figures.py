"""Pictures are written whole, say what they should, and leave nothing behind in matplotlib."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from evaluation import figures


def test_each_picture_is_a_readable_file_and_nothing_else_is_left(tmp_path):
    rng = np.random.default_rng(0)
    rates = [0.0, 1e-3, 0.5, 1.0]
    drawn = {
        "confusion": lambda path: figures.confusion_matrix(path, [[5, 0], [2, 3]], ["1bxn", "a name of some length"]),
        "roc": lambda path: figures.roc_curves(path, {"all": (rates, rates)}, "title"),
        "scores": lambda path: figures.score_histograms(path, {"a": rng.random(50)}, 0.3, "score", "title"),
        "flat": lambda path: figures.score_histograms(path, {"a": np.ones(5)}, None, "score", "title"),
        "similarity": lambda path: figures.similarity_matrix(path, np.eye(3), ["a", "b", "c"], 2),
        "sheet": lambda path: figures.contact_sheet(path, rng.random((2, 8, 8, 8)), ["one", "two"]),
        "predictions": lambda path: figures.prediction_page(
            path, {"a": 3, "unknown": 1}, rng.random(4), 0.5, "score", [("a", rng.random((2, 8, 8, 8)), ["1", "0.9"])]
        ),
    }
    for name, draw in drawn.items():
        draw(tmp_path / f"{name}.png")
        picture = imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.01, name
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(drawn)


@pytest.mark.parametrize(("classes", "text"), [(1, ""), (2, "and 1 more class,"), (3, "and 2 more classes,")])
def test_the_page_of_predictions_says_how_many_classes_it_shows_no_slices_of(monkeypatch, classes, text):
    drawn = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure))
    counts = dict.fromkeys("abc"[:classes], 4)
    examples = [("a", np.random.default_rng(0).random((2, 8, 8, 8)), ["1", "0.9"])]
    figures.prediction_page("page.png", counts, np.linspace(0, 1, 4), 0.5, "score", examples)
    title = drawn[0].subfigs[1].get_suptitle()
    assert text in title and ("more" in title) == bool(text)


def test_pictures_do_not_touch_pyplot():
    code = "import sys; from evaluation import figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_leave_their_inputs_alone(tmp_path):
    matrix, volumes = np.array([[5, 0], [2, 3]]), np.random.default_rng(0).random((1, 6, 6, 6))
    copies = matrix.copy(), volumes.copy()
    figures.confusion_matrix(tmp_path / "a.png", matrix, ["a", "b"])
    figures.contact_sheet(tmp_path / "b.png", volumes, ["a"])
    np.testing.assert_array_equal(matrix, copies[0])
    np.testing.assert_array_equal(volumes, copies[1])


def test_a_failed_picture_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        figures.contact_sheet(tmp_path / "a.png", np.ones((2, 4, 4, 4)), ["one"])
    assert not list(tmp_path.iterdir())


def test_the_map_keeps_clusters_apart_and_repeats_with_its_seed(tmp_path):
    rng = np.random.default_rng(0)
    classes = np.repeat(["a", "b"], 40)
    embeddings = np.repeat(np.eye(8)[:2], 40, axis=0) + 0.05 * rng.normal(size=(80, 8))
    points = figures.umap_points(embeddings, seed=0)
    centers = points[:40].mean(axis=0), points[40:].mean(axis=0)
    radius = np.linalg.norm(points[:40] - centers[0], axis=1).max()
    assert np.linalg.norm(centers[0] - centers[1]) > 2 * radius
    np.testing.assert_array_equal(points, figures.umap_points(embeddings, seed=0))
    figures.embedding_map(tmp_path / "map.png", embeddings, classes, classes == "a", seed=0)
    assert (tmp_path / "map.png").is_file()
