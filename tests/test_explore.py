"""From predictions to their page: what predict.py found is what the page holds."""

import html
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import write_csv
from evaluation.enrolled import Enlarged, EnrolledClass
from evaluation.rejection import Calibration
from loader.columns import CLUSTER, INPUT, PREDICTION, SCORE, UNKNOWN
from loader.prepare import Preprocessing, prepare
from loader.star import read_star, write_star
from loader.volume import write_volume
from prediction.inputs import find_inputs
from prediction.predicted import MayFollow, Predicted, UnknownCluster, UnknownClusters, classified
from report.clusters import what_they_may_follow
from report.enrolment import enrolment_notes, enrolment_text, enrolment_warnings
from report.explore import FEW, draw_page, map_places, notes, page_of, star_texts
from report.predictions import summary
from report.thumbnails import central_slices
from tests.report_page import content

COUNT, BOX = 12, 16


@pytest.fixture
def predicted(tmp_path) -> Predicted:
    """12 volumes in files that a STAR file names, of which the last 6 are unknown and in one cluster."""
    rng = np.random.default_rng(0)
    (tmp_path / "new").mkdir()
    for number in range(COUNT):
        write_volume(tmp_path / f"new/{number:02d}.mrc", rng.normal(size=(BOX, BOX, BOX)).astype("float32"), 10.0)
    optics = pd.DataFrame({"rlnOpticsGroup": ["1"], "rlnOpticsGroupName": ["the first"]})
    names = [f"new/{number:02d}.mrc" for number in range(COUNT)]
    rows = pd.DataFrame({"rlnImageName": names, "rlnOpticsGroup": "1", "rlnRandomSubset": "00255"})
    write_star(tmp_path / "picks.star", {"optics": optics, "particles": rows}, "50001")
    inputs = find_inputs([str(tmp_path / "picks.star")])
    embeddings = np.eye(8, dtype=np.float32)[np.arange(COUNT) // 6] + 0.01
    calibration = Calibration("max_cosine", 0.5, 0.05, 40, np.eye(8)[[0, 3]].astype(np.float32))
    log = {"log": [{"accuracy": 0.9}]}
    checkpoint = {"classes": ["ribosome", "other"], "calibration": calibration, "metrics": log, "config": {}}
    checkpoint["junk"] = None
    table = classified(embeddings, inputs, checkpoint)
    clusters = np.where(table[PREDICTION] == UNKNOWN, "cluster_1", "")
    found = [
        UnknownCluster("cluster_1", 6, 6, 0.4, False, "a.mrc", "other", 0.1, [may_follow("it may follow the noise")])
    ]
    return Predicted(
        table.assign(**{CLUSTER: clusters}),
        embeddings,
        inputs,
        Preprocessing(BOX, 10.0),
        checkpoint,
        UnknownClusters(6, 6, 0, 6, False, 0, found),
    )


def may_follow(text: str) -> MayFollow:
    return MayFollow("noise", 0.9, 0.01, text)


def test_the_page_shows_the_volumes_and_says_what_was_found(predicted, tmp_path):
    assert draw_page(tmp_path / "report.html", predicted, ["the contrast looks inverted"])
    text, held = (tmp_path / "report.html").read_text(), content(tmp_path / "report.html")
    assert held["addresses"] == predicted.table[INPUT].tolist()
    write_csv(tmp_path / "predictions.csv", predicted.table)
    assert held["csv"]["head"] + "".join(held["csv"]["rows"]) == (tmp_path / "predictions.csv").read_text()
    assert held["names"] == ["ribosome"] * 6 + [UNKNOWN] * 6
    for said in (
        "6 (50%) of 12 particles are named as a known class, 1 class in all. 6 (50%) are unknown",
        '<p class="warning">The contrast looks inverted</p><p class="warning">cluster_1: it may follow the noise</p>',
        "6 of these lie in 1 cluster (1 not stable).",
        "(max_cosine), is below 0.500. So it is for at most 5% of the 40 validation volumes of known classes, which",
        "The checkpoint names 90% of the validation volumes of known classes right (chance 50%).",
    ):
        assert said in text
    remarks = [sheet["remark"] for sheet in held["sheets"]]
    assert remarks == [
        "",
        "",
        "6 particles in all, stability 0.40 (not stable), nearest known class other, cosine 0.10",
    ]


def test_of_few_validation_volumes_it_is_said_that_none_is_below_the_threshold(predicted):
    few = replace(predicted.checkpoint["calibration"], n=18)
    changed = replace(predicted, checkpoint=predicted.checkpoint | {"calibration": few})
    said = "So it is for none of the 18 validation volumes of known classes, which would be called unknown by mistake."
    assert said in " ".join(notes(changed))
    table = predicted.table
    assert "as are none of the 18 validation volumes" in summary(table[PREDICTION], table[SCORE], few)


def test_after_enrolment_the_page_tells_of_each_class_and_its_own_threshold(predicted, tmp_path):
    new = EnrolledClass("gate", "12 examples", 12, 0.6, 0.4, 0.25, "ribosome", 0.87, "made-up shapes", 200, 0.02)
    sure = replace(new, name="hub", accuracy=0.9, rival=None)
    own = replace(predicted.checkpoint["calibration"], class_thresholds=np.array([0.5, 0.6]))
    config = {"enrolled": [asdict(new), asdict(sure)]}
    changed = replace(predicted, checkpoint=predicted.checkpoint | {"calibration": own, "config": config})
    assert draw_page(tmp_path / "report.html", changed, [])
    text = html.unescape((tmp_path / "report.html").read_text())
    assert "is below the threshold of the nearest class. Each class has its own, and scores are moved so that " in text
    assert "0.500 is every class's." in text and "validation volumes of known classes, which" not in text
    assert '<p class="warning">gate is hardly told from others: 40% of its own are named right</p>' in text
    assert (
        "Enrolled class gate, from 12 examples: 40% of its own examples are named right, 25% are called unknown, the "
        "nearest other class is ribosome (cosine 0.87), 2% of other shapes are let in."
    ) in text
    assert "Enrolled class hub" in text and "hub is hardly" not in text
    assert "nearly" not in text and "often refused" not in text  # 0.87 and 25 %
    assert enrolment_notes([sure] * 12)[-1] == "And 2 more enrolled classes, see predictions.json."


def test_terminal_and_page_warn_of_an_enrolled_class_that_is_nearly_another_or_often_refused(predicted, tmp_path):
    source = "200 simulated volumes of gate.cif"
    new = EnrolledClass("gate", source, 200, 0.6, 0.9, 0.05, "ribosome", 0.94, "shapes", 9, 0)
    often = replace(new, name="hub", refused=0.31, rival_cosine=0.9)
    mostly = replace(new, name="spoke", refused=0.6, rival_cosine=None, rival=None)
    warnings = [
        "gate is nearly ribosome (cosine 0.94 of their prototypes): particles of one may be named as the other",
        "hub is often refused: 31% of its own (200 simulated volumes of gate.cif) would be called unknown",
        "spoke is hardly told from others: 60% of its own would be called unknown",
    ]
    quiet = replace(new, refused=0.3, rival_cosine=0.9)  # at the limits nothing is said
    enrolled = [new, often, mostly, quiet]
    found = Enlarged(["gate"], predicted.checkpoint["calibration"], enrolled)
    assert enrolment_text(found, "").splitlines()[-3:] == warnings and enrolment_warnings([quiet]) == []
    config = {"enrolled": [asdict(one) for one in enrolled]}
    changed = replace(predicted, checkpoint=predicted.checkpoint | {"config": config})
    assert draw_page(tmp_path / "report.html", changed, [])
    text = html.unescape((tmp_path / "report.html").read_text())
    assert all(f'<p class="warning">{warning}</p>' in text for warning in warnings) and text.count("is nearly") == 1


def test_what_the_known_classes_reference_volumes_are_is_said_beside_their_share(predicted):
    calibration = predicted.checkpoint["calibration"]
    cohort = {"cohort": np.eye(8)[:1], "cohort_labels": np.zeros(1, int)}
    simulated = "simulated, under training's imaging or as calibrate.py was told"
    for changed, words in (
        ({"enrolled": 1}, "training files"),
        ({"enrolled": 1, **cohort}, simulated),
        ({"enrolled": 3, **cohort}, f"{simulated}, and the examples of classes enrolled before"),
    ):
        new = EnrolledClass("gate", "9 examples", 9, 0.6, 0.9, 0.0, "other", 0.2, "shapes", 9, 0.0)
        found = Enlarged(["ribosome", "other", "gate"], replace(calibration, **changed), [new], 0.76, 0.754)
        assert enrolment_text(found, "").splitlines()[-1] == (
            f"of the known classes' reference volumes ({words}; not the validation volumes) 75.4% are named right "
            "among all classes, 76.0% without the enrolled ones"
        )


def test_of_many_words_on_clusters_the_first_five_are_said():
    one = UnknownCluster("", 9, 9, 0.9, True, "a.mrc", "other", 0.1, [may_follow("noise")] * 2)
    found = [replace(one, cluster=f"cluster_{number}") for number in (1, 2, 3, 4)]
    said = ["cluster_1: noise"] * 2 + ["cluster_2: noise"] * 2 + ["cluster_3: noise"]
    assert what_they_may_follow(found) == [*said, "and 3 more such words on clusters in predictions.json"]
    assert what_they_may_follow([]) == []


def test_slices_are_those_of_the_volumes_as_the_network_sees_them(predicted):
    page = page_of(predicted, [])
    np.testing.assert_array_equal(page.rows, np.arange(COUNT))
    for number in (0, 7):
        image = prepare(predicted.inputs[number], predicted.preprocessing).image
        np.testing.assert_array_equal(page.slices[number], central_slices(image))


def test_slices_of_dark_particles_are_said_to_be_inverted_beside_the_map(predicted, tmp_path):
    dark = replace(predicted, preprocessing=replace(predicted.preprocessing, contrast="dark"))
    said = "takes it back. All slices are shown inverted: the particles are dark in their files, and bright here.</p>"
    for number, (given, inverted) in enumerate(((dark, True), (predicted, False))):
        assert draw_page(tmp_path / f"{number}.html", given, [])
        assert (said in (tmp_path / f"{number}.html").read_text()) == inverted
    image = prepare(dark.inputs[3], predicted.preprocessing).image
    np.testing.assert_array_equal(page_of(dark, []).slices[3], central_slices(-image))


def test_rows_of_star_files_go_back_as_they_came(predicted, tmp_path):
    (made,) = star_texts(predicted, np.arange(len(predicted)))
    (tmp_path / "again.star").write_text(made.head + "".join(made.rows[row] for row in range(COUNT)) + made.tail)
    assert (tmp_path / "again.star").read_bytes() == (tmp_path / "picks.star").read_bytes()
    assert page_of(predicted, []).stars == (made,) and made.name == "picks.star"


def test_star_files_that_differ_in_their_rows_alone_are_one(predicted, tmp_path):
    blocks = read_star(tmp_path / "picks.star")
    first, second = (blocks["particles"].iloc[part] for part in (slice(0, 4), slice(4, 8)))
    other = blocks["particles"].iloc[8:].assign(rlnNote="x")
    for name, rows in (("a", first), ("b", second), ("c", other)):
        write_star(tmp_path / f"{name}.star", {**blocks, "particles": rows}, "50001")
    inputs = find_inputs([str(tmp_path / f"{name}.star") for name in "abc"])
    made = star_texts(replace(predicted, inputs=inputs), np.arange(len(predicted)))
    assert [star.name for star in made] == ["a.star and 1 more", "c.star"]
    assert [[*star.rows] for star in made] == [[*range(8)], [*range(8, 12)]]


def test_particles_of_other_files_have_no_star(predicted, tmp_path):
    assert star_texts(replace(predicted, inputs=find_inputs([str(tmp_path / "new")])), np.arange(len(predicted))) == ()


def test_a_page_that_cannot_be_made_is_a_warning(predicted, tmp_path, capsys):
    Path(predicted.table[INPUT][3]).unlink()
    (tmp_path / "report.html").write_text("of an earlier run")
    assert not draw_page(tmp_path / "report.html", predicted, [])
    assert not (tmp_path / "report.html").exists()
    assert "report.html could not be drawn" in capsys.readouterr().err


def test_few_particles_are_placed_by_their_principal_components():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(FEW - 1, 5)) * [1, 10, 1, 5, 1]
    found = map_places(embeddings, seed=0)
    centred = embeddings - embeddings.mean(axis=0)
    spread = np.sqrt(np.linalg.eigvalsh(centred.T @ centred)[::-1])
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), spread[:2])
    assert map_places(embeddings[:1], seed=0).tolist() == [[0.0, 0.0]]
    assert map_places(embeddings[:2], seed=0).shape == (2, 2)
