"""What makes a better network for shapes and imaging that it never saw? One change of the recipe `universal` a row.

-> benchmarks/results/levers.{json,md}, or levers_quick.{json,md}

    python -m benchmarks.levers --structures structures --quick     # five minutes of one CPU core a row
    python -m benchmarks.levers --structures structures             # the size for a GPU
    python -m benchmarks.levers --structures structures --quick --rows base softmax --seeds 9 10 --minutes 15

Every network trains for the same time: its steps are timed first, with the making of their batches, and it gets as many
volumes as fit. Nothing else is tuned for a row. On a CPU that is processor time, as others may use the processor too.
Each is evaluated under the sets of benchmarks/sets.py; rows are ranked by the mean pair AUC on valid_unseen.csv of
benchmark, lab and hard. `series` and `other` rank nothing. A benchmark that was cut off goes on when called again; the
rows that the results hold are kept, also on another machine.
"""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks import sets, study
from benchmarks.stream import step_seconds
from benchmarks.study import Bench, Size, Study
from common.cli import InputError, run
from simulation.sets import SETS
from training.recipes import RECIPES

UNIVERSAL = RECIPES["universal"] | {"loss_options": "margin_weight 0.3", "online_stock": 4096, "epochs": 5}
UNIVERSAL |= {"prototype_per_class": 100}
FULL = Size({"per_class": "120", "envelope": "inf"}, UNIVERSAL | {"width": 64})
QUICK = Size({"per_class": "60", "envelope": "inf"}, UNIVERSAL | {"width": 16, "auxiliary": 1000})
MINUTES = {False: 60.0, True: 5.0}  # of a row, without and with --quick
TIMED = 10.0  # seconds of timing the steps
BATCH = 64  # volumes of a step, train.py's default
CHOOSING = ("benchmark", "lab", "hard")  # sets that rank the rows

# a row's options in place of the recipe's: None for train.py's default, `x 2` for twice as much
LEVERS: dict[str, dict[str, str | bool | None]] = {
    "base": {},
    "resnet_pool": {"backbone": "resnet_pool"},
    "GeM pooling": {"backbone": "resnet_half_turn_gem"},
    "width x 1.5": {"width": "x 1.5"},
    "width x 2": {"width": "x 2"},
    "depth 10": {"depth": "10"},
    "depth 34": {"depth": "34"},
    "softmax": {"loss": "softmax", "loss_options": None},
    "margin weight 0.1": {"loss_options": "margin_weight 0.1"},
    "margin weight 1": {"loss_options": "margin_weight 1"},
    "margin that grows": {"loss_options": "margin_weight 0.3 warmup_epochs 4"},
    "300 auxiliary": {"auxiliary": "300"},
    "3,000 auxiliary": {"auxiliary": "3000"},
    "10,000 auxiliary": {"auxiliary": "10000"},
    "known 10 %": {"auxiliary_share": "0.9"},
    "known 60 %": {"auxiliary_share": "0.4"},
    "averaged weights": {"ema": "0.999"},
    "no junk": {"online_junk": "0"},
    "SNR from 0.003": {"online_snr": "0.003 1"},
    "clean twin 0.3": {"clean_twin": "0.3"},
    "margin follows SNR": {"margin_snr": True},
    "within-class whitening": {"whiten": "0.5"},
}


@dataclass(frozen=True)
class Config(Study):
    rows: tuple[str, ...] = tuple(LEVERS)  # names in LEVERS of benchmarks/levers.py
    minutes: float = 0.0  # time of training of each network; 0: 60, or 5 with --quick
    per_class: int = 15  # particles per class of each set of the evaluation
    seeds: tuple[int, ...] = (9,)  # seeds of weights and of what is simulated


def main(cfg: Config) -> None:
    unknown = [name for name in cfg.rows if name not in LEVERS]
    if unknown or not cfg.rows or not cfg.seeds:
        raise InputError(f"--rows {' '.join(cfg.rows)}: expected some of {', '.join(LEVERS)}, and at least one seed")
    bench = study.begin(cfg, "levers", replace(study.class_set(cfg.structures), unseen=()), (FULL, QUICK))
    minutes = cfg.minutes or MINUTES[cfg.quick]
    settings = bench.settings | {"minutes": minutes, "per_class": cfg.per_class}
    done = finished(Path(f"{bench.stem}.json"), settings)
    for seed, name in product(cfg.seeds, cfg.rows):
        if any(run["seed"] == seed for run in done.get(name, ())):
            continue
        options = row_options(bench.settings["train"], LEVERS[name]) | {"seed": seed}
        job = trained(bench, options, minutes)
        folder = f"{name.replace(' ', '_').replace(',', '')}-{seed}"
        result = bench.network(folder, options, {"minutes": minutes, "per_class": cfg.per_class}, job)
        speed = {"matrix_seconds": bench.settings["matrix_seconds"]}  # of the machine, which may be another each time
        done.setdefault(name, []).append({"seed": seed, **speed, **result})
        print(f"{name}, seed {seed}: {merit(result):.4f}, {result['volumes']:,} volumes", flush=True)
        content = settings | {"rows": {key: {"options": LEVERS[key], "runs": runs} for key, runs in done.items()}}
        study.write_results(bench.stem, content, page(content))
    study.show(bench.stem)


def finished(path: Path, settings: Mapping) -> dict[str, list[dict]]:
    """The runs of each row that results hold already, if they were made with the same settings and options."""
    if not path.is_file():
        return {}
    kept, wanted = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    if any(kept.get(key) != wanted[key] for key in ("data", "train", "minutes", "per_class")):
        return {}
    return {name: row["runs"] for name, row in kept["rows"].items() if LEVERS.get(name) == row["options"]}


def row_options(base: Mapping, lever: Mapping[str, str | bool | None]) -> dict:
    """The options of train.py of a row."""
    changed = {}
    for name, value in lever.items():
        times = isinstance(value, str) and value.startswith("x ")
        changed[name] = round(float(value[2:]) * base[name]) if times else value
    return {name: value for name, value in {**base, **changed}.items() if value is not None}


def trained(bench: Bench, options: Mapping, minutes: float) -> Callable[[Path], dict]:
    """What trains a network for so many minutes, and measures it under every set."""

    def job(folder: Path) -> dict:
        given = {**options, **bench.simulated_from()}
        timed = study.once(folder / "speed.json", {}, lambda: {"seconds": step_seconds(bench, given, TIMED)})
        steps = max(1, int(60 * minutes / timed["seconds"] / options["epochs"]))
        volumes = steps * BATCH
        given |= {"online_volumes": volumes, "device": bench.cfg.device}
        checkpoint = study.train(folder, bench.csv_dir, given).with_name("last.pt")
        figures = sets.figures_of(checkpoint, folder, bench, per_class=bench.cfg.per_class)
        return {"volumes": volumes * options["epochs"], "sets": figures}

    return job


def merit(result: Mapping) -> float:
    """The mean pair AUC over the sets that choose."""
    return statistics.fmean(result["sets"][name]["auc"] for name in CHOOSING)


def page(content: dict) -> str:
    """The rows, best first."""

    def mean(runs: list[dict]) -> float:
        return statistics.fmean(merit(each) for each in runs)

    rows = sorted(content["rows"].items(), key=lambda row: -mean(row[1]["runs"]))
    n_known, n_unknown = rows[0][1]["runs"][0]["sets"]["benchmark"]["n"]
    speeds = [run["matrix_seconds"] for _, row in rows for run in row["runs"] if "matrix_seconds" in run]
    machines = f" On these machines the matrix product took {min(speeds):.2g} to {max(speeds):.2g} s." if speeds else ""
    lines = [
        *("# Levers", "", study.describe(content), ""),
        f"{content['minutes']:g} minutes of training a network, of one core on a CPU; each set has {n_known:,} volumes "
        f"of known and {n_unknown:,} of valid_unseen classes, all SNRs mixed. Best first, by the mean pair AUC of "
        f"{', '.join(CHOOSING)}. Mean ± standard deviation over seeds.{machines} `{content['command']}`",
    ]
    heads = {
        "auc": "Pairs of valid_unseen, AUC",
        "val": "VAL at FAR 1e-2",
        "auroc": "Known against unseen, AUROC",
        "accuracy": "Known accuracy",
        "refused": "Knowns refused",
        "detected": "Unknowns detected",
        "junk": "Known particles against junk, AUROC",
    }
    for key, head in heads.items():
        cells = []
        for name, row in rows:
            runs = row["runs"]
            figures = [study.mean_std([each["sets"][one].get(key) for each in runs]) for one in SETS]
            volumes = statistics.fmean(each["volumes"] for each in runs)
            own = [study.format_mean_std(study.mean_std([merit(each) for each in runs]))] if key == "auc" else []
            cells.append([name, f"{volumes:,.0f}", *own, *map(study.format_mean_std, figures)])
        rank = ["mean of those that rank"] if key == "auc" else []
        lines += ["", f"## {head}", "", *study.markdown_table(["row", "volumes", *rank, *SETS], cells)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
