"""From a split CSV to samples: one at a time (Dataset_subtomo), or a whole split at once (load_split)."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from common.cli import InputError, is_first_process, plural
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, SNR_CONVENTION, TILT_MAX, TILT_MIN, VOXEL_SIZE
from loader.prepare import CONTRASTS, Preprocessing
from loader.sources import absolute, check_known, read_csv
from loader.volume import normalise, read_volume, split_address
from physics.grid import same_voxel_size

TASKS = ("classification", "segmentation", "all")
SURELY_DARK = -2.0  # standard errors: the median centre of noise is nearer to 0, that of particles further away
READERS = 4  # threads; reading small files waits for the disk more than for the processor
MEMORY_SHARE = 0.5  # of a memory that a split may fill


def read_split(csv_path: Path | str) -> pd.DataFrame:
    """The rows of a split CSV, paths made absolute, Class as integer.

    Raises InputError when the CSV is missing, lacks a column, or names a file that does not exist.
    """
    csv_path = Path(csv_path)
    if not csv_path.is_file():
        raise InputError(f"{csv_path}: no such file; make it with csv_split.py")
    rows = read_csv(csv_path, required=(INPUT, MASK, CLASS, SNR, LABEL))
    if PARTICLE not in rows:
        raise InputError(f"{csv_path}: no column {PARTICLE}: a split of the original code; make it again: csv_split.py")
    for column in (INPUT, MASK):
        rows[column] = [absolute(name, csv_path.parent) if name else "" for name in rows[column]]
    for number, name in enumerate(rows[INPUT], start=2):  # line 1 is the header
        if not name or not split_address(name)[1].is_file():
            raise InputError(f"{csv_path}, line {number}: {INPUT} {name or 'is empty'}: no such file")
    try:
        rows[CLASS] = rows[CLASS].astype(int)
    except ValueError as error:
        raise InputError(f"{csv_path}: column {CLASS}: expected whole numbers ({error})") from error
    return rows


def class_names(rows: pd.DataFrame, csv_path: Path | str) -> list[str]:
    """The names of the known classes, by index.

    Raises InputError when an index has two names, the indices are not 0, 1, 2, ..., or a name means something else.
    """
    pairs = rows[[CLASS, LABEL]].drop_duplicates().sort_values(CLASS)
    if list(pairs[CLASS]) != list(range(len(pairs))) or pairs[LABEL].duplicated().any():
        found = ", ".join(f"{index} {name}" for index, name in pairs.itertuples(index=False))
        raise InputError(f"{csv_path}: classes {found or 'none'}; expected one name for each of 0, 1, 2, ...")
    check_known(list(pairs[LABEL]), csv_path)
    return list(pairs[LABEL])


class Dataset_subtomo(Dataset):
    """Subtomograms of a split CSV, read from their files one at a time.

    An item is `(sample, path)`; `sample` has `image` (1, D, H, W) float32, mean 0 and standard deviation 1, `name` (the
    actual label) and, for the task `classification`, `class`; for `segmentation`, `mask` (1, D, H, W) float32 of 0 and
    1; for `all`, both.

    Args:
        csv: a split CSV.
        task: classification, segmentation or all.

    Raises:
        ValueError: another task.
        InputError: as read_split; no mask, for a task that needs one; an unreadable file, when it is its turn.
    """

    def __init__(self, csv: Path | str, task: str = "classification"):
        if task not in TASKS:
            raise ValueError(f"task {task!r}: expected one of {TASKS}")
        self.task = task
        self.rows = read_split(csv)
        if task != "classification":
            for name, mask in zip(self.rows[INPUT], self.rows[MASK], strict=True):
                if not mask or not Path(mask).is_file():
                    raise InputError(f"{csv}: the mask of {name} is {mask or 'not given'}; task {task!r} needs it")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict, str]:
        row = self.rows.iloc[index]
        volume = normalise(read_volume(row[INPUT])[0], row[INPUT])
        sample = {"image": torch.from_numpy(volume)[None], "name": row[LABEL]}
        if self.task != "segmentation":
            sample["class"] = int(row[CLASS])
        if self.task != "classification":
            sample["mask"] = torch.from_numpy((read_volume(row[MASK])[0] > 0).astype(np.float32))[None]
            if sample["mask"].shape != sample["image"].shape:
                found, expected = (tuple(sample[key].shape[1:]) for key in ("mask", "image"))
                raise InputError(f"{row[MASK]}: a mask of {found} voxels; expected {expected}, as its subtomogram")
        return sample, row[INPUT]


@dataclass(frozen=True)
class Split:
    """A whole split, packed: its files are read once.

    images: (N, 1, D, H, W) float16, mean 0 and standard deviation 1 each, particles bright; in memory, on a device, or
        in a memory-mapped file.
    labels: (N,) int64; -1 in the files of unseen classes.
    intensity: (N, 4) float32: mean, standard deviation, minimum and maximum of each volume as read.
    rows: the rows of the CSV, in the same order.
    preprocessing: how the images came to be; what a checkpoint keeps, and asks of other data.
    place: where the images are, in words.
    """

    images: torch.Tensor
    labels: torch.Tensor
    intensity: np.ndarray
    rows: pd.DataFrame
    preprocessing: Preprocessing
    place: str

    def __len__(self) -> int:
        return len(self.labels)

    def on_device(self, device: torch.device, share: float = MEMORY_SHARE) -> "Split":
        """The same with its images on a CUDA device, where they fill at most `share` of its free memory."""
        if device.type != "cuda" or self.images.nbytes > share * torch.cuda.mem_get_info(device)[0]:
            return self
        place = f"on {device} ({megabytes(self.images.nbytes)})"
        return replace(self, images=self.images.to(device), place=place)


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def pack(shape: tuple[int, ...], share: float, folder: Path) -> tuple[torch.Tensor, str]:
    """Room for float16 volumes, and where it is: memory, or a file in `folder` where they would fill more than `share`.

    The share is of the machine's memory, divided among the processes that torchrun started on it. The file has no name
    any more when this returns: its room is given back when the process ends, however it ends.

    Raises InputError where the file has no room.
    """
    size = torch.Size(shape).numel()
    memory = machine_memory() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 2 * size <= share * memory:
        return torch.empty(shape, dtype=torch.float16), f"in memory ({megabytes(2 * size)})"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".packed") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, 2 * size))
            images = torch.from_file(file.name, shared=True, size=size, dtype=torch.float16).reshape(shape)
    except OSError as error:
        raise InputError(f"{folder}: no room for {megabytes(2 * size)} of packed volumes there ({error})") from error
    return images, f"in a memory-mapped file in {folder} ({megabytes(2 * size)})"


def machine_memory() -> float:
    """Bytes that this process may use: of the machine, or of its control group where that has less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(physical, float(text)) if text.isdigit() else physical


def load_split(
    csv_path: Path | str,
    preprocessing: Preprocessing | None = None,
    contrast: str = "bright",
    memory_share: float = MEMORY_SHARE,
) -> Split:
    """Read, check and pack every volume of a split CSV, with a progress bar.

    Args:
        csv_path: the CSV; one with a header only gives a split of no volume.
        preprocessing: of a checkpoint or another split: box, voxel size and contrast are taken from it and checked;
            None takes them from the first volume and from `contrast`.
        contrast: of the particles in the files, bright or dark.
        memory_share: of the machine's memory that the volumes may fill; larger splits go to a memory-mapped file.

    Raises:
        InputError: as read_split and read_volume; a volume that is not a cube, is constant, or differs from the others
            (or from `preprocessing`) in box or voxel size.
    """
    rows = read_split(csv_path)
    contrast = preprocessing.contrast if preprocessing else contrast
    if contrast not in CONTRASTS:
        raise InputError(f"--contrast {contrast}: expected one of {', '.join(CONTRASTS)}")
    expected = preprocessing or (first_preprocessing(rows, contrast) if len(rows) else Preprocessing(0, None, contrast))
    box = expected.box
    images, place = pack((len(rows), 1, box, box, box), memory_share, Path(csv_path).parent)
    intensity, sizes = np.empty((len(rows), 4), dtype=np.float32), row_numbers(rows, VOXEL_SIZE)

    def read(index: int) -> None:
        address = rows[INPUT].iloc[index]
        volume, voxel_size = read_volume(address)
        check_volume(address, volume, sizes[index] if np.isfinite(sizes[index]) else voxel_size, expected)
        intensity[index] = volume.mean(), volume.std(), volume.min(), volume.max()
        if contrast == "dark":
            volume = -volume
        images[index, 0] = torch.from_numpy(normalise(volume, address))

    with ThreadPoolExecutor(READERS) as pool:
        done = pool.map(read, range(len(rows)))
        text, hidden = f"reading {Path(csv_path).name}", not is_first_process()
        for _ in tqdm(done, total=len(rows), desc=text, unit="volume", leave=False, disable=hidden):
            pass
    labels = torch.tensor(rows[CLASS].to_numpy(), dtype=torch.int64)
    return Split(images, labels, intensity, rows, expected, place)


def first_preprocessing(rows: pd.DataFrame, contrast: str) -> Preprocessing:
    """Box (voxels), voxel size (A), contrast and tilt range (degrees) of a split; None for what is unknown."""
    address = rows[INPUT].iloc[0]
    volume, voxel_size = read_volume(address)
    sizes = row_numbers(rows, VOXEL_SIZE)
    if np.isfinite(sizes[0]):
        voxel_size = float(sizes[0])
    return Preprocessing(volume.shape[0], voxel_size, contrast, tilt_range(rows))


def tilt_range(rows: pd.DataFrame) -> tuple[float, float] | None:
    """The one tilt range of all rows, [min, max] in degrees; None where it is unknown or not the same everywhere."""
    if TILT_MIN not in rows or TILT_MAX not in rows:
        return None
    ranges = np.unique(np.stack([row_numbers(rows, TILT_MIN), row_numbers(rows, TILT_MAX)], axis=1), axis=0)
    if len(ranges) != 1 or not np.isfinite(ranges).all():
        return None
    return tuple(ranges[0].tolist())


def row_numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    """A column of numbers, (N,); NaN where a cell is empty, or there is no such column.

    Raises InputError for a cell that is no number.
    """
    if column not in rows:
        return np.full(len(rows), np.nan)
    numbers = pd.to_numeric(rows[column], errors="coerce")
    wrong = numbers.isna() & (rows[column] != "")
    if wrong.any():
        raise InputError(
            f"column {column}: {rows[column][wrong].iloc[0]!r} of {rows[INPUT][wrong].iloc[0]}; expected a number"
        )
    return numbers.to_numpy(float)


def snr_convention(rows: pd.DataFrame) -> str:
    """How the SNR levels of the rows are meant: `variance` or `lab` (simulate.py), or `not stated`."""
    found = rows[SNR_CONVENTION].unique() if SNR_CONVENTION in rows else []
    return str(found[0]) if len(found) == 1 and found[0] else "not stated"


def check_classes(split: Split, path: Path | str, classes: list[str]) -> None:
    """Refuse a split that is empty or of other classes than the checkpoint."""
    if not len(split):
        raise InputError(f"{path}: holds no volume")
    found = class_names(split.rows, path)
    if found != classes:
        raise InputError(f"{path}: classes {', '.join(found)}; the checkpoint knows {', '.join(classes)}")


def particle_codes(rows: pd.DataFrame) -> torch.Tensor:
    """A number for each particle of the rows, by its name, sorted: (P,) int64. The same name gives the same number."""
    names = np.unique(rows[PARTICLE].to_numpy(str)).astype(object)
    return torch.from_numpy(np.sort(pd.util.hash_array(names).view(np.int64)))


def overlap_warning(rows: pd.DataFrame, trained: torch.Tensor, csv_path: Path | str) -> str:
    """Says that particles of the rows were trained on, by their names; empty where none was."""
    count = int(torch.isin(particle_codes(rows), trained).sum())
    if not count:
        return ""
    return (
        f"{csv_path}: {count} {plural('particle', count)} of the name of one that the checkpoint trained on; unless "
        "they are of another data set, its figures are too good: was csv_split.py run again after training?"
    )


def check_volume(address: str, volume: np.ndarray, voxel_size: float | None, expected: Preprocessing) -> None:
    """Refuse a volume of another shape or voxel size than expected."""
    box = expected.box
    if volume.shape != (box, box, box):
        raise InputError(f"{address}: a volume of {volume.shape} voxels (z, y, x); expected {(box, box, box)}")
    known = expected.voxel_size
    if voxel_size and known and not same_voxel_size(voxel_size, known):
        raise InputError(f"{address}: voxels of {voxel_size:g} A; expected {known:g} A")


def mask_sizes(rows: pd.DataFrame) -> np.ndarray | None:
    """The number of voxels of each row's mask, (N,); None where not every row has one."""
    if not len(rows) or not all(name and Path(name).is_file() for name in rows[MASK]):
        return None
    with ThreadPoolExecutor(READERS) as pool:
        return np.array(list(pool.map(lambda name: np.count_nonzero(read_volume(name)[0] > 0), rows[MASK])))


def contrast_warning(brightness: np.ndarray, contrast: str) -> str:
    """Says that the particles look as if they were of the other contrast; empty where they do not.

    Args:
        brightness: (N,) standard errors by which the centres are brighter, after `contrast` was applied.
        contrast: bright or dark, what the files were taken to hold.
    """
    median = np.median(brightness)
    if median > SURELY_DARK:
        return ""
    other = next(name for name in CONTRASTS if name != contrast)
    return (
        f"the particles look {other}, not {contrast}: the typical centre is {-median:.1f} standard errors {other}er "
        f"than what is around it; to take them as {other}: --contrast {other}"
    )
