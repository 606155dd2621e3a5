"""The parts of the open-set report on embeddings of known quality, as dict, text, page and pictures."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation import floors, rejection, sections
from evaluation.gallery import draw_map, draw_medoids, draw_set
from evaluation.report import SETS, discovery, format_open_set, summary, warnings, write_page
from evaluation.sections import Embedded

KNOWN, UNSEEN = ("1bxn", "3gl1", "3hhb"), ("1qvr", "2cg9", "<b>")
THRESHOLD = 0.8


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
    train, known, unseen = embedded(KNOWN, 0, 20, 0), embedded(KNOWN, 0, 12, 1), embedded(UNSEEN, 3, 25, 2)
    labels = [np.searchsorted(sorted(KNOWN), rows.classes) for rows in (train, known)]
    parts = [(rows.embeddings, own) for rows, own in zip((train, known), labels, strict=True)]
    reference = replace(rejection.calibrate(*parts, 3, score="max_cosine"), threshold=THRESHOLD)
    scores = [rejection.all_scores(rows.embeddings, reference, None) for rows in (known, unseen)]
    correct = rejection.classify(known.embeddings, reference.prototypes)[0] == labels[1]
    default = tuple(values["max_cosine"] for values in scores)
    rejected = tuple(values < THRESHOLD for values in default)
    part = {
        "classes": sorted(UNSEEN),
        "n": len(unseen),
        "n_particles": 75,
        "verification": sections.verify(unseen, known, 0, 10),
        "rejection": sections.reject(known, unseen, *scores, correct, reference, 0, 10),
        "enrolment": sections.enrol(unseen, reference.prototypes, 0, 10),
        "discovery": sections.discovery(known, unseen, rejected, 0, 10),
        "floors": [sections.floor("this network", train, known, unseen, 0, 10, True)],
        "confounds": floors.confounds(*default, {"SNR": (known.snr, unseen.snr)}),
    }
    part["confounds"][0]["warning"] = "a warning <of sorts>"
    report = {
        "checkpoint": "model_save/checkpoint.pt",
        "snr_convention": "variance",
        "known_classes": list(KNOWN),
        "bootstrap": 10,
        "known": sections.known_only(known, correct, 0, 10),
        "unseen": part,
    }
    return {"report": report, "known": known, "unseen": unseen, "default": default, "rejected": rejected}


def test_report_of_clear_clusters_is_perfect_and_ready_for_json(evaluated):
    report, part = evaluated["report"], evaluated["report"]["unseen"]
    json.dumps(report, allow_nan=False)
    assert report["known"]["prototype_accuracy"] == 1 and report["known"]["seen_seen"]["auc"] > 0.999
    assert part["verification"]["authors"]["accuracy"] > 0.99 and part["verification"]["seen_unseen"]["auc"] > 0.999
    assert part["rejection"]["scores"]["max_cosine"]["auroc"] > 0.99
    assert part["rejection"]["unknown_detection_rate"] > 0.99 and part["rejection"]["false_rejection_rate"] < 0.2
    assert [entry["class"] for entry in part["rejection"]["per_class"]] == sorted(UNSEEN)
    assert part["enrolment"]["with_known"][0]["accuracy"] > 0.95
    assert part["discovery"]["all_unseen"]["hdbscan"]["clusters"] == 3
    assert part["floors"][0]["unseen_auc"] > 0.999 and part["floors"][0]["known_accuracy"] == 1


def test_every_part_is_also_given_for_each_snr(evaluated):
    part = evaluated["report"]["unseen"]
    for name in ("verification", "rejection", "enrolment", "discovery"):
        assert [entry["snr"] for entry in part[name]["per_snr"]] == ["003", "infinity"], name
    for entry in (*part["rejection"]["scores"].values(), *part["floors"], evaluated["report"]["known"]):
        assert [level["snr"] for level in entry["per_snr"]] == ["003", "infinity"]


def test_levels_and_classes_are_those_rows_alone_and_have_intervals(evaluated):
    part, known, unseen = evaluated["report"]["unseen"]["rejection"], evaluated["known"], evaluated["unseen"]
    for level in part["per_snr"]:
        rows = known.snr == level["snr"], unseen.snr == level["snr"]
        scores = [values[chosen] for values, chosen in zip(evaluated["default"], rows, strict=True)]
        assert level["false_rejection_rate"] == np.mean(scores[0] < THRESHOLD)
        low, high = level["false_rejection_rate_interval"]
        assert low <= level["false_rejection_rate"] <= high
        entry = next(one for one in part["scores"]["max_cosine"]["per_snr"] if one["snr"] == level["snr"])
        assert entry["auroc"] == rejection.auroc(*scores) and entry["auroc_interval"][0] <= entry["auroc"]
        assert (entry["n_known"], entry["n_unseen"]) == (36, 75)
    for one in part["per_class"]:
        assert one["unknown_detection_rate_interval"][0] <= one["unknown_detection_rate"]
    for score in part["scores"].values():
        assert [one["class"] for one in score["per_class"]] == sorted(UNSEEN)
    authors = evaluated["report"]["unseen"]["verification"]["authors"]
    assert authors["accuracy_interval"][0] <= authors["accuracy"] <= authors["accuracy_interval"][1]
    floor = evaluated["report"]["unseen"]["floors"][0]
    assert all(floor[f"{key}_interval"] for key in ("unseen_auc", "five_shot", "auroc", "known_accuracy"))


def test_one_snr_level_is_not_repeated():
    unseen = embedded(UNSEEN, 3, 12, 2)
    unseen = unseen.keep(unseen.snr == "003")
    assert sections.verify(unseen, embedded(KNOWN, 0, 5, 1), 0, 2)["per_snr"] == []


def test_pair_figures_of_one_particle_a_class_are_absent_and_still_printed(evaluated):
    lonely = embedded(UNSEEN, 3, 1, 5)
    found = sections.verify(lonely, evaluated["known"], 0, 2)
    assert found["unseen_unseen"]["auc"] is None and found["authors"]["accuracy"] is None
    part = {**evaluated["report"]["unseen"], "verification": found}
    assert "accuracy, authors' protocol" in format_open_set({**evaluated["report"], "unseen": part})


def test_text_holds_every_question_and_the_warning(evaluated):
    text = format_open_set(evaluated["report"])
    for words in (
        "What else does 'unknown' follow?",
        "Same or different?",
        "Known or unknown?",
        "5-shot",
        "HDBSCAN",
        "always saying 'different'",
        "SNR 0.03",
        "no noise",
    ):
        assert words in text
    assert "WARNING: a warning <of sorts>" in text and max(map(len, text.splitlines())) < 130


def test_a_floor_that_beats_the_network_is_a_warning(evaluated):
    part = evaluated["report"]["unseen"]
    network = part["floors"][0]
    floor = {**network, "embedding": "intensity only", "unseen_auc": 0.5, "auroc": 1.0}
    assert warnings({**part, "floors": [{**network, "auroc": 0.7}, floor]})[-1] == (
        "known is told from unseen better without this network (0.700): intensity only 1.000"
    )
    assert warnings({**part, "floors": [network, {**floor, "auroc": 0.1}]}) == warnings(part)


def test_clusters_of_a_single_class_have_no_agreement(evaluated):
    found = {**evaluated["report"]["unseen"]["discovery"]["all_unseen"]["hdbscan"], "clusters": 0, "true_classes": 1}
    part = evaluated["report"]["unseen"]
    changed = {**part["discovery"], "all_unseen": {**part["discovery"]["all_unseen"], "hdbscan": found}}
    cells = {label: cells[0] for label, cells in discovery({**part, "discovery": changed}).rows}
    assert cells["all unseen, HDBSCAN"][0] == "0/1; -" and "NMI" not in cells["all unseen, HDBSCAN"][1]


def test_summary_is_in_plain_words(evaluated):
    assert re.search(r"100% of cases .* With 5 named examples", summary(evaluated["report"]["unseen"]))


def test_page_is_self_contained_and_escapes_names(evaluated, tmp_path):
    parts = evaluated["report"]["unseen"]
    known, unseen = evaluated["known"], evaluated["unseen"]
    pictures = draw_set(
        tmp_path, "unseen", parts, evaluated["report"]["known"]["seen_seen"], known, unseen, evaluated["default"]
    )
    images = torch.rand(len(known), 1, 6, 6, 6), torch.rand(len(unseen), 1, 6, 6, 6)
    pictures += draw_medoids(tmp_path / "clusters.png", parts, images, evaluated["rejected"])
    write_page(tmp_path / "open_set.html", evaluated["report"], {"unseen": pictures})
    page = (tmp_path / "open_set.html").read_text()
    assert page.count("data:image/png;base64,") == 4 and "http" not in page
    assert "&lt;b&gt;" in page and "<b>" not in page and "a warning &lt;of sorts&gt;" in page
    assert SETS["unseen"] in page and SETS["valid_unseen"] not in page


def test_medoids_are_the_rows_that_were_called_unknown(evaluated, monkeypatch, tmp_path):
    parts = evaluated["known"], evaluated["unseen"]
    names = sorted({*parts[0].classes, *parts[1].classes})
    images = [torch.tensor([names.index(name) for name in rows.classes])[:, None, None, None, None] for rows in parts]
    drawn = {}
    monkeypatch.setattr("evaluation.gallery.figures.contact_sheet", lambda path, volumes, titles, title: drawn.update(
        zip(titles, volumes, strict=True)
    ))  # fmt: skip
    draw_medoids(tmp_path / "a.png", evaluated["report"]["unseen"], images, evaluated["rejected"])
    assert len(drawn) == 3 and all(names[volume.item()] in title for title, volume in drawn.items())


def test_map_is_drawn_of_a_sample(evaluated, monkeypatch, tmp_path):
    monkeypatch.setattr("evaluation.gallery.figures.umap_points", lambda embeddings, seed: embeddings[:, :2])
    monkeypatch.setattr("evaluation.gallery.MOST_POINTS", 100)
    ((path, caption),) = draw_map(tmp_path / "map.png", evaluated["known"], [evaluated["unseen"]], 0)
    assert path.is_file() and "100 volumes" in caption
