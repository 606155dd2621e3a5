"""Which loss is best on known and on unseen classes? Each is trained under one budget on the same data and seeds.

-> benchmarks/results/losses.{json,md}, or losses_quick.{json,md}

    python -m benchmarks.losses --quick                             # procedural complexes, CPU
    python -m benchmarks.losses --structures structures --quick     # the benchmark's structures, of your folder
    python -m benchmarks.losses --structures structures             # the size for a GPU
    python -m benchmarks.losses --quick --rows soft_lmccl softmax soft_lmccl_m0 --seeds 9 10

Seeds change training alone: the data are made once. The tables are written after each network; a benchmark that was
cut off goes on when called again with the same options. The best row is the one of the highest mean AUC of pairs of
valid_unseen.csv; unseen.csv chooses nothing, and is not reported for rows that try an option.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks import study
from benchmarks.study import MEASURES, SETS, Bench, ScriptError, Study, format_mean_std, mean_std, means_table
from common.cli import InputError, plural, run
from loss.loss import AUTHORS, LOSSES, ORIGINAL


@dataclass(frozen=True)
class Config(Study):
    csv_dir: str = ""  # folder of a split to use; empty: one is simulated in work_dir
    rows: tuple[str, ...] = tuple(LOSSES)  # names in ROWS of benchmarks/losses.py


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


def main(cfg: Config) -> None:
    check(cfg)
    bench = study.begin(cfg, "losses", study.class_set(cfg.structures), csv_dir=cfg.csv_dir)
    done: dict[str, list[dict]] = {name: [] for name in cfg.rows}
    failed = []
    for seed, name in product(cfg.seeds, cfg.rows):
        try:
            done[name].append(measure(bench, name, seed))
        except ScriptError as error:
            failed.append(f"{name}, seed {seed}: {error}")
            print(failed[-1], flush=True)
            continue
        print(f"{name}, seed {seed}: accuracy {done[name][-1]['accuracy']:.3f}", flush=True)
        content = bench.settings | report(done)
        study.write_results(bench.stem, content, page(content))
    if failed:
        raise InputError(f"{len(failed)} runs failed, call again to repeat them: {'; '.join(failed)}")
    study.show(bench.stem)


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


def measure(bench: Bench, name: str, seed: int) -> dict:
    """The figures of one row and seed."""
    loss, loss_options, more = ROWS[name]
    words = [str(word) for pair in loss_options.items() for word in pair]
    options = {**bench.settings["train"], "loss": loss, "seed": seed, **more}
    options |= {"loss_options": words} if words else {}

    def job(folder: Path) -> dict:
        result = {"seed": seed, **bench.train_and_measure(folder, options)}
        if name not in LOSSES:  # a row that tries an option: its choice must not see the final figures
            result.pop("unseen", None)
        return result

    made_on = {"csv_dir": str(bench.csv_dir)} if bench.cfg.csv_dir else {}
    return bench.network(f"{name}-{seed}", options, made_on, job)


def report(done: dict[str, list[dict]]) -> dict:
    """Every network, the mean and standard deviation of each row over its seeds, the best row, and what that means."""
    rows = {}
    for name, finished in done.items():
        loss, options, more = ROWS[name]
        rows[name] = {"loss": loss, "options": options | more, "mean": study.over_seeds(finished), "runs": finished}
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
    auc = {
        name: {each["seed"]: each["valid_unseen"]["auc"] for each in rows[name]["runs"]} for name in (REFERENCE, best)
    }
    shared = auc[REFERENCE].keys() & auc[best].keys()
    behind = mean_std([auc[best][seed] - auc[REFERENCE][seed] for seed in sorted(shared)])
    return (
        f"{text} Soft LMCCL ({REFERENCE}) is not the best: {figure[REFERENCE]}, behind by {format_mean_std(behind)} "
        f"(mean difference of the {behind['n']} {plural('seed', behind['n'])} that both have)."
    )


def page(content: dict) -> str:
    """The tables with what they were measured on."""
    rows = content["rows"]
    finished = [each for row in rows.values() for each in row["runs"]]
    missing = len(rows) * len(content["seeds"]) - len(finished)
    known = finished[0]
    lines = ["# Losses under one budget", ""]
    lines += [f"Not finished: {missing} runs are missing.", ""] if missing else []
    lines += [
        f"{study.describe(study.with_network(content))} SNR convention: {known['snr_convention']}. "
        f"Mean ± standard deviation over seeds. `{content['command']}`",
        *("", content["verdict"], ""),
        *(f"## Known classes: {', '.join(known['known'])}; test.csv, n = {known['n_test']:,}", ""),
        *table(rows, content["best"], {"accuracy": ("accuracy",)}),
    ]
    for part in SETS:
        entry = next((each[part] for each in finished if part in each), None)
        if entry is None:
            continue
        use = "to choose by" if part == "valid_unseen" else "chooses nothing"
        score = entry.get("score")  # older results have no figure of rejection
        lines += [
            *("", f"## {part}.csv, {use}: {', '.join(entry['classes'])}", ""),
            f"n = {entry['n']:,} volumes; {entry['n_same']:,} same and {entry['n_different']:,} different pairs."
            + (f" Rejection is by {score}, against test.csv." if score else ""),
            *("", *table(rows, content["best"], {head: (part, key) for key, head in MEASURES.items()})),
        ]
    return "\n".join(lines) + "\n"


def table(rows: dict, best: str | None, columns: dict[str, tuple[str, ...]]) -> list[str]:
    """One line per row of `report` that was trained, the best in bold."""
    trained = {name: row for name, row in rows.items() if row["runs"]}
    labels = {name: f"**{name}** (best)" if name == best else name for name in trained}
    lines = [((labels[name], str(len(row["runs"]))), row["mean"]) for name, row in trained.items()]
    return means_table(("loss", "seeds"), columns, lines)


if __name__ == "__main__":
    run(main, Config, __doc__)
