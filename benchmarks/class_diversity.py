"""Does seeing more shapes help with shapes never seen? Auxiliary procedural classes beside the known ones, or none.

-> benchmarks/results/class_diversity.{json,md}, or class_diversity_quick.{json,md}

    python -m benchmarks.class_diversity --structures structures --quick    # the benchmark's structures, on a CPU
    python -m benchmarks.class_diversity --structures structures            # the size for a GPU
    python -m benchmarks.class_diversity --quick                            # procedural complexes as known classes

Every run has the same number of steps and of volumes, simulated as they are needed; auxiliary classes take their share
of each batch. The figures are of fixed files: verification of valid_unseen, and accuracy of the known classes in
test.csv by prototype. The best row, by the mean AUC of valid_unseen, is then trained with more steps and width, as
is its loss without auxiliary classes. Unseen classes are not simulated at all. A benchmark that was cut off goes on
when called again with the same options.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks import runs
from benchmarks.runs import Size, Study, format_mean_std, mean_std
from common.cli import InputError, run
from loader.columns import snr_text

FULL = Size(
    {"per_class": "300"},
    {"width": "64", "epochs": "10", "online_volumes": "60000", "batch_size": "256"},
)
QUICK = Size({"per_class": "80"}, {"width": "8", "epochs": "4", "online_volumes": "4800"})
MORE = {"more steps": {"epochs": 3}, "more width": {"width": 2}, "both": {"epochs": 3, "width": 2}}  # factors


@dataclass(frozen=True)
class Config(Study):
    work_dir: str = "bench/class_diversity"  # folder for data, runs and logs
    losses: tuple[str, ...] = ("softmax", "soft_lmccl")  # names in LOSSES
    auxiliary: tuple[int, ...] = (0, 100, 300, 1000, 3000)  # numbers of auxiliary classes
    more: tuple[str, ...] = ("more steps", "more width", "both")  # of the best; none to leave it out
    seeds: tuple[int, ...] = (9, 10)  # of weights, of what is simulated, and of the auxiliary shapes


def main(cfg: Config) -> None:
    if not (cfg.losses and cfg.auxiliary and cfg.seeds) or not {*cfg.more} <= {*MORE}:
        raise InputError(f"expected at least one of --losses, --auxiliary and --seeds, and --more of {', '.join(MORE)}")
    size = QUICK if cfg.quick else FULL
    work_dir = Path(cfg.work_dir).absolute()
    classes = replace(runs.class_set(cfg.structures), unseen=())
    simulate = {**size.simulate, **cfg.simulate_options}
    csv_dir, data = runs.make_split(work_dir, classes, cfg.structures, cfg.device, simulate)
    settings, stem = cfg.settings(size, data, cfg.seeds), cfg.stem("class_diversity")
    done: dict[str, list[dict]] = {}
    for seed, loss, auxiliary in product(cfg.seeds, cfg.losses, cfg.auxiliary):
        measure(cfg, work_dir, csv_dir, settings, done, (loss, auxiliary, ""), seed)
        runs.write_results(stem, settings | {"rows": summarise(done)}, page(settings, done))
    loss, auxiliary, _ = best(done)
    for seed, more in product(cfg.seeds, cfg.more):
        for count in sorted({0, auxiliary}):
            measure(cfg, work_dir, csv_dir, settings, done, (loss, count, more), seed)
        runs.write_results(stem, settings | {"rows": summarise(done)}, page(settings, done))
    print(page(settings, done))
    print(f"written: {stem}.json, {stem}.md")


def measure(
    cfg: Config, work_dir: Path, csv_dir: Path, settings: dict, done: dict, row: tuple[str, int, str], seed: int
) -> None:
    """Train one row with one seed and add its figures to `done`."""
    loss, auxiliary, more = row
    options = {**settings["train"], "loss": loss, "auxiliary": auxiliary, "seed": seed}
    options["auxiliary_seed"] = seed
    options |= {name: int(options[name]) * factor for name, factor in MORE.get(more, {}).items()}
    name = f"{loss}-{auxiliary}{'-' + more.replace(' ', '_') if more else ''}-{seed}"
    folder = work_dir / name

    def job() -> dict:
        print(f"{name}: training", flush=True)
        given = {"simulate_online": True, "data_dir": work_dir / "data_", "device": cfg.device}
        given |= {"structures": Path(cfg.structures).absolute()} if cfg.structures else {}
        checkpoint = runs.train(folder, csv_dir, options | given)
        only = {"device": cfg.device, "bootstrap": 1, **runs.BRIEF}
        return figures(runs.evaluate("open_set.py", folder, checkpoint, csv_dir, only))

    result = runs.once(folder / "result.json", {"data": settings["data"]} | options, job)
    runs.remove_weights(folder)
    done.setdefault(" | ".join(map(str, row)), []).append({"seed": seed, **result})
    print(f"{name}: pair AUC {result['auc']:.3f}, known accuracy {result['accuracy']:.3f}", flush=True)


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


def summarise(done: dict[str, list[dict]]) -> list[dict]:
    """Mean and deviation over seeds of every figure of every row."""
    rows = []
    for name, results in done.items():
        loss, auxiliary, more = name.split(" | ")
        means = {key: mean_std([result[key] for result in results]) for key in results[0] if key != "seed"}
        rows.append({"loss": loss, "auxiliary": int(auxiliary), "more": more, "seeds": results, **means})
    return rows


def best(done: dict[str, list[dict]]) -> tuple[str, int, str]:
    """The row of the highest mean AUC on valid_unseen."""
    row = max(summarise(done), key=lambda row: row["auc"]["mean"])
    return row["loss"], row["auxiliary"], row["more"]


def page(settings: dict, done: dict[str, list[dict]]) -> str:
    """The table, with what it was measured on."""
    rows = summarise(done)
    keys = [key for key in rows[0] if key.startswith("auc")] + ["val", "accuracy"]
    heads = {"auc": "pair AUC, all", "val": "VAL at FAR 1e-2", "accuracy": "known accuracy"}
    head = ["loss", "auxiliary classes", "budget"]
    head += [heads.get(key, f"pair AUC, {snr_text(key.removeprefix('auc_'))}") for key in keys]
    cells = [
        [row["loss"], str(row["auxiliary"]), row["more"] or "same", *(format_mean_std(row[key]) for key in keys)]
        for row in rows
    ]
    n = rows[0]["n_valid_unseen"]["mean"], rows[0]["n_test"]["mean"]
    lines = ["# Class diversity", "", runs.describe(settings), ""]
    lines += [f"Pairs of valid_unseen.csv (n = {n[0]:.0f} volumes); known accuracy by class prototype on test.csv (n ="]
    lines[-1] += f" {n[1]:.0f}). Mean ± standard deviation over seeds."
    return "\n".join([*lines, "", *runs.markdown_table(head, cells)]) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
