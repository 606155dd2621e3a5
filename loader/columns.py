"""The names of columns, files and folders that the scripts share, once; and how an SNR level is written and read."""

import math
import re

import numpy as np

INPUT, MASK, CLASS, SNR, LABEL = "Input Data", "Segmentation Ground Truth", "Class", "SNR Level", "Actual Label"
PARTICLE, TOMOGRAM, VOXEL_SIZE = "Particle", "Tomogram", "Voxel Size"
TILT_MIN, TILT_MAX = "Tilt Min", "Tilt Max"
SNR_CONVENTION = "SNR Convention"
POSITION = ("Position Z", "Position Y", "Position X")  # in the tomogram, A from the centre of its first voxel
SOURCE_FILE, SOURCE_ROW = "Source File", "Source Row"  # of a particle's coordinates; rows from 1
# what predict.py says of a particle
PREDICTION, SCORE, THRESHOLD = "Prediction", "Score", "Threshold"
NEAREST, NEAREST_COSINE = "Nearest Class", "Nearest Cosine"
RUNNER_UP, RUNNER_UP_COSINE = "Runner-up", "Runner-up Cosine"
CLUSTER, NEAREST_CLUSTER = "Cluster", "Nearest Cluster"  # names of clusters of the unknown; empty for none
JUNK_SCORE = "Junk Score"  # higher is more like no particle at all
UNKNOWN = "unknown"  # the prediction for a particle of no known class, so the name of none
NO_PARTICLE = "junk"  # the prediction for what is no particle at all
TABLE_COLUMNS = (INPUT, MASK, SNR, LABEL, PARTICLE, TOMOGRAM, VOXEL_SIZE)

REASON = "Reason"  # why something could not be read

PARTICLES_FILE = "particles.csv"
SIMULATION_FILE = "simulation.json"  # the options that data were simulated with
FAILED_FILE = "failed.csv"  # what could not be read, and why
TARGET_FOLDER, MASK_FOLDER = "subtomogram_mrc", "processed_densitymap_mrc_mrc2binary"
SNR_COPY = rf"(data[^/]*_SNR[^/]*)/{TARGET_FOLDER}/(tomotarget\d+\.mrc)$"  # the same number: the same particle


def cluster_name(index: int) -> str:
    """The name of a cluster by its number from 0: the largest is `cluster_1`."""
    return f"cluster_{index + 1}"


def snr_code(snr: float) -> str:
    """How an SNR is written in folder names and tables: 0.03 -> `003`, 1.5 -> `1.5`, 10 -> `10`, inf -> `infinity`.

    Below 1 the point is left out, as the original has it; `snr_value` is the inverse.
    """
    if math.isinf(snr):
        return "infinity"
    text = np.format_float_positional(snr, trim="-")
    return text.replace(".", "") if snr < 1 else text


def snr_value(level: str) -> float | None:
    """The inverse of `snr_code`, which takes `inf` and `0.03` too; None for what is no SNR."""
    if level in ("infinity", "inf"):
        return math.inf
    if not re.fullmatch(r"\d+(\.\d+)?", level):
        return None
    return float(f"0.{level[1:]}" if re.fullmatch(r"0\d+", level) else level)


def snr_level(folder: str) -> str:
    """`data1_SNR003` -> `003`; `data3_SNRinf` and `data3_SNRinfinity` -> `infinity`; empty without _SNR."""
    text = folder.partition("_SNR")[2]
    return "infinity" if text == "inf" else text


def snr_copy(address: str) -> tuple[str, str]:
    """The particle and the SNR level of a file in the layout of the original, by its path; both empty for any other."""
    match = re.search(SNR_COPY, address) if TARGET_FOLDER in address else None
    return (address[: match.start()] + match[2], snr_level(match[1])) if match else ("", "")


def snr_text(level: str) -> str:
    """A level as people read it: `003` -> `SNR 0.03`, `infinity` -> `no noise`; empty -> `SNR unknown`."""
    value = snr_value(level)
    if value is None:
        return f"SNR {level or 'unknown'}"
    return "no noise" if math.isinf(value) else f"SNR {np.format_float_positional(value, trim='-')}"


def snr_order(level: str) -> tuple[bool, float, str]:
    """Sort key of levels: by value, so that 003 < 01 < 1.5 < 15 < infinity; what is no SNR comes last."""
    value = snr_value(level)
    return value is None, value or 0.0, level
