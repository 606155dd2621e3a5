"""The one way from a file to what the network sees: read, voxel size, contrast, box, normalisation."""

from dataclasses import asdict, dataclass

import numpy as np

from common.cli import InputError
from loader.volume import central_brightness, normalise, outer_spread, read_volume, skewness
from physics.grid import same_voxel_size
from physics.resample import regrid

CONTRASTS = ("bright", "dark")  # of the particles in the files; the network always sees bright ones
NORMALISATION = "mean 0, standard deviation 1 of each volume"
MOST_APART = 4  # times: a cube that much smaller, or of voxels that much coarser, is a mistake


@dataclass(frozen=True)
class Preprocessing:
    """How the volumes of a training set came to be what the network sees; a checkpoint keeps it, as a dictionary."""

    box: int  # voxels, side of the cube
    voxel_size: float | None  # A; None where it is unknown
    contrast: str = "bright"  # of the particles in the files: one of CONTRASTS
    tilt_range: tuple[float, float] | None = None  # degrees about y; None: unknown, or not the same
    normalisation: str = NORMALISATION

    @classmethod
    def read(cls, content: dict) -> "Preprocessing":
        """From a checkpoint's dictionary."""
        tilt_range = content["tilt_range"]
        return cls(**{**content, "tilt_range": None if tilt_range is None else tuple(tilt_range)})

    def content(self) -> dict:
        """For a checkpoint: plain types alone."""
        return asdict(self) | {"tilt_range": None if self.tilt_range is None else list(self.tilt_range)}


@dataclass(frozen=True)
class Input:
    """One volume to read: a file or `N@stack.mrcs`, and its voxel size in A where a table states one."""

    address: str
    voxel_size: float | None = None


@dataclass(frozen=True)
class Prepared:
    """A volume as the network wants it.

    image: (D, H, W) float32, mean 0 and standard deviation 1, particle bright, at the checkpoint's box and voxel size.
    as_read: (D, H, W) float32, as it stands in the file.
    voxel_size: A, of the volume as read; None where it is unknown.
    note: what was done to it, or had to be assumed; empty where it came as the training volumes did.
    """

    image: np.ndarray
    as_read: np.ndarray
    voxel_size: float | None
    note: str

    @property
    def intensity(self) -> np.ndarray:
        """Mean, standard deviation, minimum and maximum of the volume as read, (4,) float32."""
        volume = self.as_read
        return np.array([volume.mean(), volume.std(), volume.min(), volume.max()], dtype=np.float32)

    @property
    def brightness(self) -> float:
        """Of the centre, as `central_brightness`, after the contrast was applied."""
        return central_brightness(self.image)

    @property
    def skewness(self) -> float:
        """To bright values, as `skewness`, after the contrast was applied."""
        return skewness(self.image)

    @property
    def noise(self) -> float:
        """How much of it is noise, as `outer_spread`."""
        return outer_spread(self.image)


def prepare(given: Input, preprocessing: Preprocessing, strict: bool = False) -> Prepared:
    """Read a volume and repeat a preprocessing: voxel size, box, contrast, normalisation.

    Args:
        strict: refuse a volume of another box or voxel size, as splits do; else it is resampled, cut or filled.

    Raises InputError as read_volume and check_same do, and for a volume that is not a cube or is constant.
    """
    as_read, voxel_size = read_volume(given.address)
    volume, voxel_size, note = as_read, given.voxel_size or voxel_size, ""
    if strict:
        check_same(given.address, volume.shape, voxel_size, preprocessing)
    else:
        volume, note = _bring(given.address, volume, voxel_size, preprocessing)
    if preprocessing.contrast == "dark":
        volume = -volume
    return Prepared(normalise(volume, given.address), as_read, voxel_size, note)


def check_same(address: str, shape: tuple[int, ...], voxel_size: float | None, expected: Preprocessing) -> None:
    """Refuse a volume of another shape or voxel size (A; None: unknown) than expected."""
    box = expected.box
    if shape != (box, box, box):
        raise InputError(f"{address}: a volume of {shape} voxels (z, y, x); expected {(box, box, box)}")
    known = expected.voxel_size
    if voxel_size and known and not same_voxel_size(voxel_size, known):
        raise InputError(f"{address}: voxels of {voxel_size:g} A; expected {known:g} A")


def _bring(
    address: str, volume: np.ndarray, voxel_size: float | None, preprocessing: Preprocessing
) -> tuple[np.ndarray, str]:
    """A volume at a preprocessing's box and voxel size, and what was done to it."""
    if len(set(volume.shape)) != 1:
        raise InputError(f"{address}: a volume of {volume.shape} voxels (z, y, x); expected a cube")
    side, box, expected = volume.shape[0], preprocessing.box, preprocessing.voxel_size
    if voxel_size and expected and not _comparable(side, voxel_size, box, expected):
        raise InputError(
            f"{address}: {side} voxels of {voxel_size:g} A; expected something like the {box} of {expected:g} A "
            "of the training volumes; where the header's voxel size is wrong, give --voxel-size"
        )
    brought = regrid(volume, voxel_size or expected or 1.0, expected or voxel_size or 1.0, box)
    return brought, _note(voxel_size, expected, side, box)


def _comparable(side: int, voxel_size: float, box: int, expected: float) -> bool:
    """Whether a cube is not too small, nor its voxels too coarse (A), to stand for one of `box` voxels."""
    return side * voxel_size >= box * expected / MOST_APART and voxel_size <= expected * MOST_APART


def _note(voxel_size: float | None, expected: float | None, side: int, box: int) -> str:
    """What happens to a volume of `side` voxels of a size (A) for a checkpoint of `box` voxels of `expected` A."""
    notes = []
    resampled = voxel_size and expected and not same_voxel_size(voxel_size, expected)
    if expected is None:
        found = f"{voxel_size:g} A" if voxel_size else "unknown"
        notes.append(f"voxel size {found}, the checkpoint's unknown: taken as the same")
    elif voxel_size is None:
        notes.append(f"voxel size unknown: taken as the checkpoint's {expected:g} A")
    elif resampled:
        notes.append(f"{voxel_size:g} A resampled to {expected:g} A")
    if resampled or side != box:
        notes.append(f"box {side} -> {box}")
    return ", ".join(notes)
