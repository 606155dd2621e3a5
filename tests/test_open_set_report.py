"""The parts of the open-set report on embeddings of known quality, as JSON, text, page and pictures."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import floors, known_unknown, rejection, sections
from evaluation.bootstrap import Resampling
from evaluation.embedded import Embedded, Scored, View
from evaluation.figures import NO_FIGURE, Figure, plain
from evaluation.ranking import auroc
from evaluation.sections import Evaluated, OpenSet, UnseenSet
from report.gallery import draw_map, draw_medoids, draw_set
from report.page import write_page
from report.tables import SETS, discovery, known, refused, tables, warnings
from report.tables import floors as floor_table
from report.tables import rejection as rejection_table
from report.terminal import format_open_set
from report.terms import TERMS

KNOWN, UNSEEN = ("1bxn", "3gl1", "3hhb"), ("1qvr", "2cg9", "<b>")
THRESHOLD = 0.8
DRAWS = Resampling(10)


def embedded(names: tuple[str, ...], first: int, per_class: int, seed: int) -> Embedded:
    """Two copies (SNR 003 and infinity) of `per_class` particles a class, each class around an axis of its own."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(len(names)), 2 * per_class)
    points = np.eye(12)[first + index] + 0.08 * rng.normal(size=(len(index), 12))
    particles = np.array([f"{seed}_{row // 2}" for row in range(len(index))])
    return Embedded(
        rejection.unit(points),
        np.array(names)[index],
        particles,
        np.array(["infinity", "003"])[np.arange(len(index)) % 2],
    )


@pytest.fixture(scope="module")
def evaluated() -> dict:
    """A report and all that made it."""
    train, test, unseen = embedded(KNOWN, 0, 20, 0), embedded(KNOWN, 0, 12, 1), embedded(UNSEEN, 3, 25, 2)
    labels = [np.searchsorted(sorted(KNOWN), rows.classes) for rows in (train, test)]
    parts = [(rows.embeddings, own) for rows, own in zip((train, test), labels, strict=True)]
    reference = replace(rejection.calibrate(*parts, 3, score="max_cosine"), threshold=THRESHOLD)
    sides = [Scored(rows, rejection.all_scores(rows.embeddings, reference, None)) for rows in (test, unseen)]
    correct = rejection.classify(test.embeddings, reference.prototypes)[0] == labels[1]
    default = tuple(side.scores["max_cosine"] for side in sides)
    rejected = tuple(values < THRESHOLD for values in default)
    view = View("this network", {"train": train, "test": test, "unseen": unseen}, True)
    (confound,) = floors.confounds(*default, {"SNR": (test.snr, unseen.snr)})
    part = UnseenSet(
        classes=sorted(UNSEEN),
        n=len(unseen),
        n_particles=75,
        verification=sections.verify(unseen, test, DRAWS),
        rejection=known_unknown.reject(*sides, correct, reference, sorted(KNOWN), DRAWS),
        enrolment=sections.enrol(unseen, reference.prototypes, DRAWS),
        discovery=sections.discovery(test, unseen, rejected, DRAWS),
        floors=[sections.floor(view, "unseen", DRAWS)],
        confounds=[replace(confound, warning="a warning <of sorts>")],
    )
    report = OpenSet(
        checkpoint="model_save/checkpoint.pt",
        snr_convention="variance",
        known_classes=list(KNOWN),
        confidence=0.95,
        bootstrap=10,
        seed=0,
        known=known_unknown.known_only(test, correct, rejected[0], {"1bxn": 0.125}, DRAWS),
        note="",
        warnings=[],
        unseen=part,
    )
    of_set = Evaluated("unseen", part, *sides)
    return {
        "report": report,
        "known": test,
        "unseen": unseen,
        "default": default,
        "of_set": of_set,
        "calibration": reference,
    }


def test_report_of_clear_clusters_is_perfect_and_ready_for_json(evaluated):
    report, part = evaluated["report"], evaluated["report"].unseen
    json.dumps(plain(report), allow_nan=False)
    known, verification = report.known.overall, part.verification.overall
    assert known.prototype_accuracy.value == 1 and known.seen_seen.auc.value > 0.999
    assert verification.authors.accuracy.value > 0.99 and verification.seen_unseen.auc.value > 0.999
    assert part.rejection.default_score == "max_cosine" and part.rejection.default.overall.auroc.value > 0.99
    rates = part.rejection.overall
    assert rates.unknown_detection_rate.value > 0.99 and rates.false_rejection_rate.value < 0.2
    assert [*part.rejection.per_class] == sorted(UNSEEN)
    assert part.enrolment.overall.with_known[0].accuracy.value > 0.95
    assert part.discovery.overall.all_unseen.found.clusters.value == 3
    assert part.floors[0].unseen_auc.value > 0.999 and part.floors[0].known_accuracy.value == 1


def test_every_part_is_also_given_for_each_snr(evaluated):
    part = evaluated["report"].unseen
    parts = part.verification, part.rejection, part.enrolment, part.discovery, *part.rejection.scores.values()
    for entry in (*parts, *part.floors, evaluated["report"].known):
        assert [*entry.per_snr] == ["003", "infinity"], entry


def test_levels_and_classes_are_those_rows_alone_and_have_intervals(evaluated):
    part, known, unseen = evaluated["report"].unseen.rejection, evaluated["known"], evaluated["unseen"]
    for level, rates in part.per_snr.items():
        rows = known.snr == level, unseen.snr == level
        scores = [values[chosen] for values, chosen in zip(evaluated["default"], rows, strict=True)]
        assert rates.false_rejection_rate.value == np.mean(scores[0] < THRESHOLD)
        low, high = rates.false_rejection_rate.interval
        assert low <= rates.false_rejection_rate.value <= high
        entry = part.scores["max_cosine"].per_snr[level]
        assert entry.auroc.value == auroc(*scores) and entry.auroc.interval[0] <= entry.auroc.value
        assert (entry.n_known, entry.n_unseen) == (36, 75)
    for one in part.per_class.values():
        assert one.unknown_detection_rate.interval[0] <= one.unknown_detection_rate.value
    for score in part.scores.values():
        assert [*score.per_class] == sorted(UNSEEN)
    accuracy = evaluated["report"].unseen.verification.overall.authors.accuracy
    assert accuracy.interval[0] <= accuracy.value <= accuracy.interval[1]
    floor = evaluated["report"].unseen.floors[0]
    assert all(figure.interval for figure in (floor.unseen_auc, floor.five_shot, floor.auroc, floor.known_accuracy))


def test_one_snr_level_is_not_repeated():
    unseen = embedded(UNSEEN, 3, 12, 2)
    unseen = unseen.keep(unseen.snr == "003")
    assert sections.verify(unseen, embedded(KNOWN, 0, 5, 1), Resampling(2)).per_snr == {}


def test_pair_figures_of_one_particle_a_class_are_absent_and_still_printed(evaluated):
    lonely = embedded(UNSEEN, 3, 1, 5)
    found = sections.verify(lonely, evaluated["known"], Resampling(2))
    assert found.overall.unseen_unseen.auc == found.overall.authors.accuracy == NO_FIGURE
    part = replace(evaluated["report"].unseen, verification=found)
    assert "accuracy, authors' protocol" in format_open_set(replace(evaluated["report"], unseen=part))


def test_text_holds_every_question_and_the_warning(evaluated):
    text = format_open_set(evaluated["report"])
    for words in (
        "What else does 'unknown' follow?",
        "Same or different?",
        "Known or unknown?",
        "5-shot",
        "groups",
        "always saying 'different'",
        "SNR 0.03",
        "no noise",
    ):
        assert words in text
    assert "WARNING: a warning <of sorts>" in text and max(map(len, text.splitlines())) < 130


def test_a_floor_that_beats_the_network_is_a_warning(evaluated):
    part = evaluated["report"].unseen
    network = part.floors[0]
    floor = floor_like(network, embedding="intensity only", unseen_auc=0.5, auroc=1.0)
    assert warnings(replace(part, floors=[floor_like(network, auroc=0.7), floor]))[-1] == (
        "known is told from unseen better without this network (0.700): intensity only 1.000"
    )
    assert warnings(replace(part, floors=[network, floor_like(floor, auroc=0.1)])) == warnings(part)


def floor_like(floor: sections.Floor, embedding: str = "this network", **values: float | None) -> sections.Floor:
    """A floor with some other figures."""
    return replace(floor, embedding=embedding, **{name: Figure(value, None) for name, value in values.items()})


def test_what_does_better_is_counted_by_figure_with_its_names(evaluated):
    part = evaluated["report"].unseen
    network = floor_like(part.floors[0], known_accuracy=0.61, unseen_auc=0.8)
    others = [
        floor_like(network, "untrained network", known_accuracy=0.67, unseen_auc=0.805),
        floor_like(network, "intensity only", known_accuracy=0.65, unseen_auc=0.82),
    ]

    def answer(network):
        return floor_table(replace(part, floors=[network, *others])).answer

    assert answer(network) == "something else is better in 2 of 4 figures: pair AUC, known acc."
    assert answer(floor_like(network, unseen_auc=None)) == "something else is better in 1 of 3 figures: known acc."
    assert floor_table(part).answer == "nothing that was tried is better in any of 4 figures"
    said = warnings(replace(part, floors=[network, *others]))
    assert said[-1] == (
        "known classes are named by their nearest neighbours better without this network (0.610): "
        "untrained network 0.670, intensity only 0.650"
    )


def test_the_report_says_of_how_many_validation_volumes_the_threshold_is_above(evaluated):
    part = evaluated["report"].unseen
    count = evaluated["calibration"].n
    assert f"was set to call at most 5% of the {count} validation volumes" in rejection_table(part).note
    few = rejection_table(replace(part, rejection=replace(part.rejection, n_calibration=12)))
    assert "was set to call none of the 12 validation volumes of known classes unknown." in few.note


def test_a_single_unseen_class_says_what_cannot_be_measured_in_words(evaluated):
    known, unseen = evaluated["of_set"].known, evaluated["of_set"].unseen
    alone = unseen.rows.classes == "1qvr"
    unseen = Scored(unseen.rows.keep(alone), {name: values[alone] for name, values in unseen.scores.items()})
    correct = np.full(len(known.rows), True)
    gallery = evaluated["calibration"].prototypes
    part = replace(
        evaluated["report"].unseen,
        classes=["1qvr"],
        verification=sections.verify(unseen.rows, known.rows, DRAWS),
        rejection=known_unknown.reject(known, unseen, correct, evaluated["calibration"], sorted(KNOWN), DRAWS),
        enrolment=sections.enrol(unseen.rows, gallery, DRAWS),
    )
    found = {table.section: table for table in tables(part)}
    assert found["verification"].answer == "pairs of new classes not measured: a single class was held out"
    five = part.enrolment.overall.with_known[1].accuracy.value
    assert found["enrolment"].title == "New class or known, from a few examples?"
    assert found["enrolment"].answer.startswith(f"5-shot accuracy among known classes {five:.3f} [")
    assert [label for label, _ in found["verification"].rows] == ["AUC, seen-unseen pairs", "pairs: same"]
    assert all("knowns compete" in label and cells[0][0] != "-" for label, cells in found["enrolment"].rows)
    assert "no pairs" in found["verification"].note and "no pairs" in found["per_class"].note
    assert "chance 1.00" not in format_open_set(replace(evaluated["report"], unseen=part))


def test_clusters_of_a_single_class_have_no_agreement(evaluated):
    part = evaluated["report"].unseen
    both = part.discovery.overall
    found = replace(both.all_unseen.found, clusters=Figure(0, None), true_classes=1)
    both = replace(both, all_unseen=replace(both.all_unseen, found=found))
    table = discovery(replace(part, discovery=replace(part.discovery, overall=both)))
    assert table.answer == "0 groups found where there is 1 class"
    cells = {label: cells[0] for label, cells in table.rows}
    assert cells["all unseen, groups"][0] == "0/1; -" and "NMI" not in cells["all unseen, groups"][1]


def test_the_known_class_that_an_unseen_one_is_most_often_taken_for_is_that_of_a_plain_count(evaluated):
    known, unseen = evaluated["of_set"].known, evaluated["of_set"].unseen
    low = replace(evaluated["calibration"], threshold=float(np.median(unseen.scores["max_cosine"])))
    correct, names = np.full(len(known.rows), True), sorted(KNOWN)
    found = known_unknown.reject(known, unseen, correct, low, names, DRAWS).per_class
    nearest = np.argmax(unseen.rows.embeddings @ rejection.unit(low.prototypes).T, axis=1)
    for name, one in found.items():
        rows = np.flatnonzero(unseen.rows.classes == name)
        called = [names[nearest[row]] for row in rows if unseen.scores["max_cosine"][row] >= low.threshold]
        assert called and called.count(one.taken_for) == max(map(called.count, names))
        assert one.taken_for_rate == called.count(one.taken_for) / len(rows)
    none = known_unknown.reject(known, unseen, correct, replace(low, threshold=2.0), names, DRAWS).per_class
    assert {(one.taken_for, one.taken_for_rate) for one in none.values()} == {(None, 0.0)}


def test_every_known_class_has_its_false_rejection_rate_and_a_warning_where_most_are_refused(evaluated):
    report, rejected = evaluated["report"], evaluated["default"][0] < THRESHOLD
    classes = report.known.per_class
    assert [*classes] == sorted(KNOWN)
    for name, entry in classes.items():
        rate = entry.false_rejection_rate
        assert rate.value == rejected[evaluated["known"].classes == name].mean()
        assert (entry.n, entry.n_particles) == (24, 12) and rate.interval[0] <= rate.value <= rate.interval[1]
    assert [entry.valid_false_rejection_rate for entry in classes.values()] == [0.125, None, None]
    assert refused(report) == []
    mostly = classes | {"1bxn": replace(classes["1bxn"], false_rejection_rate=Figure(0.75, None))}
    changed = replace(report, known=replace(report.known, per_class=mostly))
    assert refused(changed) == ["known class 1bxn: 75% of its 24 test volumes are called unknown"]
    assert "WARNING: known class 1bxn" in format_open_set(changed)
    assert {label: cells[1][0] for label, cells in known(changed)[1].rows}["1bxn"] == "0.750"


def test_every_term_of_a_table_is_explained(evaluated):
    report = evaluated["report"]
    used = {term for table in (*known(report), *tables(report.unseen)) for term in table.terms}
    assert used <= set(TERMS) and {"AUC", "AUROC", "FPR95", "OSCR", "EER", "VAL at FAR", "enrolment", "floor"} <= used


def test_every_score_that_a_report_can_have_is_explained_where_it_stands(evaluated):
    part = evaluated["report"].unseen
    scores = part.rejection.scores
    assert {*scores} <= {*rejection_table(part).terms}
    more = replace(part, rejection=replace(part.rejection, scores=scores | {"energy": scores["max_cosine"]}))
    assert "energy" in rejection_table(more).terms and "energy" not in rejection_table(part).terms
    labels = np.arange(40) % 2
    rows = np.random.default_rng(0).normal(size=(40, 6))
    of_all = rejection.calibrate((rows, labels), (rows, labels), 2, cohort=(rows, labels))
    names = {*rejection.all_scores(rows, of_all, rows[:, :2])}
    assert names > {*rejection.CALIBRATED}, "give this calibration what the new score compares with"
    assert names <= {*TERMS}, "a score has no words in report/terms.py"


def page_of(evaluated: dict, folder: Path) -> str:
    of_set, known, unseen = evaluated["of_set"], evaluated["known"], evaluated["unseen"]
    pictures = draw_set(folder, of_set, evaluated["report"].known.overall.seen_seen)
    images = torch.rand(len(known), 1, 6, 6, 6), torch.rand(len(unseen), 1, 6, 6, 6)
    pictures += draw_medoids(folder / "clusters.png", of_set, images)
    write_page(folder / "open_set.html", evaluated["report"], {"unseen": pictures})
    return (folder / "open_set.html").read_text()


def test_page_is_self_contained_and_escapes_names(evaluated, tmp_path):
    page = page_of(evaluated, tmp_path)
    assert page.count("data:image/png;base64,") == 4 and "http" not in page and "<script" not in page
    assert "&lt;b&gt;" in page and "<b>" not in re.sub("<b>[A-Z][^<]*</b>", "", page)
    assert "a warning &lt;of sorts&gt;" in page
    assert SETS["unseen"] in page and SETS["valid_unseen"] not in page


def test_page_opens_with_the_verdict_folds_the_rest_and_explains_each_term_once(evaluated, tmp_path):
    page = page_of(evaluated, tmp_path)
    opening, _, rest = page.partition("<details>")
    for words in ("Can the names of known classes be trusted?", "What to do next", "Yes and partly:"):
        assert words in opening
    assert "<table" not in opening and "<img" not in opening and rest.count("<details>") >= 8
    for term in ("AUC", "AUROC", "FPR95", "OSCR", "EER", "VAL at FAR", "nearest prototype", "adjusted Rand index"):
        assert page.count(f"<dt>{term}</dt>") == 1


def test_page_stands_without_pictures(evaluated, tmp_path):
    write_page(tmp_path / "open_set.html", evaluated["report"], {})
    page = (tmp_path / "open_set.html").read_text()
    assert "<img" not in page and "Same or different?" in page


def test_medoids_are_the_rows_that_were_called_unknown(evaluated, monkeypatch, tmp_path):
    sides = evaluated["known"], evaluated["unseen"]
    names = sorted({*sides[0].classes, *sides[1].classes})
    images = [torch.tensor([names.index(name) for name in rows.classes])[:, None, None, None, None] for rows in sides]
    drawn = {}
    monkeypatch.setattr("report.gallery.pictures.contact_sheet", lambda path, volumes, titles, title: drawn.update(
        zip(titles, volumes, strict=True)
    ))  # fmt: skip
    draw_medoids(tmp_path / "a.png", evaluated["of_set"], images)
    assert len(drawn) == 3 and all(names[volume.item()] in title for title, volume in drawn.items())
    assert not any("not stable" in title for title in drawn)
    of_set = evaluated["of_set"]
    rejected = of_set.part.discovery.overall.rejected
    largest, *others = sorted(rejected.found.per_cluster, key=lambda one: -one.n)
    found = replace(rejected.found, per_cluster=[replace(largest, stability=0.68), *others])
    both = replace(of_set.part.discovery.overall, rejected=replace(rejected, found=found))
    part = replace(of_set.part, discovery=replace(of_set.part.discovery, overall=both))
    drawn.clear()
    draw_medoids(tmp_path / "a.png", replace(of_set, part=part), images)
    assert ["stability 0.68\nnot stable" in title for title in drawn] == [True, False, False]


def test_map_is_drawn_of_a_sample(evaluated, monkeypatch, tmp_path):
    monkeypatch.setattr("report.gallery.pictures.umap_points", lambda embeddings, seed: embeddings[:, :2])
    monkeypatch.setattr("report.gallery.MOST_POINTS", 100)
    (picture,) = draw_map(tmp_path / "map.png", evaluated["known"], [evaluated["unseen"]], 0)
    assert picture.path.is_file() and "100 volumes" in picture.caption
