"""Small pictures of particles: three central slices each, as JPEG, for a page that holds thousands of them."""

import base64
import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 32  # pixels of a slice; larger boxes are made smaller
SIGMA = 1.0  # voxels, of the low-pass filter
QUALITY = 60  # of the JPEG files
SCAN = b"\xff\xda"  # begins the image in a JPEG file
RANGE = (1.0, 99.5)  # percentiles that are drawn black and white


def central_slices(volume: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The central slices of a volume (D, H, W) across z, y and x, low-passed, from black to white: (3, S, S) uint8.

    S is the longest side of the box, at most `side`.
    """
    volume = np.asarray(volume, dtype=np.float32)
    size = min(side, max(volume.shape))
    slices = [_resized(_central(volume, axis), size) for axis in range(3)]
    return stretched(np.stack(slices))


def stretched(slices: np.ndarray) -> np.ndarray:
    """Slices (3, S, S) from black to white, uint8."""
    low, high = np.percentile(slices, RANGE)
    scale = 255 / (high - low) if high > low else 0.0
    return np.clip((slices - low) * scale, 0, 255).round().astype(np.uint8)


def _central(volume: np.ndarray, axis: int) -> np.ndarray:
    """The slice through the centre, (side - 1) / 2, of the volume that a Gaussian has smoothed."""
    places = np.arange(volume.shape[axis]) - (volume.shape[axis] - 1) / 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    middle = np.tensordot(weights / weights.sum(), volume, axes=(0, axis))  # (D, H, W) -> two axes
    return gaussian_filter(middle, SIGMA, mode="nearest")


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """A slice with `size` pixels along each side."""
    if image.shape == (size, size):
        return image
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BOX))


def jpeg_texts(slices: np.ndarray) -> tuple[str, list[str]]:
    """Slices (N, 3, S, S) uint8 as JPEG files in base64, the three side by side: what all begin with, and N rests.

    A beginning and a rest joined are one file. Files of one size and quality begin alike, up to their image.
    """
    files = [_jpeg(np.hstack(three)) for three in slices]
    cut = files[0].index(SCAN) // 3 * 3  # base64 takes three bytes at a time
    return base64.b64encode(files[0][:cut]).decode(), [base64.b64encode(file[cut:]).decode() for file in files]


def _jpeg(image: np.ndarray) -> bytes:
    """A grey picture (H, W) uint8 as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
