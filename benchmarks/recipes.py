"""What does each recipe of train.py reach on the same data, at one width and number of epochs for all?

-> benchmarks/results/recipes.{json,md}, or recipes_quick.{json,md}

    python -m benchmarks.recipes --structures structures --quick     # the benchmark's structures, on a CPU
    python -m benchmarks.recipes --structures structures             # the size for a GPU
    python -m benchmarks.recipes --quick --rows default diverse --seeds 9 10 11

Width and epochs are those of the size, whatever a recipe says: what remains of it are its network, loss, optimiser,
schedule, batch, enlargement and augmentation. `diverse` simulates as many volumes per epoch as train.csv holds. Seeds
change training alone. Nothing is chosen. A benchmark that was cut off goes on when called again with the same options.
"""

from dataclasses import dataclass, replace
from itertools import product

import train
from benchmarks import study
from benchmarks.study import MEASURES, SETS, Bench, Study, means_table
from common.cli import InputError, run
from training.recipes import RECIPES

FULL, QUICK = (  # the network is the recipe's
    replace(size, train={name: value for name, value in size.train.items() if name not in study.PLAIN})
    for size in (study.FULL, study.QUICK)
)
SHORT = tuple(name for name in RECIPES if name != "universal")  # which is for another imaging, and for long


@dataclass(frozen=True)
class Config(Study):
    rows: tuple[str, ...] = SHORT  # names in RECIPES of training/recipes.py
    seeds: tuple[int, ...] = (9,)  # seeds of weights, order and augmentation


def main(cfg: Config) -> None:
    unknown = [name for name in cfg.rows if name not in RECIPES]
    if unknown or not cfg.rows or not cfg.seeds:
        raise InputError(f"--rows {' '.join(cfg.rows)}: expected some of {', '.join(RECIPES)}, and at least one seed")
    bench = study.begin(cfg, "recipes", study.class_set(cfg.structures), (FULL, QUICK))
    done: dict[str, list[dict]] = {}
    for seed, name in product(cfg.seeds, cfg.rows):
        done.setdefault(name, []).append(measure(bench, name, seed))
        print(f"{name}, seed {seed}: accuracy {done[name][-1]['accuracy']:.3f}", flush=True)
        content = bench.settings | {"rows": summarise(done)}
        study.write_results(bench.stem, content, page(content))
    study.show(bench.stem)


def measure(bench: Bench, name: str, seed: int) -> dict:
    """The figures of one recipe and seed."""
    network = {"backbone": RECIPES[name].get("backbone", train.Config.backbone)}
    options = {**network, **bench.settings["train"], "recipe": name, "seed": seed}
    given = options | bench.simulated_from()
    return bench.network(
        f"{name}-{seed}",
        options,
        {"recipe_options": RECIPES[name]},
        lambda folder: {"seed": seed, "backbone": options["backbone"], **bench.train_and_measure(folder, given)},
    )


def summarise(done: dict[str, list[dict]]) -> dict[str, dict]:
    """Every network of each recipe, and the mean and deviation of its figures over seeds."""
    return {
        name: {"recipe": RECIPES[name], "mean": study.over_seeds(finished), "runs": finished}
        for name, finished in done.items()
    }


def page(content: dict) -> str:
    """The table with what it was measured on."""
    first = next(iter(content["rows"].values()))["runs"][0]
    counts = [f"known classes: test.csv, n = {first['n_test']:,}"]
    counts += [f"{part}.csv, n = {first[part]['n']:,}" for part in SETS]
    columns = {f"{MEASURES[key]}, {part}": (part, key) for part in SETS for key in ("auc", "auroc", "oscr")}
    done = {name: (row["runs"], row["mean"]) for name, row in content["rows"].items()}
    rows = [((name, runs[0]["backbone"], str(len(runs))), mean) for name, (runs, mean) in done.items()]
    lines = [
        *("# Recipes", ""),
        f"{study.describe(content)} SNR convention: {first['snr_convention']}. Mean ± standard deviation over seeds, "
        f"where there are several. `{content['command']}`",
        *("", f"{'; '.join(counts)}. Rejection by {first[SETS[0]]['score']}, against test.csv.", ""),
        *means_table(("recipe", "network", "seeds"), {"known accuracy": ("accuracy",)} | columns, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
