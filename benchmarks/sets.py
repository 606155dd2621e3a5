"""How does a network fare under imaging that it was not trained on? The named sets of simulate.py, one row each.

CHECKPOINT -> benchmarks/results/sets.{json,md}

    python -m benchmarks.sets model_save/checkpoint.pt --quick                            # procedural complexes
    python -m benchmarks.sets model_save/checkpoint.pt --structures structures

For each set, new particles of the known classes and of held-out ones are made and embedded. Prototypes, score and
threshold are the checkpoint's own. All SNRs are mixed: pairs are drawn across them, never of one particle.

The classes of unseen.csv are made and reported with --final alone, once everything is chosen. What is chosen is chosen
by valid_unseen of benchmark, lab and hard; `series` and `other` choose nothing.
"""

import hashlib
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import tyro

from benchmarks import machine, study
from common.cli import Device, InputError, choose_device, run
from loader.columns import CLASS, LABEL, PARTICLE
from loader.prepare import Preprocessing
from loader.rows import read_split
from model import load_checkpoint
from simulation.class_sets import ClassSet
from simulation.sets import SETS

QUICK_PER_CLASS = 30
# of a set's known classes, and of each of its unseen parts against them; the head of the column
KNOWN = {"accuracy": "known accuracy, prototypes", "refused": "knowns refused"}
JUNK = {"junk": "known particles against junk, AUROC"}  # where the checkpoint tells junk, as training had it
UNSEEN = {"auc": "pair AUC", "val": "VAL at FAR 1e-2", "auroc": "rejection AUROC", "detected": "unknowns detected"}


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    structures: str = ""  # folder of the benchmark's structure files; empty for procedural complexes
    sets: tuple[str, ...] = tuple(SETS)  # sets of simulate.py to evaluate under
    quick: bool = False  # take 30 particles per class
    per_class: int = 100  # number of particles per class, without --quick
    final: bool = False  # report on the classes of unseen.csv too, once everything is chosen
    valid_unseen: tuple[str, ...] = ()  # classes held out to choose by; empty: those of the benchmark
    unseen: tuple[str, ...] = ()  # classes held out to report on; empty: those of the benchmark
    seed: int = 1009  # seed of the particles; another than that of the training data
    shape_seed: int = 9  # seed of the procedural complexes; that of the training data
    simulate_options: dict[str, str] = field(default_factory=dict)  # options of simulate.py over the set's: seed 3
    floors: bool = False  # report the pair AUC of an untrained network, of size and of intensity too
    bootstrap: int = 50  # number of resamples of particles for the 95 % intervals
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/sets"  # folder for data, splits and logs
    results: str = str(study.RESULTS / "sets")  # path of the results, without the endings .json and .md


def main(cfg: Config) -> None:
    under_sets(cfg)
    study.show(cfg.results)


def figures_of(checkpoint: Path, folder: Path, bench: study.Bench, **options: object) -> dict[str, dict]:
    """Of another benchmark's network under sets, measure -> value for each; what is printed goes to log.txt.

    `options` are those of this benchmark; the particles are made once for all networks of `bench`.
    """
    places = {"work_dir": str(bench.work_dir / "sets"), "results": str(folder / "sets")}
    cfg = Config(
        str(checkpoint), structures=bench.cfg.structures, bootstrap=1, device=bench.cfg.device, **places, **options
    )
    with (folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stdout(log):
        content = under_sets(cfg)
    found = {}
    for name, figures in content["sets"].items():
        of_unseen, of_known = figures["valid_unseen"], figures["known"]
        found[name] = {key: of_unseen[key][0] for key in UNSEEN}
        found[name] |= {key: of_known[key][0] for key in (*KNOWN, *JUNK) if key in of_known}
        found[name]["n"] = [of_known["n"], of_unseen["n"]]
    return found


def under_sets(cfg: Config) -> dict:
    """Make and measure every set, and write the results, which are returned."""
    unknown = sorted({*cfg.sets} - {*SETS})
    if unknown:
        raise InputError(f"--sets {' '.join(unknown)}: expected some of {', '.join(SETS)}")
    saved = load_checkpoint(cfg.checkpoint)
    classes = classes_by_use(cfg, saved["classes"])
    sha256 = hashlib.sha256(Path(cfg.checkpoint).read_bytes()).hexdigest()
    network = {key: saved["config"][key] for key in ("backbone", "depth", "width", "loss", "seed")} | {"sha256": sha256}
    content = {"network": network, "classes": asdict(classes), "final": cfg.final, "bootstrap": cfg.bootstrap}
    content |= {"structures": bool(cfg.structures), **machine.record(choose_device(cfg.device)), "sets": {}}
    for name in cfg.sets:
        print(f"under the imaging of {name}", flush=True)
        folder = Path(cfg.work_dir).absolute() / (f"{name}_final" if cfg.final else name)
        options = simulate_options(cfg, name, Preprocessing.read(saved["preprocessing"]))
        made, data = study.make_split(folder, classes, cfg.structures, cfg.device, options)
        write_evaluation(made, folder / "evaluation", name)
        settings = {"data": data, "checkpoint": sha256, "bootstrap": cfg.bootstrap, "floors": cfg.floors}
        place = folder / sha256[:12]
        content["sets"][name] = {"simulate": options} | study.once(
            place / "result.json", settings, lambda p=place, f=folder: measure(cfg, p, f / "evaluation")
        )
        study.write_results(cfg.results, content, page(content))
    return content


def classes_by_use(cfg: Config, known: list[str]) -> ClassSet:
    """The checkpoint's classes and the held-out ones; those of unseen.csv in the final evaluation alone.

    Raises InputError where a class is both.
    """
    benchmark = study.class_set(cfg.structures)
    unseen = (cfg.unseen or benchmark.unseen) if cfg.final else ()
    classes = ClassSet(tuple(known), cfg.valid_unseen or benchmark.valid_unseen, unseen)
    both = sorted({*known} & {*classes.valid_unseen, *unseen})
    if both:
        raise InputError(
            f"{cfg.checkpoint}: knows {', '.join(both)}; name held-out classes with --valid-unseen, --unseen"
        )
    return classes


def simulate_options(cfg: Config, name: str, preprocessing: Preprocessing) -> dict:
    """The options of simulate.py for a set, on the voxels of the checkpoint."""
    options = {"set": name, "per_class": QUICK_PER_CLASS if cfg.quick else cfg.per_class}
    options |= {"seed": cfg.seed, "shape_seed": cfg.shape_seed, "box": preprocessing.box}
    if preprocessing.voxel_size:
        options["voxel_size"] = preprocessing.voxel_size
    return options | cfg.simulate_options


def write_evaluation(made: Path, folder: Path, name: str) -> None:
    """A split with every known particle in test.csv; open_set.py asks for a train.csv, which gets one row per class.

    Particles are named after the set: those of the training data have the same names otherwise.
    """
    parts = {part: read_split(made / f"{part}.csv") for part in study.PARTS}
    for table in parts.values():
        table[PARTICLE] = f"{name}/" + table[PARTICLE].astype(str)
    known = pd.concat([parts[part] for part in ("train", "valid", "test")], ignore_index=True)
    known = known.sort_values([CLASS, PARTICLE], kind="stable")
    held_out = {part: parts[part] for part in ("valid_unseen", "unseen")}
    study.write_parts(folder, {"test": known, "train": known.drop_duplicates(LABEL), **held_out})


def measure(cfg: Config, folder: Path, csv_dir: Path) -> dict:
    """The figures of a set, name -> [value, 95 % interval or None], and of how many volumes they are."""
    options = {"device": cfg.device, "bootstrap": cfg.bootstrap, "floors": cfg.floors, "umap": False}
    options |= {"discovery": False}
    opened = study.evaluate("open_set.py", folder, Path(cfg.checkpoint).absolute(), csv_dir, options)
    present = [part for part in ("valid_unseen", "unseen") if part in opened]
    known, refused = opened["known"], opened[present[0]]["rejection"]
    found = {
        "accuracy": [known["prototype_accuracy"], known["prototype_accuracy_interval"]],
        "refused": [refused["false_rejection_rate"], refused["false_rejection_rate_interval"]],
        "n": known["n"],
    }
    if "junk" in opened:
        junk = opened["junk"]["sets"]["test"]
        found["junk"] = [junk["auroc"], junk["auroc_interval"]]
    return {"snr_convention": opened["snr_convention"], "known": found} | {
        part: unseen_figures(opened[part]) for part in present
    }


def unseen_figures(part: dict) -> dict:
    """What open_set.py says of a part of classes that training never saw."""
    pairs, rejection = part["verification"]["unseen_unseen"], part["rejection"]
    score = rejection["scores"][rejection["default_score"]]
    val = pairs["val_at_far"]["0.01"] if pairs["val_at_far"] else {}
    return {
        "auc": [pairs["auc"], pairs["auc_interval"]],
        "val": [val.get("value"), val.get("interval")],
        "auroc": [score["auroc"], score["auroc_interval"]],
        "detected": [rejection["unknown_detection_rate"], rejection["unknown_detection_rate_interval"]],
        "floors": {
            floor["embedding"]: [floor["unseen_auc"], floor["unseen_auc_interval"]] for floor in part["floors"][1:]
        },
        "n": part["n"],
    }


def page(content: dict) -> str:
    """One table for each part of held-out classes, a row for each set."""
    sets = content["sets"]
    text = "{backbone}{depth} of width {width}, {loss}, seed {seed}, SHA-256 {sha256:.12}".format(**content["network"])
    source = "coordinate files and maps" if content["structures"] else "procedural complexes"
    conventions = ", ".join(f"{name}: {found['snr_convention']}" for name, found in sets.items())
    lines = [
        "# One network under five kinds of imaging",
        "",
        f"{text}. New particles of {source}; prototypes, score and threshold are the checkpoint's own. "
        "All SNRs mixed; 95 % intervals over particles, not over classes. "
        f"SNR convention: {conventions}. {machine.text(content)}.",
        "",
        *[f"* {name}: `simulate.py {' '.join(study.arguments(found['simulate']))}`" for name, found in sets.items()],
    ]
    of_known = KNOWN | (JUNK if any("junk" in found["known"] for found in sets.values()) else {})
    for part in ("valid_unseen", "unseen"):
        rows = []
        floors = list(dict.fromkeys(name for found in sets.values() for name in found.get(part, {}).get("floors", ())))
        for name, found in sets.items():
            if part in found:
                columns = [
                    *(found[part][key] for key in UNSEEN),
                    *(found["known"].get(key, [None, None]) for key in of_known),
                ]
                columns += [found[part]["floors"].get(name, [None, None]) for name in floors]
                rows.append(
                    [name, f"{found['known']['n']:,} / {found[part]['n']:,}", *map(study.format_interval, columns)]
                )
        if rows:
            lines += ["", f"## {part}: {', '.join(content['classes'][part])}", ""]
            head = [*UNSEEN.values(), *of_known.values(), *(f"pair AUC, {name}" for name in floors)]
            lines += study.markdown_table(["set", "n known / unknown", *head], rows)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
