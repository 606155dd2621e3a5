"""Open set: what the embeddings say of classes that training never saw.

CHECKPOINT, csv_split/{train,test,valid_unseen,unseen}.csv
    -> results/<save_dir>-<checkpoint>/{open_set.json,open_set.html,*.png}

    python open_set.py model_save/checkpoint.pt

The checkpoint may know other classes: then those of train.csv are enrolled from their volumes, without any training.

Verification (two unseen particles: same or different?), rejection (known or unknown?), enrolment (a few particles of a
new class name the others), and the same for what size, brightness or an untrained network would say. Nothing is tuned
here: test.csv and the unseen files choose nothing.
"""

import common.installed  # noqa: F401  where packages are missing it says so

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn

from common.cli import Device, InputError, choose_device, plural, run, warn
from common.files import claim_results, results_folder, write_json
from evaluation import floors, known_unknown, rejection, sections
from evaluation.bootstrap import CONFIDENCE, Resampling, number_particles
from evaluation.embedded import Embedded, Scored, View
from evaluation.figures import plain
from evaluation.sections import Evaluated, Junk, OpenSet, UnseenSet
from evaluation.splits import UNSEEN_SETS, enrolled, load_splits, unseen_sets
from loader.columns import LABEL, PARTICLE, SNR
from loader.dataset import Split, mask_sizes, overlap_warning
from loader.rows import snr_convention, tilt_ranges
from model import build_model, embed, load_model, trained_classes, with_views
from report.page import Picture, write_page
from report.terminal import format_open_set
from report.verdict import format_verdict, verdict
from simulation.as_trained import junk_volumes
from simulation.conditions import outside_training
from training.record import stopped_text


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    csv_dir: str = "csv_split"  # folder of train.csv, test.csv, valid_unseen.csv and unseen.csv
    results_dir: str = "results"  # folder of the results
    train_per_class: int = 300  # training volumes of a class that the floors compare with
    bootstrap: int = 200  # resamples of particles for the 95 % intervals
    discovery: bool = True  # group the particles that are called unknown, and count the groups
    floors: bool = True  # give the same figures for an untrained network, brightness and size
    umap: bool = True  # draw the map of all embeddings; it takes a quarter of a minute
    junk: int = 240  # simulated volumes of junk that particles are told from, where training had junk; 0 for none
    batch_size: int = 256  # volumes embedded at once
    seed: int = 9  # seed of the pairs, the named examples and the resamples
    device: Device = "auto"  # where to compute; auto is CUDA where there is one


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    for name, least in {"train_per_class": 1, "bootstrap": 1, "batch_size": 1, "junk": 0}.items():
        if getattr(cfg, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: expected at least {least}")
    model, checkpoint = load_model(cfg.checkpoint, device)
    results_folder(cfg.results_dir, cfg.checkpoint)  # refuses that of another checkpoint before the work
    splits = load_splits(Path(cfg.csv_dir), checkpoint, cfg.train_per_class, cfg.seed)
    outside = outside_training(checkpoint["config"], None, tilt_ranges(split.rows for split in splits.values()))
    overlap = overlap_warning(splits["test"].rows, checkpoint["progress"]["particles"], Path(cfg.csv_dir) / "test.csv")
    warned = [*filter(None, (stopped_text(cfg.checkpoint, checkpoint), overlap, outside))]
    for text in warned:
        warn(text)
    raw = {
        name: embed(model, split.images, device, cfg.batch_size, f"embedding {name}.csv", normalised=False)
        for name, split in splits.items()
    }
    note = ""
    if "valid" in splits:
        checkpoint, note = enrolled(checkpoint, splits, raw)
        print(note)
    views = [View("this network", embedded(raw, splits), prepare=True)]
    if cfg.floors and unseen_sets(splits):
        views += floor_views(cfg, checkpoint, splits, device)
    report, evaluated = evaluate(cfg, checkpoint, splits, raw, views)
    report = replace(report, note=note, warnings=warned)
    if checkpoint["junk"] and cfg.junk:
        report = replace(report, junk=particle_or_junk(cfg, model, checkpoint, views[0].sets, device))

    folder = claim_results(cfg.results_dir, cfg.checkpoint)
    write_json(folder / "open_set.json", plain(report))
    write_page(folder / "open_set.html", report, {})  # the figures first: a picture may fail
    pictures = draw(cfg, folder, splits, report, views[0], evaluated)
    write_page(folder / "open_set.html", report, pictures)
    print(format_open_set(report))
    print(f"\n{format_verdict(verdict(report))}\n")
    files = [picture.path for of_set in pictures.values() for picture in of_set]
    print("written: " + ", ".join(map(str, [folder / "open_set.json", folder / "open_set.html", *files])))


def evaluate(
    cfg: Config, checkpoint: dict, splits: dict[str, Split], raw: dict[str, np.ndarray], views: list[View]
) -> tuple[OpenSet, list[Evaluated]]:
    """All figures but those of junk, and each unseen set with its own.

    Args:
        raw: the network's embeddings of the sets, not normalised.
        views: the sets as the network sees them, then as the floors do.
    """
    calibration, resampling = checkpoint["calibration"], Resampling(cfg.bootstrap, cfg.seed)
    scores = scores_of_sets(checkpoint, raw)
    scored = {name: Scored(views[0].sets[name], of_set) for name, of_set in scores.items()}
    correct = rejection.classify(raw["test"], calibration.prototypes)[0] == splits["test"].labels.numpy()
    refused = scores["test"][calibration.score] < calibration.threshold
    rates = known_unknown.valid_rates(calibration, checkpoint["classes"])
    evaluated = []
    for name in unseen_sets(splits):
        known, unseen = scored["test"], scored[name]
        count = len(np.unique(unseen.rows.classes))
        print(f"evaluating {name}.csv: {len(unseen.rows)} volumes of {count} unseen {plural('class', count)}")
        steps = {
            "verification": partial(sections.verify, unseen.rows, known.rows),
            "rejection": partial(known_unknown.reject, known, unseen, correct, calibration, checkpoint["classes"]),
            "enrolment": partial(sections.enrol, unseen.rows, calibration.prototypes),
        }
        if cfg.discovery:
            rejected = tuple(side.scores[calibration.score] < calibration.threshold for side in (known, unseen))
            steps["discovery"] = partial(sections.discovery, known.rows, unseen.rows, rejected)
        steps |= {f"floor: {view.name}": partial(sections.floor, view, name) for view in views}
        found = sections.compute(steps, resampling)
        default = (side.scores[calibration.score] for side in (known, unseen))
        part = UnseenSet(
            classes=sorted(np.unique(unseen.rows.classes)),
            n=len(unseen.rows),
            n_particles=len(np.unique(unseen.rows.particles)),
            floors=[found.pop(step) for step in steps if step.startswith("floor: ")],
            confounds=floors.confounds(*default, floors.factors(splits["test"], splits[name])),
            **found,
        )
        evaluated.append(Evaluated(name, part, known, unseen))
    report = OpenSet(
        checkpoint=str(cfg.checkpoint),
        known_classes=checkpoint["classes"],
        snr_convention=snr_convention(splits["test"].rows),
        confidence=CONFIDENCE,
        bootstrap=cfg.bootstrap,
        seed=cfg.seed,
        known=known_unknown.known_only(views[0].sets["test"], correct, refused, rates, resampling),
        note="",
        warnings=[],
        **{of_set.name: of_set.part for of_set in evaluated},
    )
    return report, evaluated


def draw(
    cfg: Config, folder: Path, splits: dict[str, Split], report: OpenSet, network: View, evaluated: list[Evaluated]
) -> dict[str, list[Picture]]:
    """Draw the pictures of each unseen set, and of all: name of the set, or `all`, -> those that could be drawn."""
    from report import gallery  # here, as matplotlib takes a second

    pictures = {"all": []}
    for of_set in evaluated:
        pictures[of_set.name] = gallery.draw_set(folder, of_set, report.known.overall.seen_seen)
        if cfg.discovery:
            images = splits["test"].images, splits[of_set.name].images
            pictures[of_set.name] += gallery.draw_medoids(folder / f"{of_set.name}_clusters.png", of_set, images)
    if cfg.umap:
        unseen = [network.sets[name] for name in unseen_sets(splits)]
        pictures["all"] = gallery.draw_map(folder / "map.png", network.sets["test"], unseen, cfg.seed)
    return pictures


def embedded(embeddings: dict[str, np.ndarray], splits: dict[str, Split]) -> dict[str, Embedded]:
    """The sets with embeddings of length 1, their particles numbered through all of them."""
    numbers = number_particles(*(split.rows[PARTICLE].to_numpy(str) for split in splits.values()))
    return {
        name: Embedded(
            rejection.unit(embeddings[name]), split.rows[LABEL].to_numpy(str), particles, split.rows[SNR].to_numpy(str)
        )
        for (name, split), particles in zip(splits.items(), numbers, strict=True)
    }


def scores_of_sets(checkpoint: dict, raw: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Every score of every set but train; those of the loss's head where it knows the classes, enrolled ones too."""
    calibration, classes = checkpoint["calibration"], checkpoint["classes"]
    whole = trained_classes(checkpoint) == classes and not checkpoint["whitening"]
    known = len(classes) if whole else 0  # the head takes embeddings as they are before whitening
    scores = {}
    for name in (name for name in raw if name != "train"):
        logits = rejection.head_logits(raw[name], checkpoint["criterion"], known)
        scores[name] = rejection.all_scores(raw[name], calibration, logits)
    return scores


def particle_or_junk(
    cfg: Config, model: nn.Module, checkpoint: dict, sets: dict[str, Embedded], device: torch.device
) -> Junk:
    """How well particles of the sets are told from junk, which is simulated as training had it."""
    volumes, kinds = junk_volumes(checkpoint["config"], checkpoint["preprocessing"], cfg.junk, cfg.seed, device)
    embeddings = embed(model, volumes, device, cfg.batch_size, "embedding junk")
    sets = {name: sets[name] for name in ("test", *UNSEEN_SETS) if name in sets}
    return sections.junk(checkpoint["junk"], embeddings, kinds, sets, Resampling(cfg.bootstrap, cfg.seed))


def floor_views(cfg: Config, checkpoint: dict, splits: dict[str, Split], device: torch.device) -> list[View]:
    """The sets as an untrained network, size alone and intensity alone see them."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        untrained = build_model(checkpoint["config"]).to(device, memory_format=torch.channels_last_3d).eval()
    untrained = with_views(untrained, checkpoint["config"], checkpoint["preprocessing"])
    embeddings = {
        "untrained network": {
            name: embed(untrained, split.images, device, cfg.batch_size, f"untrained network, {name}.csv")
            for name, split in splits.items()
        }
    }
    voxels = {name: mask_sizes(split.rows) for name, split in splits.items()}
    features = {
        "intensity only": {name: split.intensity for name, split in splits.items()},
        "size as round blobs see it": {name: floors.blob_features(split.images) for name, split in splits.items()},
    }
    if all(sizes is not None for sizes in voxels.values()):
        features["size only (true masks)"] = {name: floors.size_features(sizes) for name, sizes in voxels.items()}
    for label, values in features.items():
        embeddings[label] = {name: floors.feature_embedding(values[name], values["train"]) for name in values}
    return [
        View(label, embedded(values, splits), prepare=label == "untrained network")
        for label, values in embeddings.items()
    ]


if __name__ == "__main__":
    run(main, Config, __doc__)
