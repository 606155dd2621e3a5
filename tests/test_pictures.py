"""Pictures are written whole, say what they should, and leave nothing behind in matplotlib."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from report import pictures
from report.attempt import attempt


def predictions(counts: dict[str, int]) -> pictures.PredictionPage:
    """A page with slices of the first prediction."""
    rng = np.random.default_rng(0)
    return pictures.PredictionPage(
        counts, rng.random(4), 0.5, "score", [(next(iter(counts)), rng.random((2, 8, 8, 8)), ["1", "0.9"])]
    )


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that would be saved."""
    kept = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: kept.append(figure))
    return kept


def test_each_picture_is_a_readable_file_and_nothing_else_is_left(tmp_path):
    rng = np.random.default_rng(0)
    rates = [0.0, 1e-3, 0.5, 1.0]
    draw_all = {
        "confusion": lambda path: pictures.confusion_matrix(path, [[5, 0], [2, 3]], ["1bxn", "a name of some length"]),
        "roc": lambda path: pictures.roc_curves(path, {"all": (rates, rates)}, "title"),
        "scores": lambda path: pictures.score_histograms(path, {"a": rng.random(50)}, 0.3, "score", "title"),
        "flat": lambda path: pictures.score_histograms(path, {"a": np.ones(5)}, None, "score", "title"),
        "similarity": lambda path: pictures.similarity_matrix(path, np.eye(3), ["a", "b", "c"], 2),
        "sheet": lambda path: pictures.contact_sheet(path, rng.random((2, 8, 8, 8)), ["one", "two"]),
        "predictions": lambda path: pictures.prediction_page(path, predictions({"a": 3, "unknown": 1})),
    }
    for name, draw in draw_all.items():
        draw(tmp_path / f"{name}.png")
        picture = imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 200 and picture[..., :3].std() > 0.01, name
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(draw_all)


@pytest.mark.parametrize(("classes", "text"), [(1, ""), (2, "and 1 more class,"), (3, "and 2 more classes,")])
def test_the_page_of_predictions_says_how_many_classes_it_shows_no_slices_of(drawn, classes, text):
    pictures.prediction_page("page.png", predictions(dict.fromkeys("abc"[:classes], 4)))
    title = drawn[0].subfigs[1].get_suptitle()
    assert text in title and ("more" in title) == bool(text)


def test_slices_that_are_shown_inverted_are_called_so(drawn):
    for inverted in (False, True):
        pictures.prediction_page("page.png", replace(predictions({"a": 4}), inverted=inverted))
    titles = [figure.subfigs[1].get_suptitle() for figure in drawn]
    assert ["inverted: the particles are dark in their files" in title for title in titles] == [False, True]


def test_one_class_has_a_bar_as_thin_as_one_of_four(drawn):
    for names in ("a", "abcd"):
        pictures.prediction_page("page.png", predictions(dict.fromkeys(names, 4)))
    heights = [np.diff(figure.subfigs[0].axes[0].patches[0].get_window_extent().get_points()[:, 1]) for figure in drawn]
    assert heights[0] == pytest.approx(heights[1], rel=0.05)
    tops = [figure.subfigs[0].axes[0].get_ylim() for figure in drawn]
    assert tops[0] == tops[1] and tops[0][0] > tops[0][1]  # the first bar is above


@pytest.mark.parametrize(("count", "bins"), [(4, 5), (100, 10), (900, 30), (5000, 40)])
def test_a_histogram_has_about_the_square_root_of_its_number_of_bins(drawn, count, bins):
    scores = np.random.default_rng(0).normal(size=count)
    pictures.score_histograms("a.png", {"a": scores}, 0.0, "score", "title")
    (filled, _) = drawn[0].axes[0].patches
    assert len(np.unique(filled.get_xy()[:, 0])) == bins + 1


def test_the_lowest_and_the_highest_score_lie_within_the_histogram_where_they_are(drawn):
    scores = np.append(np.random.default_rng(0).normal(size=2000), [-40.0, 40.0]).astype(np.float32)
    pictures.score_histograms("a.png", {"a": scores}, 0.0, "score", "title")
    (filled, _) = drawn[0].axes[0].patches
    places, heights = filled.get_xy().T
    assert (places.min(), places.max()) == (-40, 40) and drawn[0].axes[0].get_xlim()[0] <= -40
    assert heights[places == -40].max() == pytest.approx(1 / 2002)  # one volume, not all that are lower than others


def test_pictures_do_not_touch_pyplot():
    code = "import sys; from report import pictures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_leave_their_inputs_alone(tmp_path):
    matrix, volumes = np.array([[5, 0], [2, 3]]), np.random.default_rng(0).random((1, 6, 6, 6))
    copies = matrix.copy(), volumes.copy()
    pictures.confusion_matrix(tmp_path / "a.png", matrix, ["a", "b"])
    pictures.contact_sheet(tmp_path / "b.png", volumes, ["a"])
    np.testing.assert_array_equal(matrix, copies[0])
    np.testing.assert_array_equal(volumes, copies[1])


def test_a_failed_picture_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        pictures.contact_sheet(tmp_path / "a.png", np.ones((2, 4, 4, 4)), ["one"])
    assert not list(tmp_path.iterdir())


def test_the_map_keeps_clusters_apart_and_repeats_with_its_seed(tmp_path):
    rng = np.random.default_rng(0)
    classes = np.repeat(["a", "b"], 40)
    embeddings = np.repeat(np.eye(8)[:2], 40, axis=0) + 0.05 * rng.normal(size=(80, 8))
    points = pictures.umap_points(embeddings, seed=0)
    centers = points[:40].mean(axis=0), points[40:].mean(axis=0)
    radius = np.linalg.norm(points[:40] - centers[0], axis=1).max()
    assert np.linalg.norm(centers[0] - centers[1]) > 2 * radius
    np.testing.assert_array_equal(points, pictures.umap_points(embeddings, seed=0))
    pictures.embedding_map(tmp_path / "map.png", points, classes, classes == "a")
    assert (tmp_path / "map.png").is_file()


def test_pictures_of_three_hundred_classes_stay_small_and_say_what_they_show(drawn):
    rng = np.random.default_rng(0)
    names = [f"class{number:03d}" for number in range(300)]
    matrix = np.diag(np.full(300, 9))
    matrix[299, :20] = 5  # the last class is the worst
    pictures.confusion_matrix("a.png", matrix, names)
    means = rng.normal(size=(300, 16))
    means = means / np.linalg.norm(means, axis=1, keepdims=True)
    means[299] = means[0]
    pictures.similarity_matrix("b.png", means @ means.T, names, 200)
    pictures.prediction_page("c.png", predictions(dict.fromkeys([*names, "unknown"], 4)))
    pictures.embedding_map("d.png", rng.normal(size=(900, 2)), np.repeat(names, 3), np.arange(900) < 600)
    confusion, similarity, page, embedded = drawn
    for figure in drawn:
        assert max(figure.get_size_inches()) < 19
    axes = confusion.axes[0]
    assert len(axes.get_yticklabels()) == 60 and axes.get_yticklabels()[-1].get_text() == "class299"
    assert "the 60 of 300 classes with the most mistakes" in axes.get_title()
    assert f"n = {matrix.sum()}" in axes.get_title() and f"{np.trace(matrix) / matrix.sum():.3f}" in axes.get_title()
    shown = [label.get_text() for label in similarity.axes[0].get_yticklabels()]
    assert len(shown) == 60 and shown[0] == "class000" and shown[-1] == "class299"
    assert "the 60 of 300 classes that are most alike to another" in similarity.axes[0].get_title()
    bars = page.subfigs[0].axes[0]
    assert len(bars.patches) == 60 and bars.get_yticklabels()[-1].get_text() == "unknown"
    assert "and 241 more classes, without a bar" in bars.get_title()
    assert len(embedded.legends[0].get_texts()) == 60 and len(embedded.axes[0].texts) == 60


def test_a_picture_that_fails_is_a_warning_and_leaves_none_of_an_earlier_run(tmp_path, capsys):
    path = tmp_path / "a.png"
    path.write_text("of an earlier run")
    assert not attempt(path, lambda path: pictures.contact_sheet(path, np.ones((2, 4, 4, 4)), ["one"]))
    assert "a.png could not be drawn, the figures stand without it: ValueError: zip" in capsys.readouterr().err
    assert not path.exists()
    assert attempt(path, lambda path: pictures.contact_sheet(path, np.ones((1, 4, 4, 4)), ["one"]))
    assert capsys.readouterr().err == "" and path.is_file()
