"""Does seeing more shapes help with shapes never seen? Auxiliary procedural classes beside the known ones, or none.

-> benchmarks/results/class_diversity.{json,md}, or class_diversity_quick.{json,md}

    python -m benchmarks.class_diversity --structures structures --quick    # the benchmark's structures, on a CPU
    python -m benchmarks.class_diversity --structures structures            # the size for a GPU
    python -m benchmarks.class_diversity --quick                            # procedural complexes as known classes

Every network gets the same number of steps and of volumes, simulated as they are needed; auxiliary classes take their
share of each batch. The figures are of fixed files: verification of valid_unseen, and accuracy of the known classes in
test.csv by prototype. The best row, by the mean AUC of valid_unseen, is then trained with more steps and width, as
is its loss without auxiliary classes. Unseen classes are not simulated at all. A benchmark that was cut off goes on
when called again with the same options.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks import study
from benchmarks.study import BRIEF, PLAIN, Bench, Size, Study, mean_std, means_table
from common.cli import InputError, run
from loader.columns import snr_text

FULL = Size(
    {"per_class": "300"}, {"width": "64", "epochs": "10", "online_volumes": "60000", "batch_size": "256", **PLAIN}
)
QUICK = Size({"per_class": "80"}, {"width": "8", "epochs": "4", "online_volumes": "4800", **PLAIN})
MORE = {"more steps": {"epochs": 3}, "more width": {"width": 2}, "both": {"epochs": 3, "width": 2}}  # factors


@dataclass(frozen=True)
class Config(Study):
    losses: tuple[str, ...] = ("softmax", "soft_lmccl")  # names in LOSSES of loss/loss.py
    auxiliary: tuple[int, ...] = (0, 100, 300, 1000, 3000)  # numbers of auxiliary classes to train beside
    more: tuple[str, ...] = ("more steps", "more width", "both")  # what the best is given more of; none to leave it out
    seeds: tuple[int, ...] = (9, 10)  # seeds of weights, of what is simulated, and of the auxiliary shapes


@dataclass(frozen=True)
class Row:
    """What is trained: a loss beside a number of auxiliary classes, with a budget of MORE or the same as all."""

    loss: str
    auxiliary: int
    more: str = ""


def main(cfg: Config) -> None:
    if not (cfg.losses and cfg.auxiliary and cfg.seeds) or not {*cfg.more} <= {*MORE}:
        raise InputError(f"expected at least one of --losses, --auxiliary and --seeds, and --more of {', '.join(MORE)}")
    classes = replace(study.class_set(cfg.structures), unseen=())
    bench = study.begin(cfg, "class_diversity", classes, (FULL, QUICK))
    done: dict[Row, list[dict]] = {}
    for seed, loss, auxiliary in product(cfg.seeds, cfg.losses, cfg.auxiliary):
        add(bench, done, Row(loss, auxiliary), seed)
    best = max(done, key=lambda row: mean_std([each["auc"] for each in done[row]])["mean"])
    for seed, more, auxiliary in product(cfg.seeds, cfg.more, sorted({0, best.auxiliary})):
        add(bench, done, Row(best.loss, auxiliary, more), seed)
    study.show(bench.stem)


def add(bench: Bench, done: dict[Row, list[dict]], row: Row, seed: int) -> None:
    """Train one row with one seed, add its figures to `done`, and write what there is."""
    options = {**bench.settings["train"], "loss": row.loss, "auxiliary": row.auxiliary}
    options |= {"seed": seed, "auxiliary_seed": seed}
    options |= {name: int(options[name]) * factor for name, factor in MORE.get(row.more, {}).items()}
    device = {"device": bench.cfg.device}
    given = {"simulate_online": True, **bench.simulated_from(), **device}
    name = f"{row.loss}-{row.auxiliary}{'-' + row.more.replace(' ', '_') if row.more else ''}-{seed}"

    def job(folder: Path) -> dict:
        checkpoint = study.train(folder, bench.csv_dir, options | given)
        return figures(study.evaluate("open_set.py", folder, checkpoint, bench.csv_dir, device | BRIEF))

    result = bench.network(name, options, {}, job)
    done.setdefault(row, []).append({"seed": seed, **result})
    print(f"{name}: pair AUC {result['auc']:.3f}, known accuracy {result['accuracy']:.3f}", flush=True)
    content = bench.settings | {"rows": summarise(done)}
    study.write_results(bench.stem, content, page(content))


def figures(opened: dict) -> dict:
    """What the table needs of open_set.json."""
    part = opened["valid_unseen"]["verification"]
    scale = part["unseen_unseen"]
    return {
        "auc": scale["auc"],
        **{f"auc_{level['snr']}": level["unseen_unseen"]["auc"] for level in part["per_snr"]},
        "val": scale["val_at_far"]["0.01"]["value"] if scale["val_at_far"] else None,
        "accuracy": opened["known"]["prototype_accuracy"],
        "n_valid_unseen": opened["valid_unseen"]["n"],
        "n_test": opened["known"]["n"],
    }


def summarise(done: dict[Row, list[dict]]) -> list[dict]:
    """Mean and deviation over seeds of every figure of every row."""
    rows = []
    for row, results in done.items():
        means = {key: mean_std([result[key] for result in results]) for key in results[0] if key != "seed"}
        rows.append({"loss": row.loss, "auxiliary": row.auxiliary, "more": row.more, "seeds": results, **means})
    return rows


def page(content: dict) -> str:
    """The table, with what it was measured on."""
    rows = content["rows"]
    keys = [key for key in rows[0] if key.startswith("auc_")]
    columns = {"pair AUC, all": "auc"} | {f"pair AUC, {snr_text(key.removeprefix('auc_'))}": key for key in keys}
    columns |= {"VAL at FAR 1e-2": "val", "known accuracy": "accuracy"}
    n = rows[0]["n_valid_unseen"]["mean"], rows[0]["n_test"]["mean"]
    table = means_table(
        ("loss", "auxiliary classes", "budget"),
        {head: (key,) for head, key in columns.items()},
        [((row["loss"], str(row["auxiliary"]), row["more"] or "same"), row) for row in rows],
    )
    lines = [
        *("# Class diversity", "", study.describe(study.with_network(content)), ""),
        f"Pairs of valid_unseen.csv (n = {n[0]:.0f} volumes); known accuracy by class prototype on test.csv (n = "
        f"{n[1]:.0f}). Mean ± standard deviation over seeds. "
        f"`{content['command']}`",
        *("", *table),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
