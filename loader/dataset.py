"""From a split CSV to samples: one at a time (Dataset_subtomo), or a whole split at once (load_split)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from common.cli import InputError, named, plural
from common.threads import in_threads
from loader.columns import CLASS, LABEL, MASK, PARTICLE
from loader.packed import load_packed, megabytes, own_preprocessing
from loader.prepare import CONTRASTS, Preprocessing, prepare
from loader.rows import SplitRows, class_names, read_rows
from loader.volume import read_volume

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("classification", "segmentation", "all")
# standard errors of the median skewness: noise is nearer to 0, dark particles are further away. The first holds for one
# volume, and falls with the root of their number; the second is the least, as no real noise is quite symmetric
SURELY_DARK, TYPICALLY_DARK = -4.0, -0.2
MEMORY_SHARE = 0.5  # of a memory that a split may fill


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
        InputError: as read_split; no mask, for a task that needs one; when it is its turn, a file that is unreadable or
            of another box or voxel size than the first.
    """

    def __init__(self, csv: Path | str, task: str = "classification"):
        if task not in TASKS:
            raise ValueError(f"task {task!r}: expected one of {TASKS}")
        self.task = task
        self.split = read_rows(csv)
        self.preprocessing = own_preprocessing(self.split, "bright")
        if task != "classification":
            for name, mask in zip(self.split.addresses, self.split.rows[MASK], strict=True):
                if not os.path.isfile(mask):
                    raise InputError(f"{csv}: the mask of {name} is {mask or 'not given'}; task {task!r} needs it")

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[dict, str]:
        row = self.split.rows.iloc[index]
        address = self.split.addresses[index]
        volume = prepare(self.split.input(index), self.preprocessing, strict=True)
        sample = {"image": torch.from_numpy(volume.image)[None], "name": row[LABEL]}
        if self.task != "segmentation":
            sample["class"] = int(row[CLASS])
        if self.task != "classification":
            sample["mask"] = torch.from_numpy((read_volume(row[MASK])[0] > 0).astype(np.float32))[None]
            if sample["mask"].shape != sample["image"].shape:
                found, expected = (tuple(sample[key].shape[1:]) for key in ("mask", "image"))
                raise InputError(f"{row[MASK]}: a mask of {found} voxels; expected {expected}, as its subtomogram")
        return sample, address


@dataclass(frozen=True)
class Split:
    """A whole split, packed: its files are read once, by whichever script needs them first.

    images: (N, 1, D, H, W) float16, mean 0 and standard deviation 1 each, particles bright; in a memory-mapped file, in
        memory, or on a device.
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

    def on_device(self, device: torch.device, share: float = MEMORY_SHARE) -> Split:
        """The same with its images on a CUDA device, where they fill at most `share` of its free memory."""
        if device.type != "cuda" or self.images.nbytes > share * torch.cuda.mem_get_info(device)[0]:
            return self
        place = f"on {device} ({megabytes(self.images.nbytes)})"
        return replace(self, images=self.images.to(device), place=place)


def load_split(
    csv_path: Path | str | SplitRows,
    preprocessing: Preprocessing | None = None,
    contrast: str = "bright",
    memory_share: float = MEMORY_SHARE,
    choose: Callable[[pd.DataFrame], np.ndarray] | None = None,
) -> Split:
    """The volumes of a split CSV, from its packed file; where there is none yet, they are read, checked and packed.

    Args:
        csv_path: the CSV, or its rows where they were read already; a header alone gives a split of no volume.
        preprocessing: of a checkpoint or another split: box, voxel size and contrast are taken from it and checked;
            None takes them from the first volume and from `contrast`.
        contrast: of the particles in the files, bright or dark.
        memory_share: of the available memory that the volumes may fill where the packed file cannot be written.
        choose: which rows to take, as numbers in order; all where it is None.

    Raises:
        InputError: as read_split and read_volume; a volume that is not a cube, is constant, or differs from the others
            (or from `preprocessing`) in box or voxel size; no room for the volumes.
    """
    split = csv_path if isinstance(csv_path, SplitRows) else read_rows(csv_path)
    contrast = preprocessing.contrast if preprocessing else contrast
    if contrast not in CONTRASTS:
        raise InputError(f"--contrast {contrast}: expected one of {', '.join(CONTRASTS)}")
    expected = preprocessing or own_preprocessing(split, contrast)
    chosen = choose(split.rows) if choose else None
    packed = load_packed(split, expected, memory_share, chosen)
    rows = split.rows if chosen is None else split.rows.iloc[chosen].reset_index(drop=True)
    labels = torch.tensor(rows[CLASS].to_numpy(), dtype=torch.int64)
    return Split(torch.from_numpy(packed.images), labels, packed.records["intensity"], rows, expected, packed.place)


def on_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Packed volumes as float32 on a device: they travel in half precision, pinned, and are widened there."""
    if device.type == "cuda" and images.device.type == "cpu":
        images = images.pin_memory()
    return images.to(device, non_blocking=True).float()


def check_classes(split: Split, path: Path | str, classes: list[str]) -> None:
    """Refuse a split that is empty or of other classes than the checkpoint."""
    if not len(split):
        raise InputError(f"{path}: holds no volume")
    found = class_names(split.rows, path)
    if found != classes:
        raise InputError(
            f"{path}: classes {named(found)}; expected {named(classes)}, as the checkpoint has them; "
            "--csv-dir names the folder of another split"
        )


def particle_codes(rows: pd.DataFrame) -> torch.Tensor:
    """A number for each particle of the rows, by its name, sorted: (P,) int64. The same name gives the same number."""
    import pandas as pd

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


def mask_sizes(rows: pd.DataFrame) -> np.ndarray | None:
    """The number of voxels of each row's mask, (N,); None where not every row has one."""
    if not len(rows) or not all(map(os.path.isfile, rows[MASK])):
        return None
    sizes = in_threads(lambda name: np.count_nonzero(read_volume(name)[0] > 0), rows[MASK].tolist(), "reading", "mask")
    return np.fromiter(sizes, dtype=np.int64)


def dark_from(count: int) -> float:
    """The median skewness of so many volumes from which down they look dark."""
    return min(TYPICALLY_DARK, SURELY_DARK / count**0.5)


def contrast_warning(skewness: np.ndarray, contrast: str) -> str:
    """Says that the particles look as if they were of the other contrast; empty where they do not.

    Args:
        skewness: (N,) of the volumes, as `loader.volume.skewness`, after `contrast` was applied; NaN where not known.
        contrast: bright or dark, what the files were taken to hold.
    """
    known = np.atleast_1d(skewness)
    known = known[~np.isnan(known)]
    count = len(known)
    if not count or (median := np.median(known)) > dark_from(count):
        return ""
    other = next(name for name in CONTRASTS if name != contrast)
    return (
        f"the particles look {other}, not {contrast}: what stands out from the typical volume is {other}, by "
        f"{-median:.1f} standard errors of noise ({count} {plural('volume', count)}); to take them as {other}: "
        f"--contrast {other}"
    )
