"""Is a wrong contrast noticed? Sets of simulated volumes, inverted and as they should be, and what predict.py says.

-> benchmarks/results/contrast.{json,md}

    python -m benchmarks.contrast

predict.py inverts nothing by itself; where the typical volume of a call looks as if it were of the other contrast, it
warns and names the option. Here sets of particles of 1 to `most_classes` procedural complexes are simulated under
several kinds of imaging. Counted are the sets that are warned of when they are inverted, and when they are not.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks import machine, study
from common.cli import Device, choose_device, run
from common.progress import progress
from loader.dataset import contrast_warning
from loader.volume import central_brightness, normalise
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
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = str(study.RESULTS / "contrast")  # files of the results, without endings


BOX = 32  # voxels
BENCHMARK = SETS["benchmark"]["imaging"]
KINDS: dict[str, tuple[Imaging, bool]] = {  # of imaging, and whether each set is of one class alone
    "`benchmark`": (BENCHMARK, False),
    "`benchmark`, one class in each set": (BENCHMARK, True),
    "`benchmark` with 4 neighbours": (replace(BENCHMARK, neighbours=4), False),
    "`hard`": (SETS["hard"]["imaging"], False),
    "`lab`": (SETS["lab"]["imaging"], False),
    "`benchmark`, hollow shells": (BENCHMARK, True),
}
RADII, WALL = (50, 60, 70, 80, 90, 100), 25  # A, of the hollow shells, which no complex above is: apoferritin has 60


def main(cfg: Config) -> None:
    """Simulate, count and print."""
    device = choose_device(cfg.device)
    names = tuple(procedural_name(index) for index in range(cfg.complexes))
    rows = []
    for kind, (imaging, alone) in KINDS.items():
        grid = Grid(BOX, imaging.voxel_size, 2 * imaging.voxel_size, margin=Imaging.shift)
        densities = shells(grid) if "shells" in kind else load_densities(names, "", grid)
        simulator = Simulator(densities.to(device), imaging)
        for snr in cfg.snr:
            rows.append({"imaging": kind, "snr": snr, **counted(cfg, simulator, snr, 1 if alone else cfg.most_classes)})
            print(rows[-1], flush=True)
    content = {"command": study.command(cfg, "contrast"), **machine.record(device)}
    content |= {"volumes": cfg.volumes, "complexes": cfg.complexes, "most_classes": cfg.most_classes, "seed": cfg.seed}
    study.write_results(cfg.results, content | {"rows": rows}, page(content | {"rows": rows}))
    study.show(cfg.results)


def shells(grid: Grid) -> torch.Tensor:
    """Hollow spheres of protein with outer radii RADII, their edges as soft as the resolution: (C, D, H, W)."""
    at = ((torch.arange(grid.box) - (grid.box - 1) / 2) * grid.voxel_size) ** 2
    radius = (at[:, None, None] + at[:, None] + at).sqrt()
    outer = torch.tensor(RADII, dtype=torch.float32)[:, None, None, None]
    return torch.sigmoid((outer - radius) * 4 / grid.resolution) * torch.sigmoid(
        (radius - outer + WALL) * 4 / grid.resolution
    )


def counted(cfg: Config, simulator: Simulator, snr: float, most_classes: int) -> dict:
    """What is said of sets of at most so many classes, inverted and not; the share of volumes that look right."""
    inverted = right = looks_right = 0
    medians = []
    for number in progress(f"SNR {snr:g}", range(cfg.sets), unit="set"):
        brightness = set_brightness(cfg, simulator, snr, most_classes, (cfg.seed, number))
        inverted += bool(contrast_warning(-brightness, "bright"))
        right += bool(contrast_warning(brightness, "bright"))
        looks_right += int(np.sum(brightness > 0))
        medians.append(float(np.median(brightness)))
    return {
        "sets": cfg.sets,
        "warned_inverted": inverted,
        "warned_right": right,
        "volumes_right": looks_right / (cfg.sets * cfg.volumes),
        "lowest_median": min(medians),
    }


def set_brightness(
    cfg: Config, simulator: Simulator, snr: float, most_classes: int, seed: tuple[int, int]
) -> np.ndarray:
    """The brightness of the centres of a set's volumes, (N,), as predict.py measures it."""
    rng = np.random.default_rng(seed)
    count = len(simulator.fine)
    classes = rng.choice(count, rng.integers(1, min(most_classes, count) + 1), replace=False)
    labels = torch.from_numpy(rng.choice(classes, cfg.volumes)).to(simulator.device)
    generator = torch.Generator(simulator.device).manual_seed(int(rng.integers(2**62)))
    found = []
    with torch.inference_mode():
        for part in labels.split(cfg.batch):
            made = simulator(part, torch.full((len(part),), snr, device=simulator.device), generator)
            found += [central_brightness(normalise(volume, "simulated")) for volume in made.volumes[:, 0].cpu().numpy()]
    return np.array(found)


def page(content: dict) -> str:
    """The table with what it was measured on."""
    rows = [
        (
            row["imaging"], f"{row['snr']:g}", f"{row['warned_inverted']} of {row['sets']}",
            f"{row['warned_right']} of {row['sets']}", f"{row['volumes_right']:.1%}", f"{row['lowest_median']:.1f}",
        )
        for row in content["rows"]
    ]  # fmt: skip
    head = ["imaging", "SNR", "inverted sets that are warned of", "right sets that are warned of"]
    head += ["single volumes that look right", "lowest median of a set"]
    lines = [
        "# Is a wrong contrast noticed?",
        "",
        f"Sets of {content['volumes']} volumes of {BOX}^3 voxels, each of 1 to {content['most_classes']} of "
        f"{content['complexes']} procedural complexes, seed {content['seed']}. The median is in standard errors by "
        f"which the centre is brighter; from -2 down predict.py warns. Shells have outer radii of {RADII[0]} to "
        f"{RADII[-1]} A and walls of {WALL} A. {machine.text(content)}."
        f"{machine.commit_text(content)} `{content['command']}`",
        "",
        *study.markdown_table(head, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
