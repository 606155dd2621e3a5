"""simulate_tomogram.py: filters of a whole tomogram, places, files, and that extract.py finds what was put there."""

import dataclasses
import json
import math

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch
import tyro

import extract
from common.cli import InputError
from loader.columns import LABEL, POSITION, SOURCE_ROW
from loader.coordinates import places as places_of
from loader.coordinates import read_picks
from loader.star import read_star
from loader.tomogram import find_tomograms
from loader.volume import normalise, read_volume, write_volume
from physics.filters import geometry, noise_filter, sharpness, transfer
from physics.grid import Grid
from physics.imaging import Imaging
from physics.pose import Poses
from physics.whole import imaged, noise_shares, planes
from simulate_tomogram import Config, main
from simulation.classes import DensityOptions
from simulation.simulator import MASK_LEVEL, Simulator
from simulation.structures import load_densities
from simulation.tomogram import CLEAR, JUNK, Content, Scene, draw_scene, noise_level, paint

BOX, VOXEL = 16, 20.0
COARSE = DensityOptions(resolution=40.0)
TINY = {"procedural": 3, "size": (32, 64, 80), "per_class": 6, "crowd": 0, "box": BOX, "dtype": "float32"}
LOPSIDED = Imaging(tilt_min=-40.0, tilt_max=60.0, band_limit=0.8, noise_colour=1.0, b_factor=300.0, envelope=math.inf)
CUBIC = Imaging(dual_axis=True, band_limit=0.7, band_shape="cube", noise_through_ctf=0.3)


def config(folder, imaging=(), **options):
    imaging = Imaging(voxel_size=VOXEL, **dict(imaging))
    return Config(out=str(folder), imaging=imaging, expert=COARSE, **(TINY | options))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True, scope="module")
def threads():
    """The script takes torch's threads for itself; give them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def simulator_of(imaging, classes=3):
    names = tuple(f"complex{index:02d}" for index in range(classes))
    return Simulator(load_densities(names, "", Grid(BOX, VOXEL, 40.0, imaging.shift), 9), imaging)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two tomograms without noise, a few complexes in each, picked up to two voxels off."""
    folder = tmp_path_factory.mktemp("made") / "tomograms"
    main(config(folder, tomograms=2, snr=math.inf, junk=0.2))
    return folder


@pytest.fixture(scope="module")
def scene():
    """A crowded scene of the tiny tomogram's size, and its simulator: complexes, and a crowd of rods."""
    z, y, x = torch.meshgrid(*[torch.arange(BOX) - (BOX - 1) / 2] * 3, indexing="ij")
    rod = torch.exp(-(x**2 + y**2) / 4 - (z / 5) ** 4)
    densities = load_densities(("complex00", "complex01"), "", Grid(BOX, VOXEL, 40.0, 2.0), 9)
    simulator = Simulator(torch.cat([densities, rod[None]]), Imaging(voxel_size=VOXEL))
    content = Content(classes=2, per_class=12, crowd=60, junk=5)
    return draw_scene(TINY["size"], content, simulator, generator()), simulator


@pytest.mark.parametrize("side", [20, 15])
@pytest.mark.parametrize("imaging", [Imaging(), LOPSIDED, CUBIC])
def test_on_a_cube_the_filters_are_those_of_subtomograms(imaging, side):
    shared = geometry(side, imaging, torch.device("cpu"))
    target = transfer(torch.tensor([4.0]), shared, imaging)
    found = list(planes((side,) * 3, imaging, 4.0))
    signal = torch.stack([plane.signal for plane in found]).float()
    torch.testing.assert_close(signal, target[0] * sharpness(shared, imaging), atol=1e-6, rtol=1e-4)
    shares = noise_shares((side,) * 3, imaging, 4.0)
    amplitude = [(shares[0] * plane.through**2 + shares[1] * plane.white**2).sqrt() for plane in found]
    noise = noise_filter(target, shared, imaging)[0]
    torch.testing.assert_close(torch.stack(amplitude).float(), noise, atol=1e-5, rtol=1e-4)


def test_noise_has_its_level_and_nothing_of_it_lies_in_the_missing_wedge():
    shape = (40, 60, 80)
    imaging = Imaging(tilt_min=-50.0, tilt_max=40.0, envelope=math.inf)
    noise = imaged(torch.zeros(shape), imaging, 5.0, 0, 3.0, generator()).numpy()
    assert noise.std() == pytest.approx(3.0, rel=0.01) and abs(noise.mean()) < 0.1
    power = np.abs(np.fft.fftn(noise)) ** 2
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(side) for side in shape), indexing="ij")
    angle = np.degrees(np.arctan2(kz * np.where(kx < 0, -1, 1), np.abs(kx)))  # of cycles a voxel, whatever the sides
    kept = ((angle >= -50) & (angle <= 40)) | ((kx == 0) & (kz == 0))
    assert power[~kept].max() < 1e-6 * power.mean() and power[kept].mean() > power.mean()


def test_the_noise_has_the_spectrum_that_is_declared():
    shape, imaging = (40, 60, 80), Imaging(voxel_size=10.0, tilt_min=-90.0, tilt_max=90.0, noise_through_ctf=1.0)
    noise = imaged(torch.zeros(shape), imaging, 5.0, 0, 1.0, generator())
    power = torch.fft.rfftn(noise).abs().square()
    expected = torch.stack([plane.through for plane in planes(shape, imaging, 5.0)]).square()
    expected *= noise_shares(shape, imaging, 5.0)[0] * math.prod(shape)
    order = expected.flatten().argsort(descending=True)[:60000].reshape(30, 2000)  # groups of about one power each
    ratio = power.flatten()[order].mean(dim=1) / expected.flatten()[order].mean(dim=1)
    assert (ratio - 1).abs().max() < 0.1


def test_a_particle_in_a_tomogram_is_the_one_that_the_simulator_makes():
    """On a tomogram that is as wide as the simulator's own box with its margin, to the last digits."""
    imaging = Imaging(voxel_size=VOXEL, padding=4.0)
    simulator = simulator_of(imaging)
    place = torch.tensor([[20.3, 25.6, 23.1]])
    turn = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.7, 0.2]]), dim=1)
    volume = imaged(paint(Scene(torch.tensor([1]), turn, place, 1), (48,) * 3, simulator), imaging, 5.0, BOX)
    corner = (place - (BOX - 1) / 2).round()
    shift = (place - (BOX - 1) / 2 - corner).flip(1)
    poses = Poses(turn, shift, torch.tensor([5.0]))
    alone = simulator.image(simulator.pose(torch.tensor([1]), poses), poses.defocus, None).alone[0]
    box = volume[tuple(slice(at, at + BOX) for at in corner[0].long().tolist())]
    assert (box - alone).abs().max() < 1e-4 * alone.abs().max()


def test_a_plane_lies_between_any_two_complexes_and_junk_where_nothing_is(scene):
    drawn, simulator = scene
    grid = torch.stack(torch.meshgrid(*map(torch.arange, TINY["size"]), indexing="ij"), dim=-1)
    total, bodies = torch.zeros(TINY["size"]), []
    for number in (drawn.labels != JUNK).nonzero().squeeze(1).tolist():
        part = Scene(drawn.labels[[number]], drawn.quaternions[[number]], drawn.places[[number]], 1)
        density = paint(part, TINY["size"], simulator)
        whole = simulator.pose(part.labels, Poses(part.quaternions, torch.zeros(1, 3), torch.zeros(1)))
        assert density.sum() == pytest.approx(whole.sum().item(), rel=0.05)  # nothing is cut off
        total += density
        bodies.append((drawn.places[number], grid[density > MASK_LEVEL] - drawn.places[number]))
    torch.testing.assert_close(total, paint(drawn, TINY["size"], simulator), atol=1e-5, rtol=0)
    for number, (place, body) in enumerate(bodies):
        near = [body for body in bodies[:number] if (body[0] - place).norm() < BOX]
        for other, their_body in near:
            way = torch.nn.functional.normalize(other - place, dim=0)
            assert (body @ way).max() + (their_body @ -way).max() < (other - place).norm()
    for place in drawn.places[drawn.labels == JUNK]:
        assert all(((at + body - place).norm(dim=1) > CLEAR * BOX).all() for at, body in bodies)


def test_boxes_of_picks_lie_inside_and_the_scene_holds_what_was_asked_for(scene):
    drawn, _ = scene
    labels = drawn.labels[: drawn.picks].tolist()
    assert [labels.count(label) for label in (0, 1, 2, JUNK)] == [12, 12, 0, 5]
    assert {*drawn.labels[drawn.picks :].tolist()} == {2} and len(drawn.labels) == 24 + 5 + 60
    assert labels != sorted(labels)
    half = BOX / 2 + 2.0
    last = torch.tensor(TINY["size"]) - 1
    assert (drawn.places[: drawn.picks] >= half - 0.5).all() and (
        drawn.places[: drawn.picks] <= last - half + 0.5
    ).all()


def test_the_median_particle_has_the_snr_that_is_asked_for(scene):
    drawn, simulator = scene
    variances = []
    for number in (drawn.labels[: drawn.picks] != JUNK).nonzero().squeeze(1).tolist():
        poses = Poses(drawn.quaternions[[number]], torch.zeros(1, 3), torch.tensor([5.0]))
        alone = simulator.image(simulator.pose(drawn.labels[[number]], poses), poses.defocus, None).alone
        variances.append(alone.numpy().var())
    level = noise_level(drawn, simulator, 5.0, 0.1)
    assert sorted(variances)[(len(variances) - 1) // 2] / level**2 == pytest.approx(0.1, rel=1e-3)
    assert noise_level(drawn, simulator, 5.0, math.inf) == 0
    lab = Simulator(load_densities(("complex00",) * 3, "", Grid(BOX, VOXEL, 40.0), 9), Imaging(snr_convention="lab"))
    variance = dataclasses.replace(lab.imaging, snr_convention="variance")
    assert noise_level(drawn, lab, 5.0, 0.1) == pytest.approx(
        math.sqrt(2) * noise_level(drawn, lab.under(variance), 5.0, 0.1)
    )


def test_the_star_file_brings_the_picks_back_to_a_hundredth_of_a_voxel_and_names_no_class(made):
    picks = read_picks(made / "particles.star", "", 0.0)
    truth = pd.read_csv(made / "truth.csv")
    assert picks.flavour == "relion5" and list(truth[SOURCE_ROW]) == list(range(1, len(picks) + 1))
    assert [label.removeprefix("rlnCenteredCoordinate") for label in picks.table] == [
        "rlnTomoName", "XAngst", "YAngst", "ZAngst",
    ]  # fmt: skip
    listed = find_tomograms([str(made / "tomograms.star")], 0.0)
    tomograms, headers = listed.tomograms, find_tomograms([str(made)], 0.0).tomograms
    assert not listed.warnings and [(t.name, t.shape, t.voxel_size) for t in tomograms] == [
        (t.name, t.shape, t.voxel_size) for t in headers
    ]
    for tomogram in (*tomograms, *headers):
        rows = np.flatnonzero(picks.tomograms == tomogram.name)
        assert len(rows) == 22 and (truth["Tomogram"][rows] == tomogram.name).all()
        found = places_of(picks, rows, tomogram)
        off = found - truth.loc[rows, list(POSITION)].to_numpy() / VOXEL
        assert 1.5 < np.abs(off).max() < 2.01  # as far as the shift, in every direction


def test_without_a_shift_the_picks_are_the_true_places(tmp_path):
    main(config(tmp_path, {"shift": 0.0}, per_class=2, snr=math.inf))
    (tomogram,) = find_tomograms([str(tmp_path)], 0.0).tomograms
    picks = read_picks(tmp_path / "particles.star", "", 0.0)
    found = places_of(picks, np.arange(len(picks)), tomogram)
    truth = pd.read_csv(tmp_path / "truth.csv")
    np.testing.assert_allclose(found * VOXEL, truth[list(POSITION)], atol=0.01 * VOXEL)


def test_truth_tells_junk_from_classes(made):
    truth = pd.read_csv(made / "truth.csv", keep_default_na=False)
    for _, rows in truth.groupby("Tomogram"):
        assert rows[LABEL].value_counts().to_dict() == {"complex00": 6, "complex01": 6, "complex02": 6, "junk": 4}
        assert list(rows[LABEL]) != sorted(rows[LABEL])
    assert ((truth["Quaternion"] == "") == (truth[LABEL] == "junk")).all() and (truth["Defocus"] == 5.0).all()


def test_extract_finds_dark_particles_in_the_middle_of_the_boxes(made, tmp_path, capsys):
    coordinates, tomograms = (str(made / "particles.star"),), (str(made / "tomograms.star"),)
    extract.main(extract.Config(coordinates, tomograms, out=str(tmp_path), box=BOX))
    said = capsys.readouterr()
    assert "22 particles: 22 taken, 0 at the edge, 0 outside" in said.out
    assert "centred; the particles are dark" in said.out and not said.err.count("warning")


def test_an_extracted_box_is_the_subtomogram_of_its_pose(tmp_path):
    """To 3 % of its standard deviation: extract.py fades out what lies beyond the box, and reads it at the place."""
    made, out = tmp_path / "made", tmp_path / "extracted"
    options = {"contrast": "bright", "junk": 0.0, "size": (48, 48, 48)}
    main(config(made, {"shift": 0.5}, procedural=1, per_class=1, snr=math.inf, **options))
    cut = {"box": BOX, "dtype": "float32", "edge": "pad"}
    truth = pd.read_csv(made / "truth.csv").iloc[0]
    exact = tmp_path / "exact.csv"
    exact.write_text("x,y,z\n" + ",".join(str(truth[name] / VOXEL) for name in POSITION[::-1]) + "\n")
    extract.main(extract.Config((str(exact),), (str(made / "TS_01.mrc"),), out=str(out), **cut))
    box, _ = read_volume(f"1@{out / 'TS_01.mrcs'}")
    simulator = simulator_of(Imaging(voxel_size=VOXEL, shift=0.5, padding=4.0), classes=1)
    turn = torch.tensor([[float(value) for value in truth["Quaternion"].split()]])
    poses = Poses(turn, torch.zeros(1, 3), torch.tensor([5.0]))
    alone = simulator.image(simulator.pose(torch.tensor([0]), poses), poses.defocus, None).alone[0].numpy()
    assert (box - normalise(alone, "simulated")).std() < 0.03


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_made(tmp_path):
    noisy = {"snr": 0.1, "per_class": 2}
    main(config(tmp_path / "one", **noisy))
    main(config(tmp_path / "two", tomograms=2, **noisy))
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one["TS_01.mrc"] == two["TS_01.mrc"] != two["TS_02.mrc"]
    (tmp_path / "two" / "TS_02.mrc").unlink()
    (tmp_path / "two" / "truth.csv").unlink()
    kept = (tmp_path / "two" / "TS_01.mrc").stat().st_mtime_ns
    main(config(tmp_path / "two", tomograms=2, **noisy))
    assert files(tmp_path / "two") == two and (tmp_path / "two" / "TS_01.mrc").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match=r"tomograms of other options \(seed\); --overwrite"):
        main(config(tmp_path / "two", tomograms=2, seed=10, **noisy))
    main(config(tmp_path / "two", seed=10, overwrite=True, **noisy))
    assert not {*files(tmp_path / "two").values()} & {one["TS_01.mrc"], two["TS_02.mrc"]}
    assert "TS_02.mrc" not in files(tmp_path / "two")


def test_contrast_noise_and_kind_of_numbers_are_as_asked_for(tmp_path):
    few = {"per_class": 2, "snr": 0.1}
    volumes = {}
    for name, options in {
        "clean": {"snr": math.inf}, "dark": {}, "bright": {"contrast": "bright"}, "half": {"dtype": "float16"},
    }.items():  # fmt: skip
        main(config(tmp_path / name, **(few | options)))
        with mrcfile.open(tmp_path / name / "TS_01.mrc") as mrc:
            assert mrc.is_volume() and mrc.voxel_size.x == VOXEL and mrc.data.shape == TINY["size"]
            volumes[name] = mrc.data.copy()
    assert volumes["half"].dtype == np.float16 and volumes["dark"].dtype == np.float32
    np.testing.assert_array_equal(volumes["half"], volumes["dark"].astype(np.float16))
    np.testing.assert_array_equal(volumes["bright"], -volumes["dark"])
    noise = volumes["dark"] - volumes["clean"]
    assert 2 * volumes["clean"].std() < noise.std()
    assert abs(np.corrcoef(noise.flat, volumes["clean"].flat)[0, 1]) < 0.05


def test_the_record_keeps_the_options_on_one_level(made):
    record = json.loads((made / "simulation.json").read_text())
    assert record["classes"] == ["complex00", "complex01", "complex02"] and record["files"] == {}
    assert (record["snr"], record["size"], record["voxel_size"], record["resolution"]) == (
        "inf",
        [32, 64, 80],
        VOXEL,
        40,
    )
    assert not {"imaging", "expert", "out", "overwrite"} & set(record)
    assert (made / "tomograms.png").stat().st_size > 10_000


def test_tomograms_star_is_that_of_relion_5(made):
    blocks = read_star(made / "tomograms.star")
    assert list(blocks) == ["global"]
    row = blocks["global"].to_dict("records")[1]
    assert row["rlnTomoName"] == "TS_02" and row["rlnTomoReconstructedTomogram"] == "TS_02.mrc"
    assert [row[f"rlnTomoSize{axis}"] for axis in "XYZ"] == ["80", "64", "32"]


def test_structures_of_a_folder_become_classes_among_a_crowd_under_a_defocus_of_each_tomogram(tmp_path):
    structures = tmp_path / "structures"
    for name in "ab":
        write_volume(structures / f"{name}.mrc", np.pad(np.ones((2, 3, 4), np.float32), 3), VOXEL)
    options = {"structures": str(structures), "tomograms": 2, "per_class": 2, "crowd": 4}
    main(config(tmp_path / "made", {"defocus": (3.0, 5.0)}, **options))
    truth = pd.read_csv(tmp_path / "made" / "truth.csv")
    assert {*truth[LABEL]} == {"a", "b", "junk"}
    defocus = truth.groupby("Tomogram")["Defocus"]
    assert (defocus.nunique() == 1).all() and truth["Defocus"].nunique() == 2 and truth["Defocus"].between(3, 5).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"per_class": 0}, "--per-class 0"),
        ({"tomograms": 0}, "--tomograms 0"),
        ({"junk": 1.0}, "--junk 1"),
        ({"snr": 0.0}, "--snr 0"),
        ({"contrast": "grey"}, "expected one of bright, dark"),
        ({"size": (20, 64, 64)}, "expected more than 21 voxels along each axis"),
        ({"per_class": 400}, r"room was found for \d+ of 1412 complexes"),
        ({"imaging": {"neighbours": 3, "tilt_step": 3.0}}, "--tilt-step, --neighbours: of single particles"),
        ({"imaging": {"shift": 6.0}}, "6 voxels of margin need a box of"),
        ({"structures": "nowhere"}, "nowhere: no such folder"),
        ({"classes": ("complex00", "complex00")}, "twice"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        main(config(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_a_users_own_tomograms_are_not_overwritten(tmp_path):
    write_volume(tmp_path / "TS_01.mrc", np.zeros((8, 9, 10), np.float32), 10.0)
    before = files(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds TS_01.mrc, which was not simulated here; give another --out"):
            main(config(tmp_path, overwrite=overwrite))
    assert files(tmp_path) == before


def test_every_option_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    said = capsys.readouterr().out
    for field in (f for kind in (Config, Imaging, DensityOptions) for f in dataclasses.fields(kind)):
        name = f"--{field.name.replace('_', '-')}"
        assert field.name in ("imaging", "expert") or f"{name} " in said or f"{name}," in said
