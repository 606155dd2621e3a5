"""Train each loss under one budget on the same data and seeds, and compare them on known and on unseen classes.

-> benchmarks/results/losses.{json,md}, or losses_quick.{json,md}

    python -m benchmarks.losses --quick                             # procedural complexes, CPU
    python -m benchmarks.losses --structures structures --quick     # the benchmark's structures, of your folder
    python -m benchmarks.losses --structures structures             # the size for a GPU
    python -m benchmarks.losses --quick --rows soft_lmccl softmax soft_lmccl_m0 --seeds 9 10

Seeds change training alone: the data are made once. The tables are written after each run; a benchmark that was cut off
goes on when called again with the same options. The best row is the one of the highest mean AUC of pairs of
valid_unseen.csv; unseen.csv chooses nothing, and is not reported for rows that try an option.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks import runs
from benchmarks.runs import ScriptError, Study, format_mean_std, mean_std
from common.cli import InputError, run
from loss.loss import AUTHORS, LOSSES, ORIGINAL


@dataclass(frozen=True)
class Config(Study):
    work_dir: str = "bench/losses"  # folder for data, runs and logs
    csv_dir: str = ""  # a split to use; empty: one is simulated in work_dir
    rows: tuple[str, ...] = tuple(LOSSES)  # names in ROWS
    seeds: tuple[int, ...] = (9, 10, 11)  # of weights, order and augmentation
    keep_weights: bool = False  # keep the checkpoints of finished runs


BALANCED = {"class_samples": 8}  # volumes of each of the classes in a batch
# name: (loss, its options, options of train.py); other rows than the losses as they are must be asked for with --rows
ROWS: dict[str, tuple[str, dict, dict]] = {name: (name, {}, {}) for name in LOSSES} | {
    "soft_lmccl_authors": ("soft_lmccl", AUTHORS, {}),
    "soft_lmccl_original": ("soft_lmccl", ORIGINAL, {}),
    "soft_lmccl_s64": ("soft_lmccl", {"s": 64.0}, {}),
    "soft_lmccl_s_auto": ("soft_lmccl", {"s": "auto"}, {}),
    "soft_lmccl_m0": ("soft_lmccl", {"m": 0.0}, {}),
    "soft_lmccl_m0.2": ("soft_lmccl", {"m": 0.2}, {}),
    "soft_lmccl_warmup": ("soft_lmccl", {"warmup_epochs": 5}, {}),
    "soft_lmccl_margin0.1": ("soft_lmccl", {"margin_weight": 0.1}, {}),
    "soft_lmccl_no_center": ("soft_lmccl", {"center_weight": 0.0}, {}),
    "soft_lmccl_center0.03": ("soft_lmccl", {"center_weight": 0.03}, {}),
    "soft_lmccl_raw_center": ("soft_lmccl", {"center_features": "raw"}, {}),
    "soft_lmccl_balanced": ("soft_lmccl", {}, BALANCED),
    "triplet_balanced": ("triplet", {}, BALANCED),
    "supcon_balanced": ("supcon", {}, BALANCED),
}
REFERENCE = "soft_lmccl"
SETS = ("valid_unseen", "unseen")
# of an unseen set, with the column's head
MEASURES = {"auc": "pair AUC", "eer": "EER", "val": "VAL at FAR 1e-2", "auroc": "rejection AUROC", "oscr": "OSCR"}


def main(cfg: Config) -> None:
    check(cfg)
    size = runs.QUICK if cfg.quick else runs.FULL
    work_dir = Path(cfg.work_dir).absolute()
    csv_dir, data = Path(cfg.csv_dir).absolute(), {"source": "a split that was given"}
    if not cfg.csv_dir:
        classes, simulate = runs.class_set(cfg.structures), {**size.simulate, **cfg.simulate_options}
        csv_dir, data = runs.make_split(work_dir, classes, cfg.structures, cfg.device, simulate)
    settings, stem = cfg.settings(size, data, cfg.seeds), cfg.stem("losses")
    done: dict[str, list[dict]] = {name: [] for name in cfg.rows}
    failed = []
    for seed, name in product(cfg.seeds, cfg.rows):
        try:
            done[name].append(run_once(cfg, work_dir, csv_dir, settings, name, seed))
        except ScriptError as error:
            failed.append(f"{name}, seed {seed}: {error}")
            print(failed[-1], flush=True)
            continue
        print(f"{name}, seed {seed}: accuracy {done[name][-1]['accuracy']:.3f}", flush=True)
        content = settings | report(done)
        runs.write_results(stem, content, page(content))
    if failed:
        raise InputError(f"{len(failed)} runs failed, call again to repeat them: {'; '.join(failed)}")
    print(page(content))
    print(f"written: {stem}.json, {stem}.md")


def check(cfg: Config) -> None:
    """Refuse rows that are not there, and options that the benchmark gives itself."""
    unknown = [name for name in cfg.rows if name not in ROWS]
    if unknown:
        raise InputError(f"--rows {' '.join(unknown)}: expected some of {', '.join(ROWS)}")
    if not cfg.rows or not cfg.seeds:
        raise InputError(f"{len(cfg.rows)} --rows, {len(cfg.seeds)} --seeds: expected at least one of each")
    given = {"loss", "loss_options", "seed", "device", "csv_dir", "save_dir"}
    given.update(*(ROWS[name][2] for name in cfg.rows))
    taken = given & cfg.train_options.keys()
    if taken:
        raise InputError(f"--train-options {', '.join(sorted(taken))}: not to be given, the benchmark does")


def run_once(cfg: Config, work_dir: Path, csv_dir: Path, settings: dict, name: str, seed: int) -> dict:
    """The figures of one row and seed: trained, tested, and kept in its folder."""
    loss, loss_options, more = ROWS[name]
    words = [str(word) for pair in loss_options.items() for word in pair]
    options = {**settings["train"], "loss": loss, "seed": seed, **more} | ({"loss_options": words} if words else {})
    folder = work_dir / f"{name}-{seed}"

    def job() -> dict:
        print(f"{name}, seed {seed}: training", flush=True)
        result = {"seed": seed, **train_and_measure(folder, csv_dir, options, cfg.device)}
        if name not in LOSSES:  # a row that tries an option: its choice must not see the final figures
            result.pop("unseen", None)
        return result

    made_on = {"data": settings["data"], **({"csv_dir": str(csv_dir)} if cfg.csv_dir else {})}
    result = runs.once(folder / "result.json", made_on | options, job)
    if not cfg.keep_weights:
        runs.remove_weights(folder)
    return result


def train_and_measure(folder: Path, csv_dir: Path, options: dict, device: str) -> dict:
    """Train in `folder` with these options of train.py; the figures of the best checkpoint."""
    checkpoint = runs.train(folder, csv_dir, options | {"device": device})
    closed = runs.evaluate("test.py", folder, checkpoint, csv_dir, {"device": device})
    brief = {"device": device, "bootstrap": 1, **runs.BRIEF}
    return figures(closed, runs.evaluate("open_set.py", folder, checkpoint, csv_dir, brief))


def figures(closed: dict, opened: dict) -> dict:
    """What the tables need of closed_set.json and open_set.json."""
    result = {
        "accuracy": closed["accuracy"],
        "n_test": closed["n"],
        "known": closed["classes"],
        "snr_convention": closed["snr_convention"],
    }
    for name in (name for name in SETS if name in opened):
        part = opened[name]
        pairs, rejection = part["verification"]["unseen_unseen"], part["rejection"]
        score = rejection["scores"][rejection["default_score"]]
        result[name] = {
            "auc": pairs["auc"],
            "eer": pairs["eer"],
            "val": pairs["val_at_far"]["0.01"]["value"] if pairs["val_at_far"] else None,
            "auroc": score["auroc"],
            "oscr": score["oscr"],
            "score": rejection["default_score"],
            "classes": part["classes"],
            "n": part["n"],
            "n_same": pairs["n_same"],
            "n_different": pairs["n_different"],
        }
    return result


def report(done: dict[str, list[dict]]) -> dict:
    """Every run, the mean and standard deviation of each row over its seeds, the best row, and what that means."""
    rows = {}
    for name, finished in done.items():
        loss, options, more = ROWS[name]
        mean = {"accuracy": mean_std([each["accuracy"] for each in finished])}
        for part in SETS:
            if all(part in each for each in finished):
                mean[part] = {key: mean_std([each[part][key] for each in finished]) for key in MEASURES}
        rows[name] = {"loss": loss, "options": options | more, "mean": mean, "runs": finished}
    ranked = [name for name in rows if choice(rows[name]) is not None]
    best = max(ranked, key=lambda name: choice(rows[name]), default=None)
    return {"rows": rows, "best": best, "verdict": verdict(rows, best)}


def choice(row: dict) -> float | None:
    """What makes a row the best: its mean pair AUC on valid_unseen.csv."""
    return row["mean"].get("valid_unseen", {}).get("auc", {}).get("mean")


def verdict(rows: dict, best: str | None) -> str:
    """The best row in words; how far the reference is behind it, seed by seed."""
    if best is None:
        return "No row is the best: valid_unseen.csv holds no pairs of particles to choose by."
    figure = {name: format_mean_std(row["mean"]["valid_unseen"]["auc"]) for name, row in rows.items() if choice(row)}
    text = f"Best by mean pair AUC on valid_unseen.csv: **{best}**, {figure[best]}."
    if REFERENCE not in figure:
        return text
    if best == REFERENCE:
        return f"{text} Soft LMCCL is the best."
    auc = {name: {run["seed"]: run["valid_unseen"]["auc"] for run in rows[name]["runs"]} for name in (REFERENCE, best)}
    shared = auc[REFERENCE].keys() & auc[best].keys()
    behind = mean_std([auc[best][seed] - auc[REFERENCE][seed] for seed in sorted(shared)])
    return (
        f"{text} Soft LMCCL ({REFERENCE}) is not the best: {figure[REFERENCE]}, behind by {format_mean_std(behind)} "
        f"(mean difference of the {behind['n']} seeds that both have)."
    )


def page(content: dict) -> str:
    """The tables with what they were measured on."""
    rows = content["rows"]
    finished = [run for row in rows.values() for run in row["runs"]]
    missing = len(rows) * len(content["seeds"]) - len(finished)
    lines = ["# Losses under one budget", ""]
    lines += [f"Not finished: {missing} runs are missing.", ""] if missing else []
    known = finished[0]
    lines += [
        f"{runs.describe(content)} SNR convention: {known['snr_convention']}. Mean ± standard deviation over seeds. "
        "`python -m benchmarks.losses`",
        "",
        content["verdict"],
        "",
    ]
    lines += [f"## Known classes: {', '.join(known['known'])}; test.csv, n = {known['n_test']:,}", ""]
    lines += table(rows, content["best"], None)
    for part in SETS:
        entry = next((run[part] for run in finished if part in run), None)
        if entry is None:
            continue
        use = "to choose by" if part == "valid_unseen" else "chooses nothing"
        lines += [
            "",
            f"## {part}.csv, {use}: {', '.join(entry['classes'])}",
            "",
            f"n = {entry['n']:,} volumes; {entry['n_same']:,} same and {entry['n_different']:,} different pairs. "
            f"Rejection is by {entry['score']}, against test.csv.",
            "",
            *table(rows, content["best"], part),
        ]
    return "\n".join(lines) + "\n"


def table(rows: dict, best: str | None, part: str | None) -> list[str]:
    """One line a row of `report`, the best row in bold; of an unseen set, or, for None, of the known classes."""
    measures = MEASURES if part else {"accuracy": "accuracy"}
    lines = []
    for name, row in rows.items():
        if not row["runs"]:
            continue
        means = row["mean"].get(part, {}) if part else row["mean"]
        label = f"**{name}** (best)" if name == best else name
        lines.append(
            [label, str(len(row["runs"])), *(format_mean_std(means[key]) if key in means else "-" for key in measures)]
        )
    return runs.markdown_table(["loss", "seeds", *measures.values()], lines)


if __name__ == "__main__":
    run(main, Config, __doc__)
