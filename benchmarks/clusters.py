"""Are clusters the true classes, also by way of centres? And how long do a million embeddings take?

-> benchmarks/results/clusters.{json,md}

    python -m benchmarks.clusters                    # 10,000 simulated particles twice, then up to 1,000,000 embeddings
    python -m benchmarks.clusters --quick            # 2,000, and up to 100,000

Simulated particles are of procedural complexes that no training saw, of unequal frequency, at SNR 0.05 to 0.5, embedded
by the shipped network. They are clustered directly, each particle a centre, and around CENTRES centres with several
seeds, as centres are drawn at random; and by HDBSCAN, the usual way, to compare with. The settings of
evaluation/communities.py were chosen on complexes of another seed, 77, and other structures.

The embeddings beyond are a mixture of von Mises-Fisher distributions and a uniform background, in a mapped file.
Seconds are those of one process with `threads` threads; own memory is beyond that of before.
"""

import math
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import machine, study
from benchmarks.packing import memory
from common.cli import REPOSITORY, run
from evaluation.clusters import STABLE, find_clusters, project
from evaluation.communities import NOISE, SMALLEST_CLUSTER, cluster
from evaluation.discovery import agreement
from model import embed, load_model
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.auxiliary import fitting
from simulation.simulator import Simulator


@dataclass(frozen=True)
class Config:
    checkpoint: str = str(REPOSITORY / "pretrained" / "universal.pt")  # network that embeds the simulated particles
    particles: int = 10_000  # number of simulated particles
    classes: tuple[int, ...] = (12, 40)  # numbers of classes of theirs, one set of particles for each
    many: tuple[int, ...] = (10_000, 100_000, 1_000_000)  # numbers of embeddings of the mixture
    quick: bool = False  # take 2,000 particles, and at most 100,000 embeddings
    seeds: tuple[int, ...] = (0, 1, 2)  # seeds of the centres
    threads: int = 1  # threads of the processor that torch uses
    work_dir: str = ""  # folder of the mixture, which is removed afterwards; empty: the system's temporary folder
    results: str = str(study.RESULTS / "clusters")  # path of the results, without the endings .json and .md


QUICK_PARTICLES, QUICK_MANY = 2_000, 100_000
SHAPE_SEED, SEED = 1009, 1  # of the complexes, on which no setting was chosen; of the rest
BATCH = 64  # volumes at once
SNR = (0.05, 0.5)  # log-uniform
FREQUENCY = -0.5  # exponent: class k (from 1) is k^FREQUENCY as frequent as class 1
MIXTURE_CLASSES, DIMENSION, CONCENTRATION, BACKGROUND = 20, 512, 300.0, 0.05
DIRECTLY = 10_000  # embeddings of the mixture up to which they are clustered directly, too
HDBSCAN_DIMENSIONS, HDBSCAN_NEIGHBOURS, HDBSCAN_SHARE = 16, 5, 0.02  # share of all that its smallest cluster has
POLL_S = 0.02
NOTE = (
    "Of classes: how many classes are the commonest of a cluster, of those with particles enough for one. ARI, truth "
    "and purity are against the true classes; particles in no cluster count as one more cluster for the ARI. ARI, "
    "direct is the agreement of the way by centres with the direct one. HDBSCAN is there to compare with."
)
NOTE_MANY = (
    "Own memory is beyond that of before; the embeddings are a mapped file. Where other work ran on the machine, the "
    "seconds of processor time say more than the seconds."
)
HEAD_MANY = ("embeddings", "clusters", "of classes", "stable", "ARI, truth", "purity", "in none", "seconds")
HEAD_MANY += ("of processor time", "own memory, MB")
HEAD = (
    "particles",
    "way",
    "seed",
    "clusters",
    "of classes",
    "ARI, truth",
    "purity",
    "in none",
    "ARI, direct",
)


def main(cfg: Config) -> None:
    torch.set_num_threads(cfg.threads)
    particles = QUICK_PARTICLES if cfg.quick else cfg.particles
    many = [count for count in cfg.many if not cfg.quick or count <= QUICK_MANY]
    options = {"particles": particles, "classes": cfg.classes, "many": many, "seeds": cfg.seeds}
    command = f"python -m benchmarks.clusters {' '.join(study.arguments(options))}"
    content = {"command": command, **machine.record(torch.device("cpu")), "threads": cfg.threads}
    content |= {
        "checkpoint": Path(cfg.checkpoint).name,
        "snr": SNR,
        "concentration": CONCENTRATION,
        "background": BACKGROUND,
        "simulated": [],
        "mixture": [],
    }
    for number in cfg.classes:
        embeddings, classes = simulated(cfg.checkpoint, number, particles)
        name = f"{particles:,} of {number} classes"
        content["simulated"] += compared(name, embeddings, classes, cfg.seeds)
        study.write_results(cfg.results, content, page(content))
    with tempfile.TemporaryDirectory(dir=cfg.work_dir or None) as folder:
        for count in many:
            embeddings, classes = mixture(Path(folder) / "embeddings.npy", count)
            content["mixture"].append(timed(embeddings, classes))
            if count <= DIRECTLY:
                content["simulated"] += compared(f"{count:,} of the mixture", embeddings, classes, cfg.seeds)
            study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def simulated(checkpoint: str, number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (count, E) of simulated particles, and their classes (count,)."""
    model, content = load_model(checkpoint, torch.device("cpu"))
    preprocessing = content["preprocessing"]
    grid = Grid(preprocessing.box, preprocessing.voxel_size, 2 * preprocessing.voxel_size, 2.0)
    densities, _ = fitting(number, 0, grid, SHAPE_SEED)
    imaging = Imaging(envelope=math.inf, voxel_size=preprocessing.voxel_size)
    simulator = Simulator(torch.from_numpy(densities), imaging)
    generator = torch.Generator().manual_seed(SEED)
    frequency = torch.arange(1, number + 1).float() ** FREQUENCY
    classes = torch.multinomial(frequency, count, True, generator=generator)
    low, high = SNR
    snr = low * (high / low) ** torch.rand(count, generator=generator)
    parts = []
    with torch.inference_mode():
        for labels, levels in zip(classes.split(BATCH), snr.split(BATCH), strict=True):
            volumes = simulator(labels, levels, generator).volumes
            std, mean = torch.std_mean(volumes, dim=(1, 2, 3, 4), correction=0, keepdim=True)
            parts.append(embed(model, (volumes - mean) / std, torch.device("cpu"), BATCH))
    return np.concatenate(parts), classes.numpy()


def mixture(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (count, DIMENSION) in a mapped file, and their classes (count,); those of the background are -1."""
    from scipy.stats import uniform_direction, vonmises_fisher

    rng = np.random.default_rng(SEED)
    frequency = np.arange(1, MIXTURE_CLASSES + 1.0) ** FREQUENCY
    classes = rng.choice(MIXTURE_CLASSES, count, p=frequency / frequency.sum())
    classes[rng.random(count) < BACKGROUND] = -1
    directions = uniform_direction(DIMENSION).rvs(MIXTURE_CLASSES, random_state=rng)
    embeddings = np.lib.format.open_memmap(path, "w+", np.float32, (count, DIMENSION))
    for label in range(-1, MIXTURE_CLASSES):
        law = uniform_direction(DIMENSION) if label < 0 else vonmises_fisher(directions[label], CONCENTRATION)
        for rows in np.array_split(np.flatnonzero(classes == label), math.ceil(count / 100_000)):
            if len(rows):
                embeddings[rows] = law.rvs(len(rows), random_state=rng).reshape(len(rows), DIMENSION)
    embeddings.flush()
    return np.load(path, mmap_mode="r"), classes


def compared(name: str, embeddings: np.ndarray, classes: np.ndarray, seeds: tuple[int, ...]) -> list[dict]:
    """HDBSCAN, the direct way, and that by centres with each seed: against the classes, and the last two ways."""
    points = project(embeddings, np.arange(len(classes)), SEED)
    usual = hdbscan(points)
    direct = cluster(points, SEED, most_centres=len(points))
    rows = [
        {"particles": name, "way": "HDBSCAN", "seed": None, **judged(usual, classes)},
        {"particles": name, "way": "directly", "seed": SEED, **judged(direct, classes)},
    ]
    for seed in seeds:
        found = cluster(points, seed)
        agreeing = {"ari_direct": agreement(found, direct).ari}
        rows.append({"particles": name, "way": "by centres", "seed": seed, **judged(found, classes), **agreeing})
    return rows


def hdbscan(points: np.ndarray) -> np.ndarray:
    """Clusters by density (Campello et al. 2013), by excess of mass, (N, F) -> (N,), NOISE for none."""
    from sklearn.cluster import HDBSCAN

    smallest = max(SMALLEST_CLUSTER, round(HDBSCAN_SHARE * len(points)))
    model = HDBSCAN(min_cluster_size=smallest, min_samples=HDBSCAN_NEIGHBOURS, copy=True)
    return model.fit_predict(points[:, :HDBSCAN_DIMENSIONS].astype(float))


def judged(found: np.ndarray, classes: np.ndarray) -> dict:
    """Clusters (N,) against true classes (N,), -1 for none: their number, and of how many classes of those they are."""
    kinds = (np.unique(classes[found == index], return_counts=True) for index in range(found.max() + 1))
    commonest = {int(names[counts.argmax()]) for names, counts in kinds} - {-1}
    figures = agreement(found, classes)
    counts = np.bincount(classes[classes >= 0])
    return {
        "clusters": int(found.max() + 1),
        "classes": len(commonest),
        "large_classes": int(np.sum(counts >= SMALLEST_CLUSTER)),
        "ari": figures.ari,
        "purity": figures.purity,
        "in_none": float(np.mean(found == NOISE)),
    }


def timed(embeddings: np.ndarray, classes: np.ndarray) -> dict:
    """Everything that predict.py asks for, of all embeddings; seconds, memory, and agreement with the classes."""
    with Watch() as watch:
        found = find_clusters(embeddings, np.arange(len(classes)), SEED)
    return {
        "n": len(classes),
        **judged(found.numbers, classes),
        "stable": int(np.sum(found.stability >= STABLE)),
        "seconds": watch.seconds,
        "processor_seconds": watch.processor_seconds,
        "own_mb": watch.own_mb,
    }


class Watch:
    """A context that takes the time, and the most memory of its own that the process has beyond that of before, MB."""

    def __enter__(self) -> "Watch":
        self.own_mb, self._before, self._over = 0.0, memory(os.getpid())[0], threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.processor_seconds = (
            time.perf_counter() - self._start[0],
            time.process_time() - self._start[1],
        )
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._over.wait(POLL_S):
            self.own_mb = max(self.own_mb, memory(os.getpid())[0] - self._before)


def page(content: dict) -> str:
    """The tables, with what they were measured on."""
    low, high = content["snr"]
    lines = [
        *("# Clusters of unknown particles", ""),
        f"Simulated complexes that no training saw, SNR {low:g} to {high:g}, class k as frequent as k^{FREQUENCY:g}, "
        f"by {content['checkpoint']}; settings were chosen on other complexes. A mixture of {MIXTURE_CLASSES} von "
        f"Mises-Fisher distributions on {DIMENSION} numbers (concentration {content['concentration']:g}, "
        f"{content['background']:.0%} background). "
        f"{machine.text(content)}. `{content['command']}`",
        *("", "## Each way, on the same particles", ""),
        *study.markdown_table(HEAD, (_both(row) for row in content["simulated"])),
        *("", NOTE),
    ]
    if content["mixture"]:
        lines += ["", "## All that predict.py asks for, of many embeddings", ""]
        lines += study.markdown_table(HEAD_MANY, (_many(row) for row in content["mixture"]))
        lines += ["", NOTE_MANY]
    return "\n".join(lines) + "\n"


def _both(row: dict) -> list[str]:
    figures = [row["ari"], row["purity"], row["in_none"], row.get("ari_direct")]
    number = f"{row['classes']} / {row['large_classes']}"
    cells = ["-" if value is None else f"{value:.3f}" for value in figures]
    return [
        row["particles"],
        row["way"],
        "-" if row["seed"] is None else str(row["seed"]),
        str(row["clusters"]),
        number,
        *cells,
    ]


def _many(row: dict) -> list[str]:
    figures = ["-" if row[key] is None else f"{row[key]:.3f}" for key in ("ari", "purity", "in_none")]
    costs = [f"{row[key]:,.0f}" for key in ("seconds", "processor_seconds", "own_mb")]
    return [
        f"{row['n']:,}",
        str(row["clusters"]),
        f"{row['classes']} / {row['large_classes']}",
        str(row["stable"]),
        *figures,
        *costs,
    ]


if __name__ == "__main__":
    run(main, Config, __doc__)
