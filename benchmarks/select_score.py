"""Which score should call a particle unknown? All are ranked on classes left out of training.

-> benchmarks/results/select_score.{json,md}, or select_score_quick.{json,md}

    python -m benchmarks.select_score --quick                             # procedural complexes, CPU
    python -m benchmarks.select_score --structures structures --quick     # the benchmark's structures, of your folder
    python -m benchmarks.select_score --csv-dir csv_split --train-options width 16 epochs 10

Known classes are dealt into folds. For each fold and seed a network is trained on the classes of the other folds; their
validation particles are the knowns, those of the fold's classes the unknowns. For each seed one more network is trained
on all known classes: the knowns are their validation particles, the unknowns those of valid_unseen.csv. A network with
its knowns and unknowns is a case.

The rule: in each case the scores are ranked by AUROC, 1 for the highest, equal ones by their mean rank; the winner has
the lowest mean rank over all cases, among equals the highest mean OSCR. It belongs into DEFAULT_SCORE in
evaluation/rejection.py. The knowns also choose each network's checkpoint, for all scores alike. Only train.csv,
valid.csv and valid_unseen.csv are read; where the data are simulated here, the classes for the final figures are not
even made.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from benchmarks import study
from benchmarks.study import BRIEF, Bench, Study, format_mean_std, mean_std
from common.cli import InputError, run
from evaluation.rejection import DEFAULT_SCORE
from loader.columns import CLASS, LABEL
from loader.rows import class_names, read_split


@dataclass(frozen=True)
class Config(Study):
    csv_dir: str = ""  # folder of a split to use; empty: one is simulated in work_dir
    folds: int = 5  # number of parts of the known classes, each left out of training once


FRACTIONS = "0.6 0.3 0.1"  # train, valid, test of data simulated here: test is not read, the knowns come from valid
FOLD_SEED = 9  # of dealing the classes into folds
ALL_KNOWN = "valid_unseen"  # the case of all known classes, against valid_unseen.csv
MEASURES = {"auroc": "AUROC", "fpr95": "FPR95", "oscr": "OSCR"}


def main(cfg: Config) -> None:
    classes = replace(study.class_set(cfg.structures), unseen=())
    bench = study.begin(cfg, "select_score", classes, csv_dir=cfg.csv_dir, split={"fractions": FRACTIONS})
    unknown_classes = write_cases(bench.csv_dir, bench.work_dir, cfg.folds)
    settings = bench.settings | {"default_score_before": DEFAULT_SCORE, "unknown_classes": unknown_classes}
    cases = []
    for seed, name in product(cfg.seeds, unknown_classes):
        cases.append(measure(bench, name, seed, unknown_classes[name]))
        print(f"{name}, seed {seed}: " + ", ".join(f"{k} {v['auroc']:.3f}" for k, v in cases[-1]["scores"].items()))
        content = settings | {"cases": cases, "scores": rank([case["scores"] for case in cases])}
        study.write_results(bench.stem, content, page(content))
    study.show(bench.stem)


def write_cases(csv_dir: Path, work_dir: Path, folds: int) -> dict[str, list[str]]:
    """Write the split of each case to `work_dir`/<case>/csv_split; the classes that are unknown in each.

    Raises InputError when the known classes are too few for the folds.
    """
    train, valid, held_out = (read_split(csv_dir / f"{name}.csv") for name in ("train", "valid", "valid_unseen"))
    classes = class_names(train, csv_dir / "train.csv")
    largest = -(-len(classes) // max(folds, 1))  # classes of the largest fold
    if not 2 <= folds <= len(classes) or len(classes) - largest < 2:
        raise InputError(f"--folds {folds} of {len(classes)} known classes: expected 2 or more, that leave 2 known")
    order = np.random.default_rng(FOLD_SEED).permutation(classes).tolist()
    left_out = {f"fold{number}": sorted(order[number::folds]) for number in range(folds)}
    for name, unknown in left_out.items():
        known = [label for label in classes if label not in unknown]
        parts = [of_classes(rows, known) for rows in (train, valid)]
        write_case(work_dir / name, *parts, valid[valid[LABEL].isin(unknown)])
    if len(held_out):
        write_case(work_dir / ALL_KNOWN, train, valid, held_out)
        left_out[ALL_KNOWN] = sorted(held_out[LABEL].unique())
    return left_out


def of_classes(rows: pd.DataFrame, known: list[str]) -> pd.DataFrame:
    """The rows of some classes, which are numbered anew."""
    rows = rows[rows[LABEL].isin(known)]
    return rows.assign(**{CLASS: rows[LABEL].map(known.index)})


def write_case(folder: Path, train: pd.DataFrame, valid: pd.DataFrame, unknown: pd.DataFrame) -> None:
    """The split of a case as open_set.py reads it: the knowns in test.csv, the unknowns in valid_unseen.csv."""
    parts = {"train": train, "valid": valid, "test": valid, "valid_unseen": unknown.assign(**{CLASS: -1})}
    study.write_parts(folder / "csv_split", parts)


def measure(bench: Bench, name: str, seed: int, unknown: list[str]) -> dict:
    """Every measure of every score in one case."""
    options = {**bench.settings["train"], "seed": seed}
    csv_dir, device = bench.work_dir / name / "csv_split", {"device": bench.cfg.device}

    def job(folder: Path) -> dict:
        checkpoint = study.train(folder, csv_dir, options | device)
        report = study.evaluate("open_set.py", folder, checkpoint, csv_dir, device | BRIEF)
        rejection = report["valid_unseen"]["rejection"]
        scores = {
            score: {key: figures[key] for key in (*MEASURES, "n_known", "n_unseen")}
            for score, figures in rejection["scores"].items()
        }
        accuracy = rejection["closed_set_accuracy"]
        return {"case": name, "seed": seed, "accuracy": accuracy, "scores": scores, "snr": report["snr_convention"]}

    made_on = {"unknown": unknown} | ({"csv_dir": str(bench.csv_dir)} if bench.cfg.csv_dir else {})
    return bench.network(f"{name}-{seed}", options, made_on, job)


def rank(cases: list[dict[str, dict[str, float]]]) -> list[dict]:
    """The scores, best first: mean rank by AUROC over the cases, equals by mean OSCR.

    Args:
        cases: score -> its measures, of the same scores each.

    Returns:
        Of each score its name, mean_rank and mean_oscr.
    """
    names = list(cases[0])
    ranks = np.mean([rankdata([-case[name]["auroc"] for name in names]) for case in cases], axis=0)
    oscr = np.mean([[case[name]["oscr"] for name in names] for case in cases], axis=0)
    order = sorted(range(len(names)), key=lambda index: (round(ranks[index], 9), -oscr[index]))
    return [{"score": names[i], "mean_rank": float(ranks[i]), "mean_oscr": float(oscr[i])} for i in order]


def page(content: dict) -> str:
    """The tables with what they were measured on."""
    cases, ranked = content["cases"], content["scores"]
    missing = len(content["seeds"]) * len(content["unknown_classes"]) - len(cases)
    lines = ["# The score that calls a particle unknown", ""]
    lines += [f"Not finished: {missing} cases are missing.", ""] if missing else []
    lines += [
        f"{study.describe(content)} SNR convention: {cases[0]['snr']}. `{content['command']}`",
        "",
        f"**{ranked[0]['score']}** wins: lowest mean rank by AUROC over {len(cases)} cases, ties by mean OSCR. "
        f"DEFAULT_SCORE was {content['default_score_before']}.",
    ]
    folds = [case for case in cases if case["case"] != ALL_KNOWN]
    held_out = [case for case in cases if case["case"] == ALL_KNOWN]
    kinds = {"Classes left out of the known ones": folds, "All known classes against valid_unseen.csv": held_out}
    for title, some in ((title, some) for title, some in kinds.items() if some):
        lines += ["", f"## {title}", "", f"Mean ± standard deviation over {counted(some)}", ""]
        rows = [
            [entry["score"], f"{entry['mean_rank']:.2f}", *(spread(some, entry["score"], key) for key in MEASURES)]
            for entry in ranked
        ]
        lines += study.markdown_table(["score", "mean rank, all cases", *MEASURES.values()], rows)
    lines += ["", "Unknown in each case: "]
    lines[-1] += "; ".join(f"{name}: {', '.join(labels)}" for name, labels in content["unknown_classes"].items()) + "."
    return "\n".join(lines) + "\n"


def counted(cases: list[dict]) -> str:
    """How many cases there are, and volumes in each."""
    ranges = []
    for key in ("n_known", "n_unseen"):
        counts = [next(iter(case["scores"].values()))[key] for case in cases]
        ranges.append(f"{min(counts):,}" + (f" to {max(counts):,}" if max(counts) > min(counts) else ""))
    return f"n = {len(cases)} cases of {ranges[0]} known and {ranges[1]} unknown volumes."


def spread(cases: list[dict], score: str, measure: str) -> str:
    return format_mean_std(mean_std([case["scores"][score][measure] for case in cases]))


if __name__ == "__main__":
    run(main, Config, __doc__)
