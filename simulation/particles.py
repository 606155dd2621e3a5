"""A data set of simulated particles on disk: names, seeds, files.

Everything random about a particle follows from the seed, its class's name and its number in the class, whatever else is
made, in whichever order.
"""

import csv
import hashlib
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import mrcfile
import numpy as np
import torch

from common.files import atomic_path
from loader.columns import PARTICLES_FILE, SIMULATION_FILE, snr_code
from loader.volume import write_volume
from physics.imaging import Imaging
from physics.pose import Poses
from simulation.crowd import Crowd
from simulation.simulator import MASK_LEVEL, Simulator, draw_poses

VOLUME_FOLDER, VOLUME_NAME = "subtomogram_mrc", "tomotarget"
MASK_FOLDER, MASK_NAME = "processed_densitymap_mrc_mrc2binary", "packtarget"
HEADER_BYTES = 1024
COLUMNS = (
    *("Input Data", "Segmentation Ground Truth", "Actual Label", "SNR Level", "Particle", "Tomogram", "Voxel Size"),
    *("Quaternion", "Shift", "Tilt Min", "Tilt Max", "Seed", "SNR Convention", "Defocus"),
)


def snr_folders(levels: Sequence[float]) -> list[str]:
    """`data1_SNR003`, `data2_SNR005`, ... in the order of the levels."""
    return [f"data{position}_SNR{snr_code(snr)}" for position, snr in enumerate(levels, 1)]


def volume_path(folder: str, number: int) -> str:
    """A volume's path from the data folder."""
    return f"{folder}/{VOLUME_FOLDER}/{VOLUME_NAME}{number}.mrc"


def mask_path(folder: str, number: int) -> str:
    """A mask's path from the data folder."""
    return f"{folder}/{MASK_FOLDER}/{MASK_NAME}{number}.mrc"


def remove_data_set(folder: Path) -> None:
    """Delete the files of a data set, and no others."""
    for pattern in (f"{VOLUME_FOLDER}/*{VOLUME_NAME}*.mrc", f"{MASK_FOLDER}/*{MASK_NAME}*.mrc"):
        for path in folder.glob(f"data*_SNR*/{pattern}"):
            path.unlink()
    for name in (PARTICLES_FILE, SIMULATION_FILE, "contact_sheet.png"):
        (folder / name).unlink(missing_ok=True)


def particle_generator(seed: int, name: str, number: int, what: str) -> torch.Generator:
    """The generator of one particle and purpose: poses, or the noise of an SNR.

    torch keeps 32 bits of a seed: successive ones for a class's particles, so that no two of them coincide.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{what}".encode()).digest()
    return torch.Generator().manual_seed((int.from_bytes(digest[:4], "little") + number) % 2**32)


class VolumeWriter:
    """Writes volumes of one shape and type, the same bytes as `write_volume` in a tenth of its time.

    It keeps the header of a first file, and fills in each volume's statistics.
    """

    def __init__(self, side: int, dtype: type, voxel_size: float):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "template.mrc"
            write_volume(path, np.zeros((side,) * 3, dtype), voxel_size)
            self.template = path.read_bytes()[:HEADER_BYTES]

    def __call__(self, path: Path, volume: np.ndarray) -> None:
        """Write a volume (z, y, x) in one step: a reader sees all of it or nothing."""
        header = np.frombuffer(bytearray(self.template), dtype=mrcfile.dtypes.HEADER_DTYPE)
        header["dmin"], header["dmax"] = volume.min(), volume.max()
        header["dmean"] = volume.mean(dtype=np.float32)
        header["rms"] = volume.std(dtype=np.float32)
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(header.tobytes() + volume.tobytes())
        os.replace(temporary, path)


class Pose(NamedTuple):
    """What particles.csv says of how a particle was imaged."""

    quaternion: Sequence[float]  # w, x, y, z
    shift: Sequence[float]  # x, y, z in voxels
    defocus: float  # um


class ParticleFiles(ABC):
    """The files of a data folder, batch by batch; threads may share it. Subclasses say what is in the volumes."""

    def __init__(
        self, folder: Path, names: Sequence[str], imaging: Imaging, side: int, seed: int, snr: Sequence[float]
    ):
        self.folder, self.names, self.imaging, self.seed, self.snr = folder, names, imaging, seed, snr
        self.write_float = VolumeWriter(side, np.float32, imaging.voxel_size)
        self.write_mask = VolumeWriter(side, np.int8, imaging.voxel_size)
        for place in snr_folders(snr):
            for part in (VOLUME_FOLDER, MASK_FOLDER):
                (folder / place / part).mkdir(parents=True, exist_ok=True)

    def exists(self, label: int, numbers: range, per_class: int) -> bool:
        """Whether all files of these particles are there."""
        return all(
            (self.folder / path(place, label * per_class + number)).is_file()
            for number in numbers
            for place in snr_folders(self.snr)
            for path in (volume_path, mask_path)
        )

    @abstractmethod
    def image(self, label: int, numbers: range) -> tuple[np.ndarray, list[np.ndarray]]:
        """Particles `numbers` of a class: masks (N, D, H, W) int8, and at each SNR volumes (N, D, H, W) float32."""

    @abstractmethod
    def pose(self, label: int, number: int) -> Pose:
        """How a particle of a class is imaged."""

    def make(self, label: int, numbers: range, per_class: int) -> None:
        """Image particles `numbers` of a class once at every SNR and write their volumes and masks."""
        masks, volumes = self.image(label, numbers)
        for place, at_snr in zip(snr_folders(self.snr), volumes, strict=True):
            for number, volume, mask in zip(numbers, at_snr, masks, strict=True):
                self.write_float(self.folder / volume_path(place, label * per_class + number), volume)
                self.write_mask(self.folder / mask_path(place, label * per_class + number), mask)

    def write_table(self, per_class: int) -> None:
        """Write particles.csv: one row per volume, all SNRs of a particle together."""
        with atomic_path(self.folder / PARTICLES_FILE) as temporary, temporary.open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            table.writeheader()
            for label in range(len(self.names)):
                table.writerows(self.rows(label, per_class))

    def rows(self, label: int, per_class: int) -> Iterator[dict]:
        """The rows of particles.csv of one class, one by one."""
        name, imaging = self.names[label], self.imaging
        tilts = f"{imaging.tilt_min:g}", f"{imaging.tilt_max:g}"
        if imaging.dual_axis and imaging.tilt_min != -imaging.tilt_max:
            tilts = "", ""  # no half turn keeps two unlike wedges: as good as unknown
        for k in range(per_class):
            pose = self.pose(label, k)
            for place, snr in zip(snr_folders(self.snr), self.snr, strict=True):
                values = (
                    volume_path(place, label * per_class + k),
                    mask_path(place, label * per_class + k),
                    name,
                    snr_code(snr),
                    f"{name}_{k:04d}",
                    "",
                    f"{imaging.voxel_size:g}",
                    " ".join(f"{value:.6f}" for value in pose.quaternion),
                    " ".join(f"{value:.4f}" for value in pose.shift),
                    *tilts,
                    self.seed,
                    imaging.snr_convention,
                    f"{pose.defocus:.4f}",
                )
                yield dict(zip(COLUMNS, values, strict=True))


class DataSet(ParticleFiles):
    """The files that a `Simulator` makes."""

    def __init__(self, folder: Path, names: Sequence[str], simulator: Simulator, seed: int, snr: Sequence[float]):
        super().__init__(folder, names, simulator.imaging, simulator.side, seed, snr)
        self.simulator = simulator

    @torch.inference_mode()
    def image(self, label: int, numbers: range) -> tuple[np.ndarray, list[np.ndarray]]:
        simulator, name = self.simulator, self.names[label]
        poses, crowd = (self._to_device(drawn) for drawn in self.draw(label, numbers))
        labels = torch.full((len(numbers),), label, device=simulator.device)
        posed = simulator.pose(labels, poses, label)
        image, volumes = simulator.image(posed, poses.defocus, crowd), []
        for snr in self.snr:
            at_snr = image.signal
            if not math.isinf(snr):
                noise = simulator.noise(self._white(name, numbers, snr), image.noise_filter)
                at_snr = at_snr + simulator.noise_level(image.alone, snr) * noise
            volumes.append(at_snr.cpu().numpy())
        return (posed > MASK_LEVEL).to(torch.int8).cpu().numpy(), volumes

    def pose(self, label: int, number: int) -> Pose:
        poses = draw_poses(1, self.imaging, self._pose_generator(label, number), "cpu")  # the first that `draw` draws
        return Pose(poses.quaternions[0].tolist(), poses.shifts[0].tolist(), poses.defocus[0].item())

    def draw(self, label: int, numbers: Iterable[int]) -> tuple[Poses, Crowd | None]:
        """The poses and neighbours of particles `numbers` of a class, on the CPU."""
        drawn = [self.simulator.draw(torch.tensor([label]), self._pose_generator(label, k)) for k in numbers]
        poses = Poses(*(torch.cat(part) for part in zip(*(one for one, _ in drawn), strict=True)))
        if not self.simulator.imaging.neighbours:
            return poses, None
        return poses, Crowd(*(torch.cat(part) for part in zip(*(one for _, one in drawn), strict=True)))

    def _pose_generator(self, label: int, number: int) -> torch.Generator:
        return particle_generator(self.seed, self.names[label], number, "pose")

    def _to_device(self, drawn: Poses | Crowd | None) -> Poses | Crowd | None:
        return drawn and type(drawn)(*(part.to(self.simulator.device) for part in drawn))

    def _white(self, name: str, numbers: range, snr: float) -> torch.Tensor:
        """The white noise of each particle at one SNR, as `Simulator.noise` takes it."""
        level = f"{snr:g}".replace(".", "")  # 15 for 1.5 too: with another text, a seed would give other volumes
        generators = [particle_generator(self.seed, name, number, f"noise {level}") for number in numbers]
        return torch.cat([self.simulator.white(1, generator) for generator in generators]).to(self.simulator.device)
