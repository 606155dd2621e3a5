"""How much does a network lose on hard data, with neighbours, bad centring and unknown defocus?

CHECKPOINT, the split and the data it was trained on -> benchmarks/results/hard_set.{json,md}

    python -m benchmarks.hard_set model_save/checkpoint.pt
    python -m benchmarks.hard_set model_save/checkpoint.pt --structures structures

then, with a network trained on the hard data beside it:

    python train.py --csv-dir bench/hard_set/csv_split --save-dir model_hard
    python -m benchmarks.hard_set model_save/checkpoint.pt --hard-checkpoint model_hard/checkpoint.pt

The easy data are those of simulate.py. They are made again with the same seed, classes and options but for those of
the hard set, and split alike: each particle is in the same part of both, so that none that is tested on was trained
on. Each checkpoint is evaluated by test.py and open_set.py twice, on easy and on hard test and unseen particles. Its
train.csv and valid.csv, to which test.py fits its linear classifier, are always of the data that it was trained on.
Nothing is chosen.
"""

import hashlib
import json
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pandas as pd
import tyro

from benchmarks import machine, study
from common.cli import Device, InputError, choose_device, run
from loader.columns import LABEL, PARTICLE, SIMULATION_FILE, snr_text
from loader.rows import class_names, read_split
from model import load_checkpoint
from simulation.class_sets import ClassSet


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint that train.py made of the easy data
    hard_checkpoint: str = ""  # a checkpoint that was made of the hard data; empty for none
    csv_dir: str = "csv_split"  # folder of the split of the easy data
    data_dir: str = "data_"  # folder of the easy data, of simulate.py
    structures: str = ""  # folder of the coordinate files, where the easy data were made of some
    work_dir: str = "bench/hard_set"  # folder for the hard data, its split and logs
    neighbours: int = 3  # most procedural complexes around each particle of the hard data
    shift: float = 4.0  # largest shift along each axis in the hard data, voxels
    defocus: tuple[float, float] = (3.0, 7.0)  # range of the underfocus of the hard data, um
    split_options: dict[str, str] = field(default_factory=dict)  # options csv_split.py had for the easy data: seed 3
    bootstrap: int = 50  # resamples of particles for the 95 % intervals of open_set.py
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = str(study.RESULTS / "hard_set")  # path of the results, without the endings .json and .md


KINDS = ("easy", "hard")  # of data
NOT_OPTIONS = ("classes", "files", "procedural", "set")  # of simulation.json: what the data came to be, not how


def main(cfg: Config) -> None:
    work_dir = Path(cfg.work_dir).absolute()
    easy = read_parts(Path(cfg.csv_dir))
    before = read_simulation(cfg)
    hard = {"neighbours": cfg.neighbours, "shift": cfg.shift, "defocus": cfg.defocus, "crop": True}
    simulate = {key: value for key, value in before.items() if key not in NOT_OPTIONS} | hard
    classes = classes_by_use(easy, cfg.csv_dir)
    csv_dir, data = study.make_split(work_dir, classes, cfg.structures, cfg.device, simulate, cfg.split_options)
    parts = {"easy": easy, "hard": read_parts(csv_dir)}
    check_same_particles(parts)

    checkpoints = {"easy": cfg.checkpoint} | ({"hard": cfg.hard_checkpoint} if cfg.hard_checkpoint else {})
    content = {
        "command": study.command(cfg, "hard_set"),
        "data": data,
        "easy": {key: before.get(key) for key in hard},
        "hard": hard,
        "bootstrap": cfg.bootstrap,
        **machine.record(choose_device(cfg.device)),
        "checkpoints": {trained_on: network_of(path) for trained_on, path in checkpoints.items()},
        "figures": {trained_on: {} for trained_on in checkpoints},
    }
    for trained_on, tested_on in product(checkpoints, KINDS):
        print(f"trained on {trained_on} data, evaluated on {tested_on}", flush=True)
        folder = work_dir / f"trained_on_{trained_on}" / tested_on
        write_mixed(folder / "csv_split", parts[trained_on], parts[tested_on])
        settings = {"data": data, "checkpoint": content["checkpoints"][trained_on], "bootstrap": cfg.bootstrap}
        checkpoint = Path(checkpoints[trained_on]).absolute()
        content["figures"][trained_on][tested_on] = study.once(
            folder / "result.json", settings, lambda f=folder, c=checkpoint: measure(cfg, f, c)
        )
        study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def read_parts(csv_dir: Path) -> dict[str, pd.DataFrame]:
    return {name: read_split(csv_dir / f"{name}.csv") for name in study.PARTS}


def read_simulation(cfg: Config) -> dict:
    """The options of the easy data.

    Raises InputError for data that simulate.py did not make, or made of coordinate files that are not said.
    """
    record = Path(cfg.data_dir) / SIMULATION_FILE
    if not record.is_file():
        raise InputError(f"{record}: no such file; expected the data folder of simulate.py (--data-dir)")
    options = json.loads(record.read_text(encoding="utf-8"))
    if options["files"] and not cfg.structures:
        raise InputError(f"{record}: made of coordinate files; say where they are with --structures")
    return options


def classes_by_use(easy: dict[str, pd.DataFrame], csv_dir: str) -> ClassSet:
    """The names of the known and the held-out classes of a split."""
    known = class_names(easy["train"], f"{csv_dir}/train.csv")
    return ClassSet(tuple(known), *(tuple(easy[name][LABEL].unique()) for name in ("valid_unseen", "unseen")))


def check_same_particles(parts: dict[str, dict[str, pd.DataFrame]]) -> None:
    """Raises InputError when a particle is in another part of the hard data than of the easy."""
    for name in study.PARTS:
        if {*parts["easy"][name][PARTICLE]} != {*parts["hard"][name][PARTICLE]}:
            raise InputError(
                f"{name}.csv: other particles in the hard data than in the easy; give --split-options as csv_split.py "
                "was given, and another --work-dir"
            )


def write_mixed(folder: Path, trained_on: dict[str, pd.DataFrame], tested_on: dict[str, pd.DataFrame]) -> None:
    """The split of train and valid of one kind of data, and everything else of another."""
    study.write_parts(folder, tested_on | {name: trained_on[name] for name in ("train", "valid")})


def network_of(checkpoint: str) -> dict:
    """What a checkpoint is: its network and training, and the SHA-256 of its file."""
    config = load_checkpoint(checkpoint)["config"]
    kept = {key: config[key] for key in ("loss", "loss_options", "backbone", "depth", "width", "epochs", "seed")}
    return {**kept, "sha256": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()}


def measure(cfg: Config, folder: Path, checkpoint: Path) -> dict:
    """Every figure of one checkpoint on the split in `folder`, name -> [value, 95 % interval or None], by set."""
    csv_dir, device = folder / "csv_split", {"device": cfg.device}
    closed = study.evaluate("test.py", folder, checkpoint, csv_dir, device)
    options = device | {"bootstrap": cfg.bootstrap, "umap": False, "floors": False}
    opened = study.evaluate("open_set.py", folder, checkpoint, csv_dir, options)
    sets = {name: unseen_figures(opened[name]) for name in ("valid_unseen", "unseen") if name in opened}
    counts = {"test": closed["n"]} | {name: opened[name]["n"] for name in sets}
    return {"snr_convention": closed["snr_convention"], "n": counts, "sets": {"test": known_figures(closed)} | sets}


def known_figures(closed: dict) -> dict[str, list]:
    """Of closed_set.json: accuracies by the linear classifier, overall and per SNR, and by nearest prototype."""
    result = {"accuracy, linear classifier": [closed["accuracy"], closed["accuracy_interval"]]}
    for entry in closed["per_snr"]:
        label = f"accuracy, linear classifier, {snr_text(entry['snr'])}"
        result[label] = [entry["accuracy"], entry["accuracy_interval"]]
    return result | {"accuracy, nearest prototype": [closed["nearest_prototype_accuracy"], None]}


def unseen_figures(part: dict) -> dict[str, list]:
    """Of a set in open_set.json: verification, rejection, enrolment and discovery."""
    pairs, rejection, shots = part["verification"], part["rejection"], part["enrolment"]["unseen_only"]
    score = rejection["default_score"]
    result = {"pair AUC": [pairs["unseen_unseen"]["auc"], pairs["unseen_unseen"]["auc_interval"]]}
    for entry in pairs["per_snr"]:
        result[f"pair AUC, {snr_text(entry['snr'])}"] = [entry["unseen_unseen"][key] for key in ("auc", "auc_interval")]
    result[f"rejection AUROC, {score}"] = [rejection["scores"][score][key] for key in ("auroc", "auroc_interval")]
    wished = f"knowns called unknown, wished {rejection['wished_false_rejection_rate']:g}"
    for label, key in ((wished, "false_rejection_rate"), ("unknowns detected", "unknown_detection_rate")):
        result[label] = [rejection[key], rejection[f"{key}_interval"]]
    for entry in shots:
        result[f"{entry['shots']}-shot accuracy"] = [entry["accuracy"], entry.get("accuracy_interval")]
    for among, key in (("those called unknown", "rejected"), ("all unseen", "all_unseen")):
        found = part["discovery"][key]["found"]
        label = f"clusters among {among}; unseen classes: {len(part['classes'])}"
        result[label] = [found["clusters"] if found else None, None]
    return result


def page(content: dict) -> str:
    """One table a checkpoint and set, easy and hard side by side, with what they were measured on."""
    first = next(iter(content["figures"]["easy"].values()))
    lines = [
        "# Easy and hard data",
        "",
        *[
            f"* {name}: neighbours {options['neighbours']}, shifts up to {options['shift']:g} voxels, "
            f"defocus {options['defocus'][0]:g} to {options['defocus'][1]:g} um"
            for name, options in ((name, content[name]) for name in ("easy", "hard"))
        ],
        "",
        f"Data: {content['data']['source']}. SNR convention: {first['snr_convention']}. "
        f"{machine.text(content)}. 95 % intervals over particles. "
        f"`{content['command']}`",
        "",
        "The linear classifier is fitted to data of the kind that the checkpoint was trained on; class prototypes, "
        "what scores compare with and the threshold of unknowns are the checkpoint's own.",
    ]
    for trained_on, conditions in content["figures"].items():
        if not conditions:
            continue
        network = content["checkpoints"][trained_on]
        text = f"{network['loss']}, {network['backbone']} of depth {network['depth']} and width {network['width']}"
        lines += ["", f"## Trained on {trained_on} data: {text}, {network['epochs']} epochs, seed {network['seed']}"]
        for name in first["sets"]:
            labels = next(iter(conditions.values()))["sets"][name]
            rows = [
                [label, *(study.format_interval(each["sets"][name][label]) for each in conditions.values())]
                for label in labels
            ]
            lines += ["", *study.markdown_table([f"{name}.csv, n = {first['n'][name]:,} volumes", *conditions], rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
