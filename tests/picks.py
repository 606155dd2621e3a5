"""Tomograms with bright blobs at known places, and files of these places as each program writes them.

A place here is (x, y, z) in A from the centre of the tomogram's first voxel.
"""

import json
from pathlib import Path

import mrcfile
import numpy as np
from scipy.spatial.transform import Rotation

import extract

VOXEL, SHAPE = 10.0, (24, 40, 48)  # A; voxels (z, y, x)
SIGMA = 14.0  # A, of a blob
SIDE = 12  # voxels of VOXEL: a box that holds one blob alone
PLACES = {  # A
    "TS_01": np.array([(82.0, 96.0, 113.0), (241.0, 284.0, 127.5), (390.5, 142.0, 95.0)]),
    "TS_02": np.array([(101.5, 262.0, 90.0), (288.0, 101.0, 142.0)]),
}
CORNER_TO_CENTRE = np.array(SHAPE[::-1]) / 2 * VOXEL  # A: RELION's centre is size / 2
OFFSETS = np.array([(3.5, -8.0, 11.0), (-6.0, 2.5, 4.0), (0.0, 7.0, -9.5), (5.0, 5.0, 5.0), (-4.0, 9.0, 1.0)])  # A
ANGLES = np.array([(30.0, 40.0, -70.0), (10.0, 95.0, 20.0), (0.0, 0.0, 0.0), (-120.0, 60.0, 15.0), (5.0, 5.0, 5.0)])
ROWS = [(name, place) for name, places in PLACES.items() for place in places]


def blobs(places: np.ndarray, shape: tuple[int, int, int] = SHAPE, voxel: float = VOXEL) -> np.ndarray:
    """Gaussians of height 1 at places (n, 3) = (x, y, z) in A on a ground of 3: (z, y, x) float32."""
    z, y, x = (np.arange(length) * voxel for length in shape)
    volume = np.full(shape, 3.0)
    for px, py, pz in places:
        squares = ((z - pz) ** 2)[:, None, None] + ((y - py) ** 2)[:, None] + (x - px) ** 2
        volume += np.exp(-squares / (2 * SIGMA**2))
    return volume.astype(np.float32)


def write_tomogram(path: Path, volume: np.ndarray, voxel: float = VOXEL) -> Path:
    """An MRC file of a volume (z, y, x) with its voxel size."""
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(volume)
        mrc.set_volume()
        mrc.voxel_size = voxel
    return path


def middle_of_mass(box: np.ndarray) -> np.ndarray:
    """Where a blob is in its box, (z, y, x) voxels from (side - 1) / 2."""
    weights = box - np.median(box)
    weights[weights < 0.05 * weights.max()] = 0
    at = np.arange(len(box)) - (len(box) - 1) / 2
    return np.array([np.average(at, weights=np.moveaxis(weights, axis, 0).sum((1, 2))) for axis in range(3)])


def loop(labels: str, rows: list[str], block: str = "") -> str:
    """A block with a table, as RELION writes it."""
    lines = [f"_{label} #{number} " for number, label in enumerate(labels.split(), start=1)]
    return "\n".join(["", "# version 30001", "", f"data_{block}", "", "loop_ ", *lines, *rows, " ", ""])


def xyz(values: np.ndarray) -> str:
    return " ".join(f"{value:12.6f}" for value in values)


def turned(number: int) -> np.ndarray:
    """A particle's shift in the tomogram's frame, A: its subtomogram's rotation is RELION's, that of the axes."""
    rot, tilt, psi = np.radians(ANGLES[number])
    about_z = lambda a: np.array([(np.cos(a), np.sin(a), 0), (-np.sin(a), np.cos(a), 0), (0, 0, 1)])  # noqa: E731
    about_y = np.array([(np.cos(tilt), 0, -np.sin(tilt)), (0, 1, 0), (np.sin(tilt), 0, np.cos(tilt))])
    return about_z(psi) @ about_y @ about_z(rot) @ OFFSETS[number]


def relion3(folder: Path) -> list[Path]:
    rows = [f"{xyz(place / VOXEL)} 1.0 2.0 3.0 {name}.tomostar" for name, place in ROWS]
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnAngleRot rlnAngleTilt rlnAnglePsi rlnMicrographName"
    return _write(folder / "warp_input.star", loop(labels, rows))


def relion31(folder: Path) -> list[Path]:
    rows = [
        f"tomograms/{name}.mrc {xyz((place + OFFSETS[n]) / 5)} {xyz(OFFSETS[n])} {n % 2 + 1} 1"
        for n, (name, place) in enumerate(ROWS)
    ]
    labels = "rlnMicrographName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnOriginXAngst rlnOriginYAngst"
    labels = f"{labels} rlnOriginZAngst rlnClassNumber rlnOpticsGroup"
    optics = loop("rlnOpticsGroup rlnOpticsGroupName rlnImagePixelSize", ["1 opticsGroup1 5.0"], "optics")
    return _write(folder / "run_data.star", optics + loop(labels, rows, "particles"))


def relion4(folder: Path) -> list[Path]:
    rows = [
        f"{name} {xyz((place + turned(n)) / 2.5)} {xyz(OFFSETS[n])} {xyz(ANGLES[n])} 1"
        for n, (name, place) in enumerate(ROWS)
    ]
    optics = loop("rlnOpticsGroup rlnTomoTiltSeriesPixelSize rlnTomoSubtomogramBinning", ["1 2.5 4.0"], "optics")
    return _write(folder / "relion4.star", optics + loop(_relion4_labels("rlnCoordinateX"), rows, "particles"))


def _relion4_labels(first: str) -> str:
    places = [first.replace("X", axis) for axis in "XYZ"]
    origins = "rlnOriginXAngst rlnOriginYAngst rlnOriginZAngst"
    angles = "rlnTomoSubtomogramRot rlnTomoSubtomogramTilt rlnTomoSubtomogramPsi"
    return f"rlnTomoName {' '.join(places)} {origins} {angles} rlnOpticsGroup"


def relion5_labels() -> str:
    return f"{_relion4_labels('rlnCenteredCoordinateXAngst')} rlnTomoVisibleFrames"


def relion5(folder: Path, centre: np.ndarray = CORNER_TO_CENTRE) -> list[Path]:
    rows = [
        f"{name} {xyz(place - centre + turned(n))} {xyz(OFFSETS[n])} {xyz(ANGLES[n])} 1 [1,0,1]"
        for n, (name, place) in enumerate(ROWS)
    ]
    general = "\n# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks                       1\n \n"
    optics = loop("rlnOpticsGroup rlnTomoTiltSeriesPixelSize rlnImageDimensionality", ["1 2.5 2"], "optics")
    labels = relion5_labels()
    return _write(folder / "relion5.star", general + optics + loop(labels, rows, "particles"))


def warp_match(folder: Path) -> list[Path]:
    files = []
    for name, places in PLACES.items():  # WarpTools writes a file for each tilt series
        rows = [f"{xyz(place / (np.array(SHAPE[::-1]) * VOXEL))} {name}.tomostar 6.5" for place in places]
        labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnMicrographName rlnAutopickFigureOfMerit"
        files += _write(folder / f"{name}_10.00Apx_emd_1234.star", loop(labels, rows))
    return files


def warp_export(folder: Path) -> list[Path]:
    rows = [f"{xyz(place / 7)} {name}.tomostar 10000.0 7.00000 {name}_1_7.00A.mrc 7.00000" for name, place in ROWS]
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnMicrographName rlnMagnification rlnDetectorPixelSize"
    return _write(folder / "warp_3d.star", loop(f"{labels} rlnImageName rlnPixelSize", rows))


def warp_export_2d(folder: Path) -> list[Path]:
    rows = [f"{name}.tomostar {xyz(place / 7)} 1 0.0 0.0 0.0 [1,1,0]" for name, place in ROWS]
    general = "\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"
    optics = loop("rlnOpticsGroup rlnTomoTiltSeriesPixelSize rlnImagePixelSize", ["1 1.4 7.0"], "optics")
    labels = "rlnTomoName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnOpticsGroup rlnOriginXAngst rlnOriginYAngst"
    return _write(
        folder / "warp_2d.star",
        general + optics + loop(f"{labels} rlnOriginZAngst rlnTomoVisibleFrames", rows, "particles"),
    )


def m(folder: Path) -> list[Path]:
    moves = [np.array(move) for move in [(2.0, 0.0, -1.0), (-3.0, 1.0, 0.0), (1.0, -1.0, 1.0)]]
    labels = [f"wrpCoordinate{axis}{time}" for axis in "XYZ" for time in (1, 2, 3)]
    rows = []
    for name, place in ROWS:
        values = [place[axis] + move[axis] for axis in range(3) for move in moves]
        rows.append(f"{xyz(np.array(values))} {name}.tomostar 3b5f 1")
    return _write(folder / "m.star", loop(" ".join([*labels, "wrpSourceName wrpSourceHash wrpRandomSubset"]), rows))


def pytom(folder: Path) -> list[Path]:
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnLCCmax rlnCutOff rlnSearchStd rlnDetectorPixelSize"
    rows = [f"{xyz(place / 5)} 0.2 0.1 0.01 5.0 rec_{name}" for name, place in ROWS]
    return _write(folder / "pytom.star", loop(f"{labels} rlnMicrographName", rows))


def pytom_relion5(folder: Path) -> list[Path]:
    labels = "rlnCenteredCoordinateXAngst rlnCenteredCoordinateYAngst rlnCenteredCoordinateZAngst ptmLCCmax"
    rows = [f"{xyz(place - CORNER_TO_CENTRE)} 0.2 10.0 {name}" for name, place in ROWS]
    return _write(folder / "pytom5.star", loop(f"{labels} rlnTomoTiltSeriesPixelSize rlnTomoName", rows))


def tomotwin(folder: Path) -> list[Path]:
    labels = "rlnCoordinateX rlnCoordinateY rlnCoordinateZ"
    return [
        _write(folder / f"{name}_cluster_0_relion3.star", loop(labels, [xyz(place / VOXEL) for place in places]))[0]
        for name, places in PLACES.items()
    ]


def tomotwin_coords(folder: Path) -> list[Path]:
    return [
        _write(folder / f"{name}.coords", "\n".join(xyz(place / VOXEL) for place in places) + "\n")[0]
        for name, places in PLACES.items()
    ]


def cryosiam(folder: Path) -> list[Path]:
    rows = [f"{name}.mrc {xyz(place[::-1] / VOXEL)}" for name, place in ROWS]
    return _write(folder / "centres.star", loop("rlnMicrographName rlnCoordinateZ rlnCoordinateY rlnCoordinateX", rows))


def copick(folder: Path) -> list[Path]:
    files = []
    for name, places in PLACES.items():
        points = [
            {"location": dict(zip("xyz", place, strict=True)), "transformation_": np.eye(4).tolist(), "score": 0.5}
            for place in places
        ]
        content = {
            "pickable_object_name": "ribosome", "user_id": "me", "session_id": "0", "run_name": name,
            "voxel_spacing": 10.0, "unit": "angstrom", "trust_orientation": True, "points": points,
        }  # fmt: skip
        files += _write(folder / f"me_0_ribosome_{name}.json", json.dumps(content))
    return files


def dynamo(folder: Path) -> list[Path]:
    lines = []
    for tag, (name, place) in enumerate(ROWS, start=1):
        values = np.zeros(36)
        shift = OFFSETS[tag - 1] / VOXEL
        values[[0, 1, 2]] = tag, 1, 1
        values[3:6], values[23:26] = shift, place / VOXEL - shift
        values[[19, 21]] = list(PLACES).index(name) + 1, 1 + tag % 2
        lines.append(" ".join(f"{value:.6g}" for value in values))
    _write(folder / "picks.doc", "".join(f"{n} /data/{name}.mrc\n" for n, name in enumerate(PLACES, start=1)))
    return _write(folder / "picks.tbl", "\n".join(lines) + "\n")


def csv(folder: Path) -> list[Path]:
    lines = [f"{name}.mrc,{','.join(map(str, place / VOXEL))},0{n}" for n, (name, place) in enumerate(ROWS)]
    return _write(folder / "picks.csv", "\n".join(["Tomogram,X,Y,Z,id", *lines]) + "\n")


def _write(path: Path, text: str) -> list[Path]:
    path.write_text(text, encoding="utf-8")
    return [path]


def inverse_turned(number: int) -> np.ndarray:
    """What RELION's own Python says: the transposed matrix of scipy's ZYZ."""
    return Rotation.from_euler("ZYZ", ANGLES[number], degrees=True).as_matrix().T @ OFFSETS[number]


WRITERS = {  # a writer, and the flavour that its files are of
    relion3: "relion3", relion31: "relion31", relion4: "relion4", relion5: "relion5", warp_match: "warp-match",
    warp_export: "warp-export", warp_export_2d: "warp-export", m: "m", pytom: "pytom", pytom_relion5: "relion5",
    tomotwin: "tomotwin", tomotwin_coords: "tomotwin", cryosiam: "cryosiam", copick: "copick", dynamo: "dynamo",
    csv: "csv",
}  # fmt: skip


def config(lab, out, **options):
    options = {"box": SIDE, "target_voxel_size": VOXEL, "dtype": "float32", **options}
    options = {"coordinates": (str(lab / "run_data.star"),), "tomograms": (str(lab / "tomograms"),), **options}
    return extract.Config(out=str(out), **options)


def csv_picks(path, places, tomogram="TS_01"):
    """A CSV file of places (x, y, z) in voxels."""
    lines = [f"{tomogram},{','.join(map(str, place))}" for place in places]
    path.write_text("\n".join(["Tomogram,x,y,z", *lines]) + "\n")
    return (str(path),)
