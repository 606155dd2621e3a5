"""The names of columns, files and folders that the scripts share, once; and how an SNR level is written and read."""

import re

INPUT, MASK, CLASS, SNR, LABEL = "Input Data", "Segmentation Ground Truth", "Class", "SNR Level", "Actual Label"
PARTICLE, TOMOGRAM, VOXEL_SIZE = "Particle", "Tomogram", "Voxel Size"
TILT_MIN, TILT_MAX = "Tilt Min", "Tilt Max"
SNR_CONVENTION = "SNR Convention"
UNKNOWN = "unknown"  # the prediction for a particle of no known class, so the name of none
TABLE_COLUMNS = (INPUT, MASK, SNR, LABEL, PARTICLE, TOMOGRAM, VOXEL_SIZE)

PARTICLES_FILE = "particles.csv"
TARGET_FOLDER, MASK_FOLDER = "subtomogram_mrc", "processed_densitymap_mrc_mrc2binary"


def snr_level(folder: str) -> str:
    """`data1_SNR003` -> `003`; `data3_SNRinf` and `data3_SNRinfinity` -> `infinity`; empty without _SNR."""
    text = folder.partition("_SNR")[2]
    return "infinity" if text == "inf" else text


def snr_text(level: str) -> str:
    """A level as people read it: `003` -> `SNR 0.03`, `infinity` -> `no noise`; empty -> `SNR unknown`."""
    if level in ("infinity", "inf"):
        return "no noise"
    if re.fullmatch(r"0\d+", level):
        level = f"0.{level[1:]}"
    return f"SNR {level or 'unknown'}"
