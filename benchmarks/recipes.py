"""What each recipe of train.py reaches on the same data, at one width and number of epochs for all.

-> benchmarks/results/recipes.{json,md}, or recipes_quick.{json,md}

    python -m benchmarks.recipes --structures structures --quick     # the benchmark's structures, on a CPU
    python -m benchmarks.recipes --structures structures             # the size for a GPU
    python -m benchmarks.recipes --quick --rows default diverse --seeds 9 10 11

Width and epochs are those of the size, whatever a recipe says: what remains of it are its network, loss, optimiser,
schedule, batch, enlargement and augmentation. `diverse` simulates as many volumes an epoch as train.csv holds. Seeds
change training alone. Nothing is chosen. A benchmark that was cut off goes on when called again with the same options.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks import runs
from benchmarks.losses import MEASURES, SETS, train_and_measure
from benchmarks.runs import Study, format_mean_std, mean_std
from common.cli import InputError, run
from training.recipes import RECIPES


@dataclass(frozen=True)
class Config(Study):
    work_dir: str = "bench/recipes"  # folder for data, runs and logs
    rows: tuple[str, ...] = tuple(RECIPES)  # names of recipes
    seeds: tuple[int, ...] = (9,)  # of weights, order and augmentation


def main(cfg: Config) -> None:
    unknown = [name for name in cfg.rows if name not in RECIPES]
    if unknown or not cfg.rows or not cfg.seeds:
        raise InputError(f"--rows {' '.join(cfg.rows)}: expected some of {', '.join(RECIPES)}, and at least one seed")
    size = runs.QUICK if cfg.quick else runs.FULL
    work_dir = Path(cfg.work_dir).absolute()
    classes, simulate = runs.class_set(cfg.structures), {**size.simulate, **cfg.simulate_options}
    csv_dir, data = runs.make_split(work_dir, classes, cfg.structures, cfg.device, simulate)
    settings, stem = cfg.settings(size, data, cfg.seeds), cfg.stem("recipes")
    done: dict[str, list[dict]] = {}
    for seed, name in product(cfg.seeds, cfg.rows):
        result = run_once(cfg, work_dir, csv_dir, settings, name, seed)
        done.setdefault(name, []).append(result)
        print(f"{name}, seed {seed}: accuracy {result['accuracy']:.3f}", flush=True)
        content = settings | {"rows": summarise(done)}
        runs.write_results(stem, content, page(content))
    print(page(content))
    print(f"written: {stem}.json, {stem}.md")


def run_once(cfg: Config, work_dir: Path, csv_dir: Path, settings: dict, name: str, seed: int) -> dict:
    """The figures of one recipe and seed, kept in its folder."""
    options = {**settings["train"], "recipe": name, "seed": seed}
    given = {"data_dir": work_dir / "data_"}
    given |= {"structures": Path(cfg.structures).absolute()} if cfg.structures else {}
    folder = work_dir / f"{name}-{seed}"

    def job() -> dict:
        print(f"{name}, seed {seed}: training", flush=True)
        return {"seed": seed, **train_and_measure(folder, csv_dir, options | given, cfg.device)}

    made_on = {"data": settings["data"], "recipe_options": RECIPES[name]}
    result = runs.once(folder / "result.json", made_on | options, job)
    runs.remove_weights(folder)
    return result


def summarise(done: dict[str, list[dict]]) -> dict[str, dict]:
    """Every run of each recipe, and the mean and deviation of its figures over seeds."""
    rows = {}
    for name, finished in done.items():
        mean = {"accuracy": mean_std([each["accuracy"] for each in finished])}
        for part in SETS:
            mean[part] = {key: mean_std([each[part][key] for each in finished]) for key in MEASURES}
        rows[name] = {"recipe": RECIPES[name], "mean": mean, "runs": finished}
    return rows


def page(content: dict) -> str:
    """The table with what it was measured on."""
    first = next(iter(content["rows"].values()))["runs"][0]
    lines = ["# Recipes", "", f"{runs.describe(content)} SNR convention: {first['snr_convention']}."]
    lines[-1] += " Mean ± standard deviation over seeds, where there are several. `python -m benchmarks.recipes`"
    counts = [f"known classes: test.csv, n = {first['n_test']:,}"]
    counts += [f"{part}.csv, n = {first[part]['n']:,}" for part in SETS]
    lines += ["", f"{'; '.join(counts)}. Rejection by {first[SETS[0]]['score']}, against test.csv.", ""]
    keys = [(part, key) for part in SETS for key in ("auc", "auroc", "oscr")]
    cells = [
        [name, str(len(row["runs"])), format_mean_std(row["mean"]["accuracy"])]
        + [format_mean_std(row["mean"][part][key]) for part, key in keys]
        for name, row in content["rows"].items()
    ]
    head = ["recipe", "seeds", "known accuracy", *(f"{MEASURES[key]}, {part}" for part, key in keys)]
    return "\n".join([*lines, *runs.markdown_table(head, cells)]) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
