"""Is a wrong contrast noticed? Sets of simulated volumes, inverted and as they should be, and what predict.py says.

-> benchmarks/results/contrast.{json,md}, or contrast_quick.{json,md}

    python -m benchmarks.contrast
    python -m benchmarks.contrast --quick       # at SNR 0.05, ten minutes of one CPU core

predict.py inverts nothing by itself; where the typical volume of a call looks as if it were of the other contrast, it
warns and names the option. Here sets of particles of 1 to `most_classes` procedural complexes, of hollow shells and of
tubes are simulated under several kinds of imaging. Counted are the sets that are warned of when they are inverted, and
when they are not: by the skewness of the volumes, as predict.py does it, and by the brightness of their centres alone,
as it once did.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks import machine, study
from common.cli import Device, choose_device, run
from common.progress import progress
from loader.dataset import contrast_warning, dark_from
from loader.volume import central_brightness, normalise, skewness
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.sets import SETS
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_name


@dataclass(frozen=True)
class Config:
    sets: int = 100  # sets of volumes in each row of the table
    volumes: int = 200  # volumes in a set
    complexes: int = 40  # procedural complexes that the sets are of
    most_classes: int = 8  # complexes in a set, at most
    snr: tuple[float, ...] = (0.05, 0.5)  # signal-to-noise ratios, one for each row
    batch: int = 50  # volumes simulated at once
    seed: int = 9  # seed of classes, poses and noise
    quick: bool = False  # measure the lowest SNR alone, and leave out the kinds of SLOW
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = str(study.RESULTS / "contrast")  # files of the results, without _quick and endings


BOX = 32  # voxels
BENCHMARK = SETS["benchmark"]["imaging"]
KINDS: dict[str, tuple[Imaging, bool]] = {  # of imaging, and whether each set is of one class alone
    "`benchmark`": (BENCHMARK, False),
    "`benchmark`, one class in each set": (BENCHMARK, True),
    "`benchmark` with 4 neighbours": (replace(BENCHMARK, neighbours=4), False),
    "`hard`": (SETS["hard"]["imaging"], False),
    "`lab`": (SETS["lab"]["imaging"], False),
    "`benchmark`, hollow shells": (BENCHMARK, True),
    "`lab`, hollow shells": (SETS["lab"]["imaging"], True),
    "`benchmark`, tubes": (BENCHMARK, True),
    "`lab`, tubes": (SETS["lab"]["imaging"], True),
}
SLOW = ("`benchmark` with 4 neighbours",)  # `hard` has neighbours, too
RADII, WALL = (50, 60, 70, 80, 90, 100), 25  # A, of shells and tubes; apoferritin has 60, a microtubule 125
LENGTH = 260  # A, of the tubes
DARK_CENTRE = -2.0  # standard errors of the median brightness of the centres, from which they alone would warn


def main(cfg: Config) -> None:
    """Simulate, count and print."""
    device = choose_device(cfg.device)
    names = tuple(procedural_name(index) for index in range(cfg.complexes))
    rows = []
    for kind, (imaging, alone) in KINDS.items():
        if cfg.quick and kind in SLOW:
            continue
        grid = Grid(BOX, imaging.voxel_size, 2 * imaging.voxel_size, margin=Imaging.shift)
        if kind.endswith(("shells", "tubes")):
            densities = hollow(grid, LENGTH if kind.endswith("tubes") else None)
        else:
            densities = load_densities(names, "", grid)
        simulator = Simulator(densities.to(device), imaging)
        for snr in (min(cfg.snr),) if cfg.quick else cfg.snr:
            rows.append({"imaging": kind, "snr": snr, **counted(cfg, simulator, snr, 1 if alone else cfg.most_classes)})
            print(rows[-1], flush=True)
    content = {"command": study.command(cfg, "contrast"), **machine.record(device)}
    content |= {"volumes": cfg.volumes, "complexes": cfg.complexes, "most_classes": cfg.most_classes, "seed": cfg.seed}
    stem = cfg.results + ("_quick" if cfg.quick else "")
    study.write_results(stem, content | {"rows": rows}, page(content | {"rows": rows}))
    study.show(stem)


def hollow(grid: Grid, length: float | None = None) -> torch.Tensor:
    """Shells of protein, or tubes of a length (A) along z, with outer radii RADII, their edges as soft as the
    resolution: (C, D, H, W)."""
    at = (torch.arange(grid.box) - (grid.box - 1) / 2) * grid.voxel_size
    z = at[:, None, None]
    radius = ((0 if length else z) ** 2 + at[:, None] ** 2 + at**2).sqrt()
    outer = torch.tensor(RADII, dtype=torch.float32)[:, None, None, None]
    wall = torch.sigmoid((outer - radius) * 4 / grid.resolution)
    wall = wall * torch.sigmoid((radius - outer + WALL) * 4 / grid.resolution)
    return wall * torch.sigmoid((length / 2 - z.abs()) * 4 / grid.resolution) if length else wall


def counted(cfg: Config, simulator: Simulator, snr: float, most_classes: int) -> dict:
    """What is said of sets of at most so many classes, inverted and not; the share of volumes that look right."""
    inverted = right = looks_right = inverted_centre = right_centre = 0
    medians = []
    for number in progress(f"SNR {snr:g}", range(cfg.sets), unit="set"):
        found, centres = measured(cfg, simulator, snr, most_classes, (cfg.seed, number))
        inverted_centre += bool(np.median(-centres) <= DARK_CENTRE)
        right_centre += bool(np.median(centres) <= DARK_CENTRE)
        inverted += bool(contrast_warning(-found, "bright"))
        right += bool(contrast_warning(found, "bright"))
        looks_right += int(np.sum(found > 0))
        medians.append(float(np.median(found)))
    return {
        "sets": cfg.sets,
        "warned_inverted": inverted,
        "warned_right": right,
        "warned_inverted_centre": inverted_centre,
        "warned_right_centre": right_centre,
        "volumes_right": looks_right / (cfg.sets * cfg.volumes),
        "lowest_median": min(medians),
    }


def measured(
    cfg: Config, simulator: Simulator, snr: float, most_classes: int, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The skewness of a set's volumes, (N,), as predict.py measures it, and the brightness of their centres, (N,)."""
    rng = np.random.default_rng(seed)
    count = len(simulator.fine)
    classes = rng.choice(count, rng.integers(1, min(most_classes, count) + 1), replace=False)
    labels = torch.from_numpy(rng.choice(classes, cfg.volumes)).to(simulator.device)
    generator = torch.Generator(simulator.device).manual_seed(int(rng.integers(2**62)))
    found = []
    with torch.inference_mode():
        for part in labels.split(cfg.batch):
            made = simulator(part, torch.full((len(part),), snr, device=simulator.device), generator)
            volumes = [normalise(volume, "simulated") for volume in made.volumes[:, 0].cpu().numpy()]
            found += [(skewness(volume), central_brightness(volume)) for volume in volumes]
    skewed, centres = np.array(found).T
    return skewed, centres


def page(content: dict) -> str:
    """The table with what it was measured on."""
    rows = [
        (
            row["imaging"], f"{row['snr']:g}", f"{row['warned_inverted']} of {row['sets']}",
            f"{row['warned_right']} of {row['sets']}", f"{row['volumes_right']:.1%}", f"{row['lowest_median']:.1f}",
            f"{row['warned_inverted_centre']}, {row['warned_right_centre']}",
        )
        for row in content["rows"]
    ]  # fmt: skip
    head = ["imaging", "SNR", "inverted sets that are warned of", "right sets that are warned of"]
    head += ["single volumes that look right", "lowest median of a set", "the two counts by centres"]
    lines = [
        "# Is a wrong contrast noticed?",
        "",
        f"Sets of {content['volumes']} volumes of {BOX}^3 voxels, each of 1 to {content['most_classes']} of "
        f"{content['complexes']} procedural complexes, or of one shell or tube, seed {content['seed']}. The median is "
        f"of the skewness, in standard errors of noise; from {dark_from(content['volumes']):.2f} down predict.py "
        f"warns. Shells and tubes have outer radii of {RADII[0]} to {RADII[-1]} A and walls of {WALL} A, tubes are "
        f"{LENGTH} A long. By centres: sets whose median centre is {-DARK_CENTRE:g} standard errors darker than the "
        f"volume. {machine.text(content)}."
        f"{machine.commit_text(content)} `{content['command']}`",
        "",
        *study.markdown_table(head, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
