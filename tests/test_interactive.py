"""The page of predictions: what it holds, and what a user does with it in a browser."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evaluation.rejection import CALIBRATED
from loader.columns import CLUSTER, INPUT, NO_PARTICLE, PREDICTION, UNKNOWN
from report.facets import COLOURS, MARKERS, facets
from report.interactive import InteractivePage, StarText, groups, meaning, rows_to_show, verdict, write_page
from report.terms import SCORES, TERMS
from report.thumbnails import GAP, central_slices, jpeg_texts, side_by_side
from tests.report_page import COUNT, NAMES, SIDE, STAR, content, places, slices, star, table


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, InteractivePage]:
    """A page of 60 particles in three groups of 20, each around a place of its own; and a STAR file of 50 of them."""
    folder = tmp_path_factory.mktemp("page")
    page = InteractivePage(table(), np.arange(COUNT), places(), slices(COUNT), "knn_cosine", 0.5, stars=(star(folder),))
    write_page(folder / "report.html", page)
    return folder / "report.html", page


def picture(held: dict, row: int) -> bytes:
    """A JPEG file of the page."""
    return base64.b64decode(held["pictures"]["start"] + held["pictures"]["rests"][row])


def test_a_page_of_5000_particles_is_smaller_than_20_megabytes(tmp_path):
    many = 5000
    names = np.array(NAMES)[np.arange(many) % 3]
    rows = pd.concat([table()] * (many // COUNT + 1), ignore_index=True).head(many).assign(**{PREDICTION: names})
    spots = np.random.default_rng(0).normal(size=(many, 2))
    text = StarText("picks.star", STAR, dict.fromkeys(range(many), "TS_1  " + "00001.500  " * 25 + "\n"), "\n")
    page = InteractivePage(rows, np.arange(many), spots, slices(many, 32), "knn_cosine", 0.5, stars=(text,))
    write_page(tmp_path / "report.html", page)
    assert 5e6 < (tmp_path / "report.html").stat().st_size < 20e6


def test_the_page_asks_nothing_of_the_network(made):
    text = made[0].read_text()
    bokeh = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    assert len(bokeh) > 1e6 and "://" not in text.replace(bokeh, "")
    assert re.search(r"""http-equiv="Content-Security-Policy" content="default-src 'none'; ([^"]*)""", text)[1] == (
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    )


def test_the_same_predictions_make_the_same_bytes(made, tmp_path):
    write_page(tmp_path / "again.html", made[1])
    assert (tmp_path / "again.html").read_bytes() == made[0].read_bytes()


def test_of_many_particles_all_of_small_groups_are_shown_and_as_many_of_each_larger_one():
    names = np.repeat(["a", "b", "c", "d"], [1000, 500, 30, 7])
    rows = rows_to_show(names, seed=0, most=237)
    assert (np.diff(rows) > 0).all()
    counts = dict(zip(*np.unique(names[rows], return_counts=True), strict=True))
    assert counts == {"a": 100, "b": 100, "c": 30, "d": 7}
    np.testing.assert_array_equal(rows, rows_to_show(names, seed=0, most=237))
    assert not np.array_equal(rows, rows_to_show(names, seed=1, most=237))
    np.testing.assert_array_equal(rows_to_show(names, seed=0, most=2000), np.arange(1537))


def test_a_page_of_a_sample_says_so_and_counts_all(tmp_path):
    rows = np.array([1, 5, 20, 47, 59])
    page = InteractivePage(table(), rows, places()[rows], slices(5), "knn_cosine", 0.5, stars=(star(tmp_path),))
    write_page(tmp_path / "report.html", page)
    text, held = (tmp_path / "report.html").read_text(), content(tmp_path / "report.html")
    assert "5 of the 60 particles" in text and "40 (67%) of 60 particles are named as a known class" in text
    assert held["addresses"] == [table()[INPUT][row] for row in rows]
    (unknown,) = (value for value in held["facets"][0]["values"] if value["name"] == UNKNOWN)
    assert (unknown["count"], unknown["all"]) == (2, 20)
    assert {int(row): line.split()[1] for row, line in held["stars"][0]["rows"].items()} == {
        2: "00020.500",
        3: "00047.500",
        4: "00059.500",
    }


def test_filters_are_sorted_by_the_counts_of_all_particles_where_the_page_shows_some():
    whole = pd.DataFrame({PREDICTION: ["a"] * 3 + ["b"] * 20 + ["c"] * 7 + ["d"] + [UNKNOWN] * 2})
    rows = np.array([0, 1, 2, 5, 24, 25, 32])  # of a, b and c: 3, 1 and 2; none of d
    (made,) = facets(whole, rows)
    assert [(value["name"], value["count"], value["all"]) for value in made["values"]] == [
        (UNKNOWN, 1, 2),
        ("b", 1, 20),
        ("c", 2, 7),
        ("a", 3, 3),
    ]
    assert [made["values"][code]["name"] for code in made["codes"]] == whole[PREDICTION][rows].tolist()


def test_the_histogram_is_explained_in_words_and_junk_only_where_there_is_some():
    page = InteractivePage(table(), np.arange(COUNT), places(), slices(COUNT), "knn_less_cohort", 0.5)
    said = meaning(page)
    assert "likeness to the nearest training volumes of a known class, less the likeness to made-up shapes" in said
    assert "Left of the dashed line, at 0.500, a particle is unknown" in said and "Junk" not in said
    junk = table().assign(**{PREDICTION: [NO_PARTICLE, *table()[PREDICTION][1:]]})
    told = "Junk is told by a measure of its own (Junk Score in the table), whatever the score"
    assert told in meaning(replace(page, table=junk))
    assert "likeness" not in meaning(replace(page, score="energy")).lower()


def test_every_score_that_a_calibration_can_name_has_words():
    assert {*CALIBRATED, "max_logit", "energy"} == {*SCORES}
    assert all(TERMS[name] == f"score: {text}." for name, text in SCORES.items())


def test_particles_are_drawn_from_their_cluster_where_they_are_in_one():
    assert list(groups(table())[[0, 47, 48, 49]]) == ["ribosome", UNKNOWN, "cluster_1", "cluster_2"]
    assert list(groups(table().drop(columns=CLUSTER))[[0, 48]]) == ["ribosome", UNKNOWN]


def test_the_verdict_counts_known_unknown_clusters_and_junk():
    assert verdict(table()) == (
        "40 (67%) of 60 particles are named as a known class, 2 classes in all. "
        "20 (33%) are unknown, which means like no known class; 12 of these lie in 2 clusters."
    )
    rows = table().drop(columns=CLUSTER).assign(**{PREDICTION: ["junk"] * 15 + [UNKNOWN] * 45})
    assert verdict(rows) == (
        "None of 60 particles are named as a known class. 45 (75%) are unknown, which means like no known class. "
        "15 (25%) are junk: no particle at all, such as noise, membrane or a gold bead."
    )


def test_twenty_classes_have_colours_of_their_own_and_fifty_are_told_apart_by_colour_and_mark():
    names = [f"class{number}" for number in range(50)] + [UNKNOWN]
    values = facets(pd.DataFrame({PREDICTION: names}))[0]["values"]
    assert values[0]["name"] == UNKNOWN and values[0]["colour"] not in COLOURS
    assert len({value["colour"] for value in values[1:21]}) == 20
    assert len({(value["colour"], value["marker"]) for value in values[1:51]}) == 50
    assert {value["marker"] for value in values} == {*MARKERS}


def test_the_pictures_of_a_page_are_jpeg_files_of_the_slices(made):
    path, page = made
    held = content(path)
    for row in (0, 17, 59):
        drawn = np.asarray(Image.open(io.BytesIO(picture(held, row))), dtype=float)
        assert drawn.shape == (SIDE, 3 * SIDE + 2 * GAP)
        assert np.abs(drawn - side_by_side(page.slices[row])).mean() < 8
        for place, one in enumerate(page.slices[row]):
            start = place * (SIDE + GAP)
            assert np.corrcoef(drawn[:, start : start + SIDE].ravel(), one.ravel())[0, 1] > 0.9
            assert place == 2 or drawn[:, start + SIDE : start + SIDE + GAP].mean() > 200


def test_the_mean_of_a_class_is_that_of_its_particles(made):
    path, page = made
    held = content(path)
    sheet = next(sheet for sheet in held["sheets"] if held["facets"][0]["values"][sheet["code"]]["name"] == "ribosome")
    drawn = np.asarray(Image.open(io.BytesIO(picture(held, sheet["mean"]))), dtype=float)
    three = np.stack([drawn[:, start : start + SIDE] for start in (0, SIDE + GAP, 2 * (SIDE + GAP))])
    assert np.corrcoef(three.ravel(), page.slices[:20].mean(axis=0).ravel())[0, 1] > 0.98
    assert len(sheet["rows"]) == 16 and {*sheet["rows"]} <= {*range(20)}


def test_slices_are_central_across_z_y_and_x():
    volume = np.zeros((17, 17, 17))
    volume[8, 3, 12] = 1.0
    across_z, across_y, across_x = central_slices(volume)
    assert across_z[3, 12] == 255 and across_z[12, 3] < 10
    assert across_y.max() < 10 and across_x.max() < 10  # the point lies far from their planes


def test_slices_of_large_boxes_are_made_smaller():
    volume = np.zeros((64, 64, 64))
    volume[30:34, 40:44, 20:24] = 1.0
    made = central_slices(volume, side=32)
    assert made.shape == (3, 32, 32) and made.dtype == np.uint8
    assert made[0][20:22, 10:12].min() > 200 and made[0][10, 20] < 10


def test_equal_slices_and_one_particle_make_pictures():
    start, rests = jpeg_texts(np.zeros((1, 3, 8, 8), dtype=np.uint8))
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(start + rests[0]))))
    assert drawn.shape == (8, 24 + 2 * GAP) and not drawn[:, :6].any() and not drawn[:, -6:].any()
    assert not central_slices(np.zeros((8, 8, 8))).any()
