"""The cube of voxels that a volume or a density lives on."""

from dataclasses import dataclass

SAME = 0.01  # relative difference up to which two voxel sizes count as one: less than a voxel across any box in use


@dataclass(frozen=True)
class Grid:
    """A cube of voxels, and how much detail and room its content has.

    A density on it is (z, y, x) = (box, box, box), centred at (box - 1) / 2 voxels.
    """

    box: int | None  # voxels, side of the cube; None: the smallest even one that holds the content
    voxel_size: float  # A
    resolution: float  # A, of densities made from coordinates
    margin: float = 0.0  # voxels to keep free around a complex in any orientation


def same_voxel_size(first: float, second: float) -> bool:
    """Whether two voxel sizes (A) are the same to 1 %."""
    return abs(first / second - 1) <= SAME
