"""What is a trained network worth to a lab with few particles? train.py --init against training from nothing, each with
the same particles, network and number of volumes seen.

-> benchmarks/results/fine_tune.{json,md}, or fine_tune_quick.{json,md}

    python -m benchmarks.fine_tune --structures structures --quick     # the benchmark's structures, on a CPU
    python -m benchmarks.fine_tune --structures structures             # the size for a GPU

The known classes have so many training particles each; validation particles are the same for all. Each way has its own
learning rate: train.py's default from nothing, the README's with --init. Every network is evaluated at home and under
`other`, on new particles of known classes and of valid_unseen (benchmarks/sets.py). Nothing is chosen. A benchmark that
was cut off goes on when called again with the same options.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks import sets, study
from benchmarks.study import Bench, Size, Study
from common.cli import InputError, run
from loader.columns import LABEL, PARTICLE
from loader.rows import read_split
from model import load_checkpoint
from training.init import NETWORK

FULL = Size({"per_class": "400", "envelope": "inf"}, {})
QUICK = FULL
VOLUMES = {False: 200_000, True: 12_000}  # seen by a network, without and with --quick
WAYS = {"from nothing": {}, "--init": {"lr": "1e-3"}}
SHARES = "0.75 0.15 0.1"  # of the particles: train, valid, test, which is not read
UNDER = ("benchmark", "other")
FIGURES = {  # of a set, with the column's head
    "accuracy": "known accuracy",
    "refused": "knowns refused",
    "auc": "pair AUC",
    "auroc": "rejection AUROC",
    "detected": "unknowns detected",
}


@dataclass(frozen=True)
class Config(Study):
    checkpoint: str = "pretrained/universal.pt"  # trained network to start from; both ways have its shape
    particles: tuple[int, ...] = (20, 60, 300)  # training particles of each known class
    per_class: int = 20  # particles per class of each set of the evaluation


def main(cfg: Config) -> None:
    if not cfg.seeds or not cfg.particles or not 1 <= min(cfg.particles) <= max(cfg.particles) <= 300:
        raise InputError("--seeds, --particles: expected at least one seed, and numbers of particles of 1 to 300")
    classes = replace(study.class_set(cfg.structures), unseen=())
    bench = study.begin(cfg, "fine_tune", classes, (FULL, QUICK), split={"fractions": SHARES})
    own = load_checkpoint(cfg.checkpoint)["config"]
    network = {name: own[name] for name in NETWORK}
    done: dict[tuple[int, str], list[dict]] = {}
    for seed, count, way in product(cfg.seeds, cfg.particles, WAYS):
        csv_dir, volumes = few_particles(bench, count)
        epochs = max(1, round(VOLUMES[cfg.quick] / volumes))
        options = {**bench.settings["train"], **WAYS[way], "epochs": epochs, "seed": seed}
        options |= {"init": cfg.checkpoint} if way == "--init" else network
        result = bench.network(
            f"{way.replace(' ', '_').strip('-')}-{count}-{seed}",
            options,
            {"particles": count, "per_class": cfg.per_class},
            lambda folder, where=csv_dir, given=options: measured(bench, folder, where, given),
        )
        done.setdefault((count, way), []).append({"seed": seed, **result})
        print(f"{count} particles, {way}, seed {seed}: accuracy {result['benchmark']['accuracy']:.3f}", flush=True)
        rows = [{"particles": count, "way": way, "runs": runs} for (count, way), runs in done.items()]
        content = bench.settings | {"volumes": VOLUMES[cfg.quick], "network": network, "rows": rows}
        study.write_results(bench.stem, content, page(content))
    study.show(bench.stem)


def few_particles(bench: Bench, count: int) -> tuple[Path, int]:
    """The split with so many training particles of each class, all their copies with them, and how many volumes."""
    folder = bench.work_dir / f"csv_split_{count}"
    parts = {part: read_split(bench.csv_dir / f"{part}.csv") for part in study.PARTS}
    particles = parts["train"][[LABEL, PARTICLE]].drop_duplicates()
    kept = particles.groupby(LABEL).head(count)  # rows are in a random order
    if (kept.groupby(LABEL).size() < count).any():
        raise InputError(f"{bench.csv_dir}: fewer than {count} training particles of a class")
    parts["train"] = parts["train"].merge(kept, on=[LABEL, PARTICLE])
    if not (folder / "train.csv").is_file():
        study.write_parts(folder, parts)
    return folder, len(parts["train"])


def measured(bench: Bench, folder: Path, csv_dir: Path, options: Mapping) -> dict:
    """Train in `folder`; the figures of the best checkpoint under each set."""
    cfg = bench.cfg
    given = {**options, "device": cfg.device}
    if "init" in given:
        given["init"] = Path(given["init"]).absolute()
    checkpoint = study.train(folder, csv_dir, given)
    return sets.figures_of(checkpoint, folder, bench, per_class=cfg.per_class, sets=UNDER)


def page(content: dict) -> str:
    """The table with what it was measured on."""
    network = " ".join(study.arguments(content["network"]))
    rows = []
    for row in content["rows"]:
        for name in UNDER:
            figures = [study.mean_std([run[name][key] for run in row["runs"]]) for key in FIGURES]
            rows.append([str(row["particles"]), name, row["way"], *map(study.format_mean_std, figures)])
    n_known, n_unknown = content["rows"][0]["runs"][0]["benchmark"]["n"]
    lines = [
        *("# From a trained network, or from nothing", "", study.describe(content), ""),
        f"`{network}`; about {content['volumes']:,} volumes seen by each network. Each set has {n_known:,} volumes of "
        f"known and {n_unknown:,} of valid_unseen classes. Mean ± standard deviation over seeds. "
        f"`{content['command']}`",
        *("", *study.markdown_table(["training particles per class", "set", "way", *FIGURES.values()], rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
