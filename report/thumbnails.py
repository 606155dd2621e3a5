"""Small pictures of particles: three central slices each, as JPEG, for a page that holds thousands of them."""

import base64
import io

import numpy as np

SIDE = 32  # pixels of a slice; larger boxes are made smaller
GAP = 2  # pixels between two slices
SIGMA = 1.0  # voxels, of the low-pass filter
QUALITY = 60  # of the JPEG files
SCAN = b"\xff\xda"  # begins the image in a JPEG file
RANGE = (1.0, 99.5)  # percentiles that are drawn black and white


def central_slices(volume: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The central slices of a volume (D, D, D) across z, y and x, low-passed, from black to white: (3, S, S) uint8.

    The low-pass filter is a Gaussian of SIGMA voxels. S is D, at most `side`.
    """
    smooth = _smoothing(len(volume))
    places = np.arange(len(volume)) - (len(volume) - 1) / 2
    middle = np.exp(-(places**2) / (2 * SIGMA**2))  # of a slice through the centre
    slices = [np.tensordot(middle, volume, axes=(0, axis)) for axis in range(3)]  # (D, D, D) -> two axes
    return stretched(np.stack([_resized(smooth @ one @ smooth.T, side) for one in slices]))


def _smoothing(size: int) -> np.ndarray:
    """The matrix (size, size) that low-passes a line, each of its rows of sum 1."""
    places = np.arange(size)
    weights = np.exp(-((places[:, None] - places) ** 2) / (2 * SIGMA**2))
    return weights / weights.sum(axis=1, keepdims=True)


def stretched(slices: np.ndarray) -> np.ndarray:
    """Slices (3, S, S) from black to white, uint8."""
    low, high = np.percentile(slices, RANGE)
    scale = 255 / (high - low) if high > low else 0.0
    return np.clip((slices - low) * scale, 0, 255).round().astype(np.uint8)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """A slice (S, S), made smaller where it is larger than `side`."""
    from PIL import Image

    if len(image) <= side:
        return image
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((side, side), Image.Resampling.BOX))


def jpeg_texts(slices: np.ndarray) -> tuple[str, list[str]]:
    """Slices (N, 3, S, S) uint8 as JPEG files in base64, the three side by side, GAP apart: what all begin with, and N
    rests.

    A beginning and a rest joined are one file. Files of one size and quality begin alike, up to their image.
    """
    files = [_jpeg(side_by_side(three)) for three in slices]
    cut = files[0].index(SCAN) // 3 * 3  # base64 takes three bytes at a time
    return base64.b64encode(files[0][:cut]).decode(), [base64.b64encode(file[cut:]).decode() for file in files]


def side_by_side(slices: np.ndarray) -> np.ndarray:
    """Slices (3, S, S) uint8 in a row, white between them: (S, 3 S + 2 GAP)."""
    gap = np.full((slices.shape[1], GAP), 255, dtype=np.uint8)
    return np.hstack([slices[0], gap, slices[1], gap, slices[2]])


def _jpeg(image: np.ndarray) -> bytes:
    """A grey picture (H, W) uint8 as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
