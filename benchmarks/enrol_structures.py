"""Is a structure alone enough to find its particles? Structures never trained on, under imaging of several kinds.

CHECKPOINT -> benchmarks/results/enrol_structures.{json,md}

    python -m benchmarks.enrol_structures pretrained/universal.pt --structures structures

The classes of valid_unseen are enrolled from their coordinates alone, with enrol.py --only-enrolled: under the imaging
that the checkpoint was trained on, and under the tilts and the defocus that the sets have. Then particles are simulated
under each set of simulate.py, and named. What should be refused is of two kinds: particles of the checkpoint's known
classes, of which none is enrolled, and those of each enrolled class while it is left out and the others stay.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro

from benchmarks import machine, study
from common.cli import Device, InputError, choose_device, run
from common.threads import in_threads
from evaluation.rejection import class_scores, unit
from loader.columns import LABEL, PARTICLES_FILE, SNR, snr_order, snr_text
from loader.prepare import Preprocessing, prepare
from loader.sources import read_csv
from loader.volume import write_volume
from model import embed, load_checkpoint, load_model
from physics.grid import Grid
from prediction.inputs import find_inputs
from simulation.sets import SETS
from simulation.structures import find_structures, procedural_complex, procedural_index

DECLARED = ("--tilt-range", "-60", "60", "--defocus", "2.5", "5")  # what is true of `benchmark`, `series` and `other`
IMAGING = {"as in training": (), "tilts and defocus of the sets": DECLARED}  # that structures are enrolled under


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    structures: str = ""  # folder of the benchmark's structure files; empty for procedural complexes, as maps
    sets: tuple[str, ...] = ("benchmark", "series", "other")  # sets of simulate.py to evaluate under
    per_class: int = 20  # number of particles per class
    enrolled: tuple[str, ...] = ()  # classes to enrol; empty: the benchmark's valid_unseen
    seed: int = 2009  # seed of the particles
    shape_seed: int = 9  # seed of the procedural complexes
    simulate_options: dict[str, str] = field(default_factory=dict)  # options of simulate.py over the set's: snr 0.1
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/enrol_structures"  # folder for data, checkpoints and logs
    results: str = str(study.RESULTS / "enrol_structures")  # path of the results, without the endings .json and .md


def main(cfg: Config) -> None:
    unknown = sorted({*cfg.sets} - {*SETS})
    if unknown:
        raise InputError(f"--sets {' '.join(unknown)}: expected some of {', '.join(SETS)}")
    saved = load_checkpoint(cfg.checkpoint)
    enrolled = list(cfg.enrolled or study.class_set(cfg.structures).valid_unseen)
    both = sorted({*enrolled} & {*saved["classes"]})
    if both:
        raise InputError(f"{cfg.checkpoint}: knows {', '.join(both)}; name other classes with --enrolled")
    sha256 = hashlib.sha256(Path(cfg.checkpoint).read_bytes()).hexdigest()
    network = {key: saved["config"][key] for key in ("backbone", "depth", "width", "loss", "seed")} | {"sha256": sha256}
    content = {"command": study.command(cfg, "enrol_structures"), "network": network, "enrolled": enrolled}
    content |= {"strangers": saved["classes"], "structures": bool(cfg.structures)}
    content |= {**machine.record(choose_device(cfg.device)), "simulate": {}, "imaging": {}}
    seen = Preprocessing.read(saved["preprocessing"])
    tables = {name: simulate(cfg, name, [*enrolled, *saved["classes"]], seen, content) for name in cfg.sets}
    for number, (imaging, options) in enumerate(IMAGING.items()):
        print(f"enrolled under {imaging}", flush=True)
        place = Path(cfg.work_dir).absolute() / sha256[:12]
        settings = {"enrolled": enrolled, "options": options, "data": content["simulate"]}
        content["imaging"][imaging] = study.once(
            place / f"result{number}.json",
            settings,
            lambda t=place / f"enrolled{number}.pt", o=options: measure(cfg, t, o, enrolled, tables),
        )
        study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def simulate(cfg: Config, name: str, classes: list[str], seen: Preprocessing, content: dict) -> Path:
    """The table of a set's particles, on the voxels that the checkpoint has seen; adds the options to the content."""
    folder = Path(cfg.work_dir).absolute() / name
    options = {"set": name, "per_class": cfg.per_class, "seed": cfg.seed, "shape_seed": cfg.shape_seed}
    options |= {"box": seen.box, "voxel_size": seen.voxel_size, **cfg.simulate_options}
    content["simulate"][name] = options
    given = {"data_dir": folder / "data_", "classes": classes, "device": cfg.device, **options}
    given |= {"structures": Path(cfg.structures).absolute()} if cfg.structures else {}
    log = folder / "data.log"
    study.once(
        folder / "data.json",
        {"classes": classes, **options},
        lambda: study.run_script("simulate.py", *study.arguments(given), log=log) or {},
    )
    return folder / "data_" / PARTICLES_FILE


def measure(cfg: Config, target: Path, options: tuple[str, ...], enrolled: list[str], tables: dict[str, Path]) -> dict:
    """How sure each class is by its enrolment, and the figures of each set."""
    preprocessing = Preprocessing.read(load_checkpoint(cfg.checkpoint)["preprocessing"])
    files = structure_files(cfg, enrolled, preprocessing, target.parent)
    words = [f"{name}=structure:{path}" for name, path in files.items()]
    given = (str(Path(cfg.checkpoint).absolute()), str(target), "--only-enrolled", "--enrol", *words, *options)
    study.run_script("enrol.py", *given, "--device", cfg.device, log=target.with_suffix(".log"))
    device = choose_device(cfg.device)
    model, checkpoint = load_model(target, device)
    return {
        "classes": checkpoint["config"]["enrolled"],
        "sets": {name: figures(model, checkpoint, table, device) for name, table in tables.items()},
    }


def structure_files(cfg: Config, names: list[str], preprocessing: Preprocessing, folder: Path) -> dict[str, Path]:
    """The structures' files; of procedural complexes maps, which are written."""
    if cfg.structures:
        return {name: path.absolute() for name, path in find_structures(cfg.structures, tuple(names)).items()}
    grid = Grid(preprocessing.box, preprocessing.voxel_size, 20.0)
    for name in names:
        density = procedural_complex(procedural_index(name), cfg.shape_seed, grid)
        write_volume(folder / "maps" / f"{name}.mrc", density, grid.voxel_size)
    return {name: folder / "maps" / f"{name}.mrc" for name in names}


def read_table(table: Path, checkpoint: dict) -> tuple[pd.DataFrame, torch.Tensor]:
    """The rows of a table of simulate.py, and their volumes as a checkpoint takes them, (N, 1, D, H, W) float16."""
    rows, inputs = read_csv(table, required=(LABEL, SNR)), find_inputs([str(table)])
    read = in_threads(
        lambda row: prepare(inputs[row], checkpoint["preprocessing"]).image, range(len(inputs)), "reading"
    )
    return rows, torch.from_numpy(np.stack([*read]).astype(np.float16))[:, None]


def figures(model: torch.nn.Module, checkpoint: dict, table: Path, device: torch.device) -> dict:
    """What the enrolled classes' particles are called, and those of others."""
    rows, images = read_table(table, checkpoint)
    embeddings = embed(model, images, device)
    calibration, names = checkpoint["calibration"], checkpoint["classes"]
    cosines = embeddings @ unit(calibration.prototypes).T  # (N, C)
    margins = class_scores(embeddings, calibration) - calibration.class_thresholds
    numbers = np.array([names.index(name) if name in names else -1 for name in rows[LABEL]])
    own, every = np.flatnonzero(numbers >= 0), np.arange(len(rows))
    named = cosines.argmax(axis=1)
    accepted, right = margins[every, named] >= 0, named == numbers
    others = cosines.copy()
    others[own, numbers[own]] = -np.inf  # each class left out in turn
    second = others.argmax(axis=1)
    taken = margins[every, second] >= 0
    levels = sorted(set(rows[SNR]), key=snr_order)
    return {
        "n": len(own),
        "n_strangers": len(rows) - len(own),
        "top1": float(right[own].mean()),
        "per_snr": {level: float(right[own[(rows[SNR] == level).to_numpy()[own]]].mean()) for level in levels},
        "found": float((right & accepted)[own].mean()),
        "refused": float((~accepted)[own].mean()),
        "strangers_taken": float(accepted[numbers < 0].mean()),
        "left_out_taken": float(taken[own].mean()),
        "per_class": {
            name: {
                "top1": float(right[numbers == number].mean()),
                "refused": float((~accepted)[numbers == number].mean()),
                "left_out_taken": float(taken[numbers == number].mean()),
            }
            for number, name in enumerate(names)
        },
    }


def page(content: dict) -> str:
    """A table of the sets, and one of the classes, for each imaging of the enrolment."""
    text = "{backbone}{depth} of width {width}, {loss}, seed {seed}, SHA-256 {sha256:.12}".format(**content["network"])
    count, source = len(content["enrolled"]), "coordinates" if content["structures"] else "maps of procedural complexes"
    lines = [
        "# Structures never trained on, enrolled from a file alone",
        "",
        f"{text}. {count} structures ({' '.join(content['enrolled'])}) from {source}; chance {1 / count:.2f}. "
        f"`{content['command']}`; {machine.text(content)}. No particle was used to enrol; all are simulated.",
        "",
        "Found: named right and above the class's threshold. Let in: particles that are above a threshold and should "
        f"not be, of the {len(content['strangers'])} classes that the network knows and of which none is enrolled, and "
        "of each enrolled class while it is left out.",
    ]
    for imaging, found in content["imaging"].items():
        levels = list(next(iter(found["sets"].values()))["per_snr"])
        head = [
            "set",
            "n, others",
            "named right",
            *map(snr_text, levels),
            "found",
            "refused",
            "known let in",
            "left out let in",
        ]
        rows = [
            [
                name,
                f"{one['n']}, {one['n_strangers']}",
                *(f"{value:.2f}" for value in (one["top1"], *one["per_snr"].values(), one["found"], one["refused"])),
                *(f"{one[key]:.2f}" for key in ("strangers_taken", "left_out_taken")),
            ]
            for name, one in found["sets"].items()
        ]
        lines += ["", f"## Enrolled under imaging: {imaging}", "", *study.markdown_table(head, rows)]
        lines += ["", *class_table(found)]
    return "\n".join(lines) + "\n"


def class_table(found: dict) -> list[str]:
    """By class what the enrolment itself said, and what the first set shows."""
    name, first = next(iter(found["sets"].items()))
    head = ["class", "others of its size", "of these let in", "own refused", "nearest rival", "cosine"]
    head += [f"{name}: {text}" for text in ("named right", "refused", "let in when left out")]
    rows = [
        [
            one["name"],
            one["cohort"],
            f"{one['false_acceptance']:.2f}",
            f"{one['refused']:.2f}",
            one["rival"],
            f"{one['rival_cosine']:.2f}",
            *(f"{value:.2f}" for value in first["per_class"][one["name"]].values()),
        ]
        for one in found["classes"]
    ]
    return study.markdown_table(head, rows)


if __name__ == "__main__":
    run(main, Config, __doc__)
