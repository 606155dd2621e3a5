"""The verdict of an open-set report: each of its branches on made-up figures."""

from dataclasses import replace
from types import SimpleNamespace

from evaluation.figures import NO_FIGURE, BySnr, Figure
from evaluation.floors import Confound
from evaluation.known_unknown import Called, Known, KnownClass, KnownRows, Rejection, Score, UnseenClass
from evaluation.sections import Floor, OpenSet, UnseenSet
from report.verdict import LIMITS, NO, NOT_SHOWN, PARTLY, YES, Verdict, format_verdict, verdict


def figure(value: float, spread: float = 0.02) -> Figure:
    return Figure(value, [value - spread, value + spread])


def floor(embedding: str, unseen_auc: float = 0.6, auroc: float = 0.6, known_accuracy: float = 0.4) -> Floor:
    figures = {"unseen_auc": unseen_auc, "auroc": auroc, "known_accuracy": known_accuracy, "five_shot": 0.4}
    return Floor(embedding, per_snr={}, n_unseen=90, n_known=90, **{key: figure(one) for key, one in figures.items()})


def confound(factor: str, warning: str | None) -> Confound:
    return Confound(factor, 0.1, 0.1, 0.5, None, 0.9, 0.9, warning)


def overall(**parts) -> BySnr:
    """A part of which some is looked at, without SNR levels."""
    return BySnr(SimpleNamespace(**parts), {})


def rejection(auroc: float, refused: float = 0.05, per_class: dict[str, UnseenClass] | None = None) -> Rejection:
    return Rejection(
        overall=Called(figure(refused), figure(0.8)),
        per_snr={},
        scores={"knn_cosine": Score(SimpleNamespace(auroc=figure(auroc)), {}, {})},
        default_score="knn_cosine",
        closed_set_accuracy=0.95,
        threshold=0.5,
        wished_false_rejection_rate=0.05,
        n_calibration=100,
        per_class=per_class or {},
    )


def unseen(auc: float = 0.95, auroc: float = 0.95, particles: int = 400, classes: int = 5, **changes) -> UnseenSet:
    """The part of an unseen set whose floors are far below the network."""
    shots = SimpleNamespace(shots=5, accuracy=figure(0.9), chance=0.2)
    found = SimpleNamespace(clusters=Figure(4, [3, 5]), true_classes=classes)
    part = UnseenSet(
        classes=[f"new{number}" for number in range(classes)],
        n=3 * particles,
        n_particles=particles,
        verification=overall(unseen_unseen=SimpleNamespace(auc=figure(auc))),
        rejection=rejection(auroc),
        enrolment=overall(unseen_only=[None, shots, None]),
        discovery=overall(all_unseen=SimpleNamespace(found=found)),
        confounds=[],
        floors=[floor("this network", auc, auroc, 0.95), floor("untrained network")],
    )
    return replace(part, **changes)


def report(accuracy: float = 0.95, particles: int = 240, classes: int = 8, refused: float = 0.04, **sets) -> OpenSet:
    """A report on known classes, and on unseen sets."""
    names = [f"known{number}" for number in range(classes)]
    return OpenSet(
        checkpoint="checkpoint.pt",
        known_classes=names,
        snr_convention="variance",
        confidence=0.95,
        bootstrap=10,
        seed=0,
        known=Known(
            rows(accuracy, particles),
            {},
            {
                name: KnownClass(90, 30, figure(0.9), figure(refused if name == "known1" else 0.05), None)
                for name in names
            },
        ),
        note="",
        warnings=[],
        **sets,
    )


def rows(accuracy: float, particles: int = 240) -> KnownRows:
    return KnownRows(3 * particles, particles, figure(accuracy), figure(0.05), None)


def levels(found: Verdict) -> list[str]:
    return [answer.level for answer in found.answers]


def words(found: Verdict, number: int) -> str:
    return " ".join(found.answers[number].reasons)


def test_good_figures_are_trusted_and_lead_to_the_users_own_particles():
    found = verdict(report(unseen=unseen()))
    assert levels(found) == [YES, YES, YES]
    assert "95% [93 to 97] of the test volumes" in words(found, 0) and "guessing: 12%" in words(found, 0)
    assert "It calls 80% of the particles of new classes unknown" in words(found, 1)
    assert "With 5 named examples of each, 90%" in words(found, 2) and "4 groups; there are 5 classes" in words(
        found, 2
    )
    assert any("predict.py" in step for step in found.steps)


def test_the_limits_are_those_of_the_lower_end_of_the_interval():
    assert levels(verdict(report(0.925, unseen=unseen(0.925, 0.925)))) == [YES] * 3
    assert levels(verdict(report(0.915, unseen=unseen(0.915, 0.915)))) == [PARTLY] * 3
    assert levels(verdict(report(0.725, unseen=unseen(0.775, 0.775)))) == [PARTLY] * 3
    assert levels(verdict(report(0.715, unseen=unseen(0.765, 0.765)))) == [NO] * 3
    assert "90%" in LIMITS and "70%" in LIMITS and "75%" in LIMITS and "30 particles" in LIMITS


def test_known_classes_that_are_mixed_up_are_not_trusted_and_the_first_step_is_training():
    found = verdict(report(0.4, unseen=unseen()))
    assert levels(found) == [NO, YES, YES] and "train longer" in found.steps[0]


def test_without_unseen_classes_the_step_is_to_hold_some_out():
    found = verdict(report())
    assert levels(found) == [YES, NOT_SHOWN, NOT_SHOWN]
    assert "No class was held out" in words(found, 1) and "csv_split.py --unseen NAMES" in found.steps[0]


def test_what_size_alone_reaches_shows_nothing_however_high():
    floors = [*unseen().floors, floor("size only (true masks)", unseen_auc=0.96, auroc=0.945, known_accuracy=0.99)]
    found = verdict(report(unseen=unseen(floors=floors)))
    assert levels(found) == [NOT_SHOWN] * 3
    for number, value in ((0, "99%"), (1, "94%"), (2, "96%")):
        assert f"the true size alone, which no one knows of a real particle: {value}" in words(found, number)
    assert any("alike in size and brightness" in step for step in found.steps)
    assert [answer.short.removeprefix("not shown: size alone ") for answer in found.answers] == [
        "tells these classes apart as well",
        "tells known from new as well",
        "tells these classes apart as well",
    ]
    assert "trusted? NOT SHOWN: size alone tells known from new as well" in format_verdict(found)
    below = [*floors[:2], floor("intensity only", unseen_auc=0.93, auroc=0.93, known_accuracy=0.93)]
    assert levels(verdict(report(unseen=unseen(floors=below)))) == [YES] * 3


def test_a_bad_figure_stays_bad_where_a_floor_is_better():
    floors = [*unseen(0.6, 0.6).floors, floor("intensity only", unseen_auc=0.9, auroc=0.9)]
    assert levels(verdict(report(unseen=unseen(0.6, 0.6, floors=floors)))) == [YES, NO, NO]


def test_new_classes_that_are_mostly_taken_for_known_ones_are_named_the_worst_first():
    rows = ("new0", 0.4, "known2", 0.35), ("new1", 0.09, "known1", 0.9), ("new2", 0.5, "known3", 0.5)
    classes = {name: UnseenClass("known0", like, share, figure(found)) for name, found, like, share in rows}
    part = unseen(rejection=rejection(0.95, per_class=classes))
    said = "new1 is taken for known1 in 90% of cases; new0 is taken for a known class in 60% of cases, most often for "
    found = verdict(report(unseen=part))
    assert f" {said}known2." in words(found, 1) and "new2" not in words(found, 1)
    assert "new1 is taken for known1 in 90%" in format_verdict(found)
    part = unseen(rejection=rejection(0.95, per_class={f"new{number}": classes["new1"] for number in range(7)}))
    assert "; and 2 more classes likewise." in words(verdict(report(unseen=part)), 1)


def test_few_particles_show_nothing():
    found = verdict(report(particles=12, unseen=unseen(particles=29)))
    assert levels(found) == [NOT_SHOWN] * 3
    assert "12 known particles in the test: too few to say" in words(found, 0)
    assert "29 new particles" in words(found, 1)
    assert sum("Test on at least 30 new particles" in step for step in found.steps) == 1


def test_few_unseen_classes_and_one_that_has_no_other_are_said():
    found = verdict(report(unseen=unseen(classes=2)))
    assert levels(found) == [YES] * 3 and "Tested with 2 new classes alone" in words(found, 1)
    alone = unseen(classes=1, verification=overall(unseen_unseen=SimpleNamespace(auc=NO_FIGURE)))
    found = verdict(report(unseen=alone))
    assert levels(found)[2] == NOT_SHOWN and any("two or more classes" in step for step in found.steps)


def test_unknown_that_follows_brightness_is_trusted_in_part_alone():
    confounds = [confound("mean intensity", "a warning"), confound("SNR", None)]
    found = verdict(report(unseen=unseen(confounds=confounds)))
    assert levels(found) == [YES, PARTLY, YES]
    assert "something else than structure: mean intensity." in words(found, 1)


def test_a_threshold_that_refuses_too_many_and_a_class_that_is_mostly_refused_are_named():
    found = verdict(report(refused=0.6, unseen=unseen(rejection=rejection(0.95, refused=0.12))))
    assert "refuses more known particles than it was set to" in words(found, 1)
    assert "Most particles of known1 are called unknown" in words(found, 0)
    assert any("Train on more particles of known1" in step for step in found.steps)


def test_the_worst_noise_level_is_named():
    given = report()
    noisy = replace(given.known, per_snr={"003": rows(0.7), "infinity": rows(1)})
    given = replace(given, known=noisy)
    assert "At SNR 0.03 alone it is 70%." in words(verdict(given), 0)


def test_one_known_class_cannot_be_mixed_up():
    assert levels(verdict(report(classes=1)))[0] == NOT_SHOWN


def test_valid_unseen_is_judged_where_there_is_no_unseen():
    assert levels(verdict(report(valid_unseen=unseen(0.5, 0.5)))) == [YES, NO, NO]
    assert levels(verdict(report(valid_unseen=unseen(0.5, 0.5), unseen=unseen()))) == [YES] * 3


def test_the_verdict_as_text_holds_questions_answers_and_numbered_steps():
    text = format_verdict(verdict(report()))
    assert "Can the answer “unknown” be trusted? NOT SHOWN" in text and "  1. To test “unknown”" in text
    assert max(map(len, text.splitlines())) <= 115
