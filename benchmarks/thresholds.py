"""Does "unknown" mean the same under another microscope? Ways to compare and to set the threshold, under every set.

CHECKPOINT -> benchmarks/results/thresholds.{json,md}

    python -m benchmarks.thresholds pretrained/universal.pt --structures structures
    python -m benchmarks.thresholds model_save/checkpoint.pt                          # of procedural complexes

One network embeds new particles of its known classes and of valid_unseen under every set of simulate.py. Each way has
its own particles of the known classes to compare with, and others, as many, that the threshold is set on. `Less a
cohort` takes away the score that the particle has with shapes that are none of the classes. Nothing is trained, and no
way sees the particles that it is judged by; `own particles a class` takes some of the known ones away. Ways are ranked
by benchmark, lab and hard; `series` and `other` rank nothing.
"""

import hashlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from benchmarks import machine, study
from benchmarks.enrol_structures import read_table, simulate, structure_files
from common.cli import Device, InputError, choose_device, run
from evaluation.ranking import auroc
from evaluation.rejection import (
    class_knn_cosine,
    class_neighbours,
    classify,
    fit_threshold,
    prototypes,
)
from loader.columns import LABEL, PARTICLE
from loader.prepare import Preprocessing, outer_spread
from model import embed, load_model
from physics.filters import radial_power
from prediction.structures import read_structure
from simulation.as_trained import AsTrained, Declared
from simulation.cohort import Pool
from simulation.reference import PER_SHAPE, SHAPES, simulated
from simulation.sets import SETS

CHOOSING = ("benchmark", "lab", "hard")  # sets that rank the ways
OWN = 10  # particles of each known class that a user names, for `own particles a class`
NOISE_BINS = 8  # levels of noise, as many volumes in each, that `by noise` has thresholds of
RATES = (0.05, 0.1, 0.15, 0.2)  # shares of what a threshold is set on that it refuses
LEAST_SNR = 0.03  # of what `SNR from` compares with
SEED = 3000  # of what is simulated to compare with


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    structures: str = ""  # folder of the benchmark's structure files; empty for procedural complexes
    sets: tuple[str, ...] = tuple(SETS)  # sets of simulate.py to evaluate under
    per_class: int = 20  # particles per class of each set, and of the files that `files` compares with
    poses: int = 100  # simulated volumes of each known class that a way compares with
    seed: int = 4009  # seed of the particles
    shape_seed: int = 9  # seed of the procedural complexes; that of the training data
    simulate_options: dict[str, str] = field(default_factory=dict)  # options of simulate.py over the set's: snr 0.1
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/thresholds"  # folder for data and logs
    results: str = str(study.RESULTS / "thresholds")  # path of the results, without the endings .json and .md


@dataclass(frozen=True)
class Volumes:
    """Embedded volumes (N, E), their classes (N,), -1 for unknown, their noise (N,), and their particles (N,)."""

    embeddings: np.ndarray
    labels: np.ndarray
    noise: np.ndarray
    particles: np.ndarray

    def keep(self, chosen: np.ndarray) -> "Volumes":
        return Volumes(*(each[chosen] for each in (self.embeddings, self.labels, self.noise, self.particles)))


Score = Callable[[Volumes], np.ndarray]  # (N, len(RATES)), higher is more known; each column less its threshold


@dataclass(frozen=True)
class Network:
    """What embeds, and what it knows of its classes."""

    model: torch.nn.Module
    preprocessing: Preprocessing
    config: Mapping
    classes: list[str]
    densities: torch.Tensor  # (C, D, H, W) of the known classes
    device: torch.device

    def embedded(self, images: torch.Tensor, labels: np.ndarray, particles: np.ndarray) -> Volumes:
        noise = np.array([outer_spread(image[0].float().numpy()) for image in images])
        return Volumes(embed(self.model, images, self.device), labels, noise, particles)

    def simulated(self, imaging: AsTrained, densities: torch.Tensor, each: int, seed: int) -> Volumes:
        """So many volumes of each density under an imaging, each a particle of its own."""
        labels = torch.arange(len(densities)).repeat_interleave(each)
        images, found = simulated(imaging, densities.to(self.device), labels, seed)
        return self.embedded(images, found.numpy(), np.arange(len(found)))

    def imaging(self, declared: Declared) -> AsTrained:
        """As the checkpoint was trained, but for what is declared."""
        return AsTrained.read_with_snr(self.config, self.preprocessing, declared)


def main(cfg: Config) -> None:
    unknown_sets = sorted({*cfg.sets} - {*SETS})
    if unknown_sets or cfg.per_class < 2 * OWN:
        raise InputError(f"--sets, --per-class: expected some of {', '.join(SETS)}, and {2 * OWN} particles or more")
    device = choose_device(cfg.device)
    model, checkpoint = load_model(cfg.checkpoint, device)
    if not checkpoint["config"].get("imaging"):
        raise InputError(f"{cfg.checkpoint}: no record of the imaging it was trained on; give one of simulated volumes")
    known = checkpoint["classes"]
    unknown = list(study.class_set(cfg.structures).valid_unseen)
    place = Path(cfg.work_dir).absolute()
    seen = checkpoint["preprocessing"]
    imaging = AsTrained.read(checkpoint["config"], seen, Declared())
    files = structure_files(cfg, known, seen, place)
    densities = torch.stack([read_structure(files[name], imaging) for name in known])
    network = Network(model, seen, checkpoint["config"], known, densities, device)
    content = {"command": study.command(cfg, "thresholds"), "known": known, "unknown": unknown, "simulate": {}}
    content |= {"structures": bool(cfg.structures), **machine.record(device), "sets": {}, "poses": cfg.poses}
    content["network"] = {key: checkpoint["config"][key] for key in ("backbone", "depth", "width", "loss", "seed")}
    content["network"] |= {"sha256": hashlib.sha256(Path(cfg.checkpoint).read_bytes()).hexdigest()}
    tables = {name: simulate(cfg, name, [*known, *unknown], seen, content) for name in cfg.sets}
    at_home = simulate(
        replace(cfg, seed=cfg.seed + 1, work_dir=str(place / "files")), "benchmark", known, seen, {"simulate": {}}
    )
    print("comparing with files of benchmark, and with volumes under any imaging", flush=True)
    of_files = halves(named(network, read_table(at_home, checkpoint)))
    random = network.imaging(Declared())
    of_any = halves(network.simulated(random, densities, 2 * cfg.poses, SEED))
    clearer = replace(random, snr=(LEAST_SNR, random.snr[1]))
    of_clearer = halves(network.simulated(clearer, densities, 2 * cfg.poses, SEED + 3))
    cohort = network.simulated(random, Pool(random.grid).of_all_sizes(SHAPES), PER_SHAPE, SEED + 1)
    for name, table in tables.items():
        print(f"under the imaging of {name}", flush=True)
        rows, images = read_table(table, checkpoint)
        tested = named(network, (rows, images))
        own = network.imaging(declared(name))
        noise = tuple(radial_power(images[:, 0].float()).median(dim=0).values.tolist())
        references = {
            "files, one imaging": of_files,
            "any imaging": of_any,
            "any imaging, threshold by files": (of_any[0], of_files[1]),
            f"any imaging, SNR from {LEAST_SNR:g}": of_clearer,
            "tilts and defocus declared": halves(network.simulated(own, densities, 2 * cfg.poses, SEED + 2)),
        }
        own = replace(own, noise_power=noise)
        noisy = halves(network.simulated(own, densities, 2 * cfg.poses, SEED + 2))
        references["declared, and the data's own noise"] = noisy
        found = {way: judged(tested, *nearest(*pair)) for way, pair in references.items()}
        found |= {f"{way}; less a cohort": judged(tested, *nearest(*pair, cohort)) for way, pair in references.items()}
        found["any imaging, by noise"] = judged(tested, *nearest(*of_any, bins=NOISE_BINS))
        found["any imaging, by noise; less a cohort"] = judged(tested, *nearest(*of_any, cohort, NOISE_BINS))
        rest, pair = own_particles(tested)
        found[f"{OWN} own particles a class"] = judged(rest, *nearest(*pair))
        found[f"{OWN} own particles a class; less a cohort"] = judged(rest, *nearest(*pair, cohort))
        content["sets"][name] = found
        study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def named(network: Network, table: tuple) -> Volumes:
    """The volumes of a table, of simulate.py's set, by the network's classes."""
    rows, images = table
    labels = [network.classes.index(name) if name in network.classes else -1 for name in rows[LABEL]]
    return network.embedded(images, np.array(labels), rows[PARTICLE].to_numpy(str))


def declared(name: str) -> Declared:
    """What a user knows of the data of a set: its tilt range and defocus."""
    imaging = SETS[name]["imaging"]
    return Declared(tilt_range=(imaging.tilt_min, imaging.tilt_max), defocus=imaging.defocus)


def halves(volumes: Volumes) -> tuple[Volumes, Volumes]:
    """Half of the particles of each class, to compare with, and the others, to set the threshold."""
    rng = np.random.default_rng(0)
    first = np.zeros(len(volumes.labels), dtype=bool)
    for label in np.unique(volumes.labels):
        of_class = np.flatnonzero(volumes.labels == label)
        particles = rng.permutation(np.unique(volumes.particles[of_class]))
        first[of_class] = np.isin(volumes.particles[of_class], particles[: len(particles) // 2])
    return volumes.keep(first), volumes.keep(~first)


def nearest(
    reference: Volumes, calibration: Volumes, cohort: Volumes | None = None, bins: int = 1
) -> tuple[Score, np.ndarray]:
    """The default score of a reference, less thresholds that refuse RATES of `calibration`, and the prototypes.

    Args:
        cohort: of shapes that are none of the classes; the same score of these is taken away.
        bins: levels of noise that have thresholds of their own.
    """
    neighbours = class_neighbours(reference.labels)

    def plain(volumes: Volumes) -> np.ndarray:
        found = class_knn_cosine(volumes.embeddings, reference.embeddings, reference.labels, neighbours)
        if cohort is None:
            return found
        of_each = class_neighbours(cohort.labels)
        return found - class_knn_cosine(volumes.embeddings, cohort.embeddings, cohort.labels, of_each)

    edges = np.quantile(calibration.noise, np.linspace(0, 1, bins + 1)[1:-1])
    of_bin, scores = np.searchsorted(edges, calibration.noise), plain(calibration)
    thresholds = np.array([[fit_threshold(scores[of_bin == n], rate) for rate in RATES] for n in range(bins)])

    def less_threshold(volumes: Volumes) -> np.ndarray:
        return plain(volumes)[:, None] - thresholds[np.searchsorted(edges, volumes.noise)]

    return less_threshold, prototypes(reference.embeddings, reference.labels, len(neighbours))


def own_particles(tested: Volumes) -> tuple[Volumes, tuple[Volumes, Volumes]]:
    """What is left of the tested ones without OWN particles of each class, and these, half by half."""
    taken = np.zeros(len(tested.labels), dtype=bool)
    for label in range(tested.labels.max() + 1):
        of_class = np.unique(tested.particles[tested.labels == label])
        taken |= (tested.labels == label) & np.isin(tested.particles, of_class[:OWN])
    return tested.keep(~taken), halves(tested.keep(taken))


def judged(tested: Volumes, score: Score, directions: np.ndarray) -> dict[str, float | int | list[float]]:
    """Known accuracy, knowns refused, unknowns detected, and how well the score tells the two apart."""
    scores, known = score(tested), tested.labels >= 0
    right = classify(tested.embeddings[known], directions)[0] == tested.labels[known]
    return {
        "accuracy": float(right.mean()),
        "refused": (scores[known] < 0).mean(axis=0).tolist(),
        "detected": (scores[~known] < 0).mean(axis=0).tolist(),
        "auroc": auroc(scores[known, 0], scores[~known, 0]),
        "n": int(known.sum()),
        "n_unknown": int((~known).sum()),
    }


def page(content: dict) -> str:
    """A table a figure: ways down, sets across."""
    sets = content["sets"]
    text = "{backbone}{depth} of width {width}, {loss}, seed {seed}, SHA-256 {sha256:.12}".format(**content["network"])
    first = next(iter(next(iter(sets.values())).values()))
    lines = [
        *("# Thresholds under another microscope", ""),
        f"{text}. Each set has {first['n']:,} volumes of {len(content['known'])} known and {first['n_unknown']:,} of "
        f"{len(content['unknown'])} valid_unseen classes, all SNRs mixed; {content['poses']} volumes of each class to "
        f"compare with and as many for the threshold. {machine.text(content)}. "
        f"`{content['command']}`",
    ]
    lines += ["", "## Known against unknown, AUROC", "", *table(sets, lambda found: found["auroc"], statistics.fmean)]
    lines += ["", "## Known accuracy, nearest prototype", ""]
    lines += table(sets, lambda found: found["accuracy"], statistics.fmean)
    for number, rate in enumerate(RATES):
        heading = f"## Threshold refuses {rate:g} of what it was set on"
        lines += ["", heading, "", "Knowns refused:", ""]
        lines += table(sets, lambda found, n=number: found["refused"][n], max)
        lines += ["", "Unknowns detected:", ""]
        lines += table(sets, lambda found, n=number: found["detected"][n], statistics.fmean)
    return "\n".join(lines) + "\n"


def table(sets: Mapping, figure: Callable[[Mapping], float], over: Callable[[list[float]], float]) -> list[str]:
    """Ways down, sets across, and the worst or the mean of the sets that rank."""
    rows = []
    for way in next(iter(sets.values())):
        values = {name: figure(found[way]) for name, found in sets.items()}
        ranking = [values[name] for name in CHOOSING if name in values]
        rows.append([way, *(f"{value:.3f}" for value in values.values()), f"{over(ranking):.3f}"])
    last = "the worst" if over is max else "mean"
    return study.markdown_table(["way", *sets, f"{last} of those that rank"], rows)


if __name__ == "__main__":
    run(main, Config, __doc__)
