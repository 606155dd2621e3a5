"""How far is the network from the limit? Known classes told by exhaustive template matching, on the same particles.

CHECKPOINT -> benchmarks/results/template_matching.{json,md}

    python -m benchmarks.template_matching pretrained/universal.pt --structures structures --quick
    python -m benchmarks.template_matching pretrained/universal.pt --structures structures        # finer; for a GPU
    python -m benchmarks.template_matching model_save/checkpoint.pt                               # procedural complexes

Each volume is compared with every known class in every rotation of a grid and at every shift of whole voxels, under
the true contrast transfer and wedge, and weighted by the true power spectrum of the noise. `best` takes the class of
the highest correlation, as template matching does. `all poses` sums the likelihood over all rotations and shifts, with
the true SNR: of Gaussian noise, and a grid that is fine enough, nothing can tell the classes better. Both know more
than the network is told. Under `hard`, neighbours break what they assume.
"""

import hashlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from benchmarks import machine, study
from common.cli import Device, InputError, choose_device, run
from common.progress import progress
from evaluation.rejection import classify
from loader.prepare import Preprocessing
from model import embed, load_checkpoint, load_model
from physics.filters import frequencies
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import Poses
from simulation.as_trained import RESOLUTION
from simulation.auxiliary import neighbour_densities
from simulation.sets import SETS
from simulation.simulator import Simulator
from simulation.structures import load_densities

DEFOCUS_STEP = 0.5  # um: particles of a set whose defocus varies are matched with the nearest multiple
NOISE_FIELDS = 256  # fields of noise that its power spectrum is the mean of
TEMPLATES, AT_ONCE = 128, 2**26  # templates, and numbers of shifted particles, in memory at once
LEAST_POWER = 0.01  # of the mean: coefficients with less noise, those outside of the wedge, are not weighted more
WAYS = {"network": "network", "best": "matching, best pose", "evidence": "matching, all poses"}


@dataclass(frozen=True)
class Config:
    checkpoint: tyro.conf.Positional[str]  # a checkpoint of train.py
    structures: str = ""  # folder of the structure files of its known classes; empty for procedural complexes
    sets: tuple[str, ...] = ("benchmark", "lab", "hard")  # sets of simulate.py; `other` has another simulator
    snr: tuple[float, ...] = (0.01, 0.03, 0.05, 0.1)  # signal-to-noise ratios, in the set's convention
    quick: bool = False  # 10 particles per class, rotations every 20 degrees
    per_class: int = 100  # particles per class and SNR, without --quick
    step: float = 10.0  # degrees between rotations of the grid, without --quick
    band: float = 0.6  # frequency up to which volumes are compared, in Nyquist frequencies
    seed: int = 1009  # seed of the particles
    shape_seed: int = 9  # seed of the procedural complexes; that of the training data
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    work_dir: str = "bench/template_matching"  # folder of what was finished
    results: str = ""  # files of the results, without endings; empty: benchmarks/results/template_matching, or _quick


def main(cfg: Config) -> None:
    check(cfg)
    device = choose_device(cfg.device)
    saved = load_checkpoint(cfg.checkpoint)
    per_class, step = (10, 20.0) if cfg.quick else (cfg.per_class, cfg.step)
    sha256 = hashlib.sha256(Path(cfg.checkpoint).read_bytes()).hexdigest()
    settings = {"classes": saved["classes"], "structures": bool(cfg.structures), "per_class": per_class, "step": step}
    settings |= {"band": cfg.band, "seed": cfg.seed, "shape_seed": cfg.shape_seed, "sha256": sha256}
    stem = cfg.results or str(study.RESULTS / ("template_matching_quick" if cfg.quick else "template_matching"))
    content = {"command": study.command(cfg, "template_matching"), **settings, **machine.record(device), "rows": []}
    for name in cfg.sets:
        scene = None
        for snr in cfg.snr:

            def job(_name: str = name, _snr: float = snr) -> dict:
                nonlocal scene
                scene = scene or prepare_scene(cfg, saved, SETS[_name]["imaging"], device)
                return measure(cfg, scene, _snr, (per_class, step))

            place = Path(cfg.work_dir) / sha256[:12] / f"{name}_{snr:g}.json"
            content["rows"].append({"set": name, "snr": snr} | study.once(place, settings, job))
            study.write_results(stem, content, page(content))
    study.show(stem)


def check(cfg: Config) -> None:
    """Raises InputError for options that nothing can be measured with."""
    usable = [name for name, options in SETS.items() if not options.get("independent")]
    wrong = sorted({*cfg.sets} - {*usable})
    if wrong or not cfg.sets:
        raise InputError(f"--sets {' '.join(cfg.sets)}: expected some of {', '.join(usable)}")
    if not cfg.snr or not all(0 < snr < math.inf for snr in cfg.snr):
        raise InputError(f"--snr {' '.join(map(str, cfg.snr))}: expected numbers above 0")
    if cfg.per_class < 1 or not 2 <= cfg.step <= 90 or not 0 < cfg.band <= 1:
        raise InputError(
            f"--per-class {cfg.per_class} --step {cfg.step:g} --band {cfg.band:g}: expected 1 or more, 2 to 90 degrees "
            "and, in Nyquist frequencies, above 0 up to 1"
        )


@dataclass(frozen=True)
class Scene:
    """A network, and what its known classes look like under one imaging."""

    checkpoint: str
    simulator: Simulator
    classes: int


def prepare_scene(cfg: Config, saved: dict, imaging: Imaging, device: torch.device) -> Scene:
    """Raises InputError for a class without a structure."""
    preprocessing = Preprocessing.read(saved["preprocessing"])
    size = preprocessing.voxel_size or imaging.voxel_size
    imaging = replace(imaging, voxel_size=size)
    grid = Grid(preprocessing.box, size, RESOLUTION, 0.0 if imaging.neighbours else imaging.shift)
    densities = load_densities(tuple(saved["classes"]), cfg.structures, grid, cfg.shape_seed).to(device)
    others = neighbour_densities(grid, cfg.shape_seed).to(device) if imaging.neighbours else None
    return Scene(cfg.checkpoint, Simulator(densities, imaging, others), len(densities))


@torch.inference_mode()
def measure(cfg: Config, scene: Scene, snr: float, size: tuple[int, float]) -> dict:
    """Accuracy of network and matching on new particles, and how many volumes either names in a second."""
    simulator, (per_class, step) = scene.simulator, size
    device = simulator.device
    generator = torch.Generator(device).manual_seed(cfg.seed)
    labels = torch.arange(scene.classes, device=device).repeat_interleave(per_class)
    parts = [simulator(part, torch.full_like(part, snr, dtype=torch.float), generator) for part in labels.split(64)]
    volumes = standardised(torch.cat([part.volumes for part in parts])[:, 0])
    defocus = torch.cat([part.poses.defocus for part in parts])

    model, checkpoint = load_model(scene.checkpoint, device)
    start = time.perf_counter()
    embeddings = embed(model, volumes[:, None], device, normalised=False)
    named = classify(embeddings, checkpoint["calibration"].prototypes)[0]
    took = {"network": time.perf_counter() - start}

    start = time.perf_counter()
    scores = match(simulator, volumes, defocus, Search(snr, step, cfg.band, cfg.seed))
    took["matching"] = time.perf_counter() - start
    found = {"network": torch.from_numpy(named), **{name: score.argmax(dim=1).cpu() for name, score in scores.items()}}
    return {
        "n": len(labels),
        "accuracy": {name: (of == labels.cpu()).double().mean().item() for name, of in found.items()},
        "volumes_per_s": {name: len(labels) / seconds for name, seconds in took.items()},
    }


def standardised(volumes: torch.Tensor) -> torch.Tensor:
    """Volumes (N, D, H, W) of mean 0 and standard deviation 1 each."""
    volumes = volumes - volumes.mean(dim=(1, 2, 3), keepdim=True)
    return volumes / volumes.std(dim=(1, 2, 3), correction=0, keepdim=True)


@dataclass(frozen=True)
class Search:
    """What template matching is told, and how finely it searches."""

    snr: float  # of the particles, in the imaging's convention
    step: float  # degrees
    band: float  # of Nyquist
    seed: int  # of the fields of noise whose power is measured


def match(
    simulator: Simulator, volumes: torch.Tensor, defocus: torch.Tensor, search: Search
) -> dict[str, torch.Tensor]:
    """How well each class explains each volume: `best` and `evidence`, (N, C) each, larger is better.

    Of whitened coefficients y of a volume and t of a template: `best` is the largest y.t / |t| of all poses, `evidence`
    the logarithm of the sum over poses of exp(y.t - |t|^2 / 2), the likelihood of Gaussian noise.

    Args:
        volumes: (N, D, H, W), standardised; defocus: (N,) um.
    """
    classes, rotations = len(simulator.fine), rotation_grid(search.step).to(simulator.device)
    scores = {
        name: torch.full((len(volumes), classes), -torch.inf, device=volumes.device)
        for name in WAYS
        if name != "network"
    }
    rounded = (defocus / DEFOCUS_STEP).round() * DEFOCUS_STEP if defocus.unique().numel() > 1 else defocus
    values = rounded.unique()
    with progress("template matching", total=len(values) * classes, unit="class") as bar:
        for value in values:
            rows = (rounded == value).nonzero().squeeze(1)
            whitener = Whitener(simulator, value, search)
            for label in range(classes):
                templates = [whitener.templates(label, part) for part in rotations.split(TEMPLATES)]
                templates = torch.cat(templates)
                norms = templates.square().sum(dim=1)
                for some in rows.split(max(1, AT_ONCE // (len(whitener.shifts) * templates.shape[1]))):
                    shifted = whitener.shifted(volumes[some])
                    best, evidence = compare(shifted, templates, norms)
                    scores["best"][some, label], scores["evidence"][some, label] = best, evidence
                bar.update()
    return scores


def compare(shifted: torch.Tensor, templates: torch.Tensor, norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Best correlation and log evidence (N,) of volumes (N, S, K) at S shifts with templates (T, K) of |t|^2 (T,)."""
    best = shifted.new_full((len(shifted),), -torch.inf)
    evidence = best.clone()
    for part, norm in zip(templates.split(TEMPLATES), norms.split(TEMPLATES), strict=True):
        product = (shifted.flatten(0, 1) @ part.T).unflatten(0, shifted.shape[:2])
        best = torch.maximum(best, (product / norm.sqrt()).amax(dim=(1, 2)))
        evidence = torch.logaddexp(evidence, (product - norm / 2).flatten(1).logsumexp(dim=1))
    return best, evidence


class Whitener:
    """Volumes and templates as coefficients whose noise is white, of variance 1, under one defocus."""

    def __init__(self, simulator: Simulator, defocus: torch.Tensor, search: Search):
        self.simulator, self.defocus = simulator, defocus.reshape(1)
        self.target, self.noise_filter = simulator.filters(self.defocus)
        side, device = simulator.side, simulator.device
        kz, ky, kx = (axis.to(device) / side for axis in frequencies(side))
        within = ((kz**2 + ky**2 + kx**2).sqrt() <= search.band / 2).flatten()
        within[0] = False
        self.kept = within.nonzero().squeeze(1)
        grids = torch.broadcast_tensors(kz, ky, kx)
        k = torch.stack([grid.flatten()[self.kept] for grid in grids], dim=1)  # (K, 3), cycles a voxel
        self.shifts = shift_grid(simulator.imaging.shift).to(device)
        self.phases = torch.exp(2j * torch.pi * (self.shifts @ k.T))  # (S, K): moves a volume by minus the shift
        noise_to_signal = 2 / search.snr if simulator.imaging.snr_convention == "lab" else 1 / search.snr
        self.signal_share = 1 / (1 + noise_to_signal)  # of the variance of a volume
        power = self._noise_power(search.seed) * (1 - self.signal_share)
        each = torch.full_like(kx, 2.0)  # how many coefficients of the full spectrum each stands for
        each[..., 0], each[..., -1] = 1, 1 + side % 2
        self.weight = (each / power.clamp(min=LEAST_POWER * power.mean())).sqrt().flatten()[self.kept]

    def _noise_power(self, seed: int) -> torch.Tensor:
        """Mean power spectrum (D, D, D // 2 + 1) of the noise of variance 1, as the cropped volumes have it."""
        generator = torch.Generator(self.simulator.device).manual_seed(seed)
        fields = [
            torch.fft.rfftn(
                self.simulator.noise(self.simulator.white(32, generator), self.noise_filter),
                dim=(1, 2, 3),
                norm="ortho",
            )
            for _ in range(NOISE_FIELDS // 32)
        ]
        return torch.cat(fields).abs().square().mean(dim=0)

    def _spectrum(self, volumes: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfftn(volumes, dim=(1, 2, 3), norm="ortho").flatten(1)[:, self.kept] * self.weight

    def templates(self, label: int, rotations: torch.Tensor) -> torch.Tensor:
        """A class without noise, turned by quaternions (T, 4), of the signal's share of the variance: (T, 2K)."""
        count = len(rotations)
        poses = Poses(rotations, rotations.new_zeros(count, 3), self.defocus.expand(count))
        posed = self.simulator.pose(torch.full((count,), label, device=rotations.device), poses, label)
        signal = standardised(self.simulator.signal(posed, self.target))
        return torch.view_as_real(self._spectrum(signal * self.signal_share**0.5)).flatten(1)

    def shifted(self, volumes: torch.Tensor) -> torch.Tensor:
        """Volumes (N, D, H, W) moved back by every shift of the grid: (N, S, 2K)."""
        return torch.view_as_real(self._spectrum(volumes)[:, None] * self.phases).flatten(2)


def shift_grid(largest: float) -> torch.Tensor:
    """All shifts of whole voxels up to a largest one along each axis, (S, 3) as z, y, x."""
    reach = math.floor(largest)
    return torch.cartesian_prod(*[torch.arange(-reach, reach + 1.0)] * 3)


def rotation_grid(step: float) -> torch.Tensor:
    """Quaternions (T, 4) spread evenly over the rotations, about `step` degrees apart.

    Super-Fibonacci spirals (Alexa 2022, CVPR, eq. 4 to 6), as many as cubes of that edge fill the 8 pi^2 of SO(3).
    """
    count = math.ceil(8 * math.pi**2 / math.radians(step) ** 3)
    place = torch.arange(count, dtype=torch.float64) + 0.5
    inner, outer = (place / count).sqrt(), (1 - place / count).sqrt()
    first = 2 * math.pi * place / math.sqrt(2)
    second = 2 * math.pi * place / 1.533751168755204288118041
    parts = (inner * first.sin(), inner * first.cos(), outer * second.sin(), outer * second.cos())
    return torch.stack(parts, dim=1).float()


def page(content: dict) -> str:
    """One row for each set and SNR."""
    classes = len(content["classes"])
    source = "coordinate files" if content["structures"] else "procedural complexes"
    rotations = len(rotation_grid(content["step"]))
    lines = [
        "# The network and the limit: template matching of the known classes",
        "",
        f"Share of particles of {classes} known classes ({source}) that get the right name, {content['per_class']} new "
        f"particles of each; chance is {1 / classes:.2g}. Matching: {rotations:,} rotations of each class, about "
        f"{content['step']:g} degrees apart, all shifts of whole voxels that the set has, frequencies up to "
        f"{content['band']:g} of Nyquist, the true contrast transfer, wedge, noise spectrum and SNR. The SNR is in the "
        "set's own convention: `lab` has twice the noise at the same number. Network: SHA-256 "
        f"{content['sha256']:.12}, nearest prototype. {machine.text(content)}."
        f"{machine.commit_text(content)} `{content['command']}`",
        "",
    ]
    rows = []
    for row in content["rows"]:
        rates = row["volumes_per_s"]
        cells = [f"{row['accuracy'][name]:.3f}" for name in WAYS]
        rows.append(
            [row["set"], f"{row['snr']:g}", f"{row['n']:,}", *cells, f"{rates['network'] / rates['matching']:,.0f}"]
        )
    head = ["set", "SNR", "n", *WAYS.values(), "network's speed over matching's"]
    return "\n".join([*lines, *study.markdown_table(head, rows)]) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
