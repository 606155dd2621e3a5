"""simulate.py as a user runs it: the layout, the table, resuming, and what it refuses."""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import tyro

import simulate
from common.cli import REPOSITORY, InputError, run
from loader.volume import read_volume, write_volume
from physics.grid import Grid
from physics.imaging import Imaging
from simulate import Config, Expert, main
from simulation.particles import HEADER_BYTES, VolumeWriter, snr_code, snr_folders
from simulation.sets import SETS
from simulation.structures import load_densities

TINY = {
    "procedural": 3,
    "per_class": 5,
    "box": 16,
    "voxel_size": 20.0,
    "resolution": 40.0,
    "workers": 2,
    "device": "cpu",
}
HEADER = (
    "Input Data,Segmentation Ground Truth,Actual Label,SNR Level,Particle,Tomogram,Voxel Size,Quaternion,Shift,"
    "Tilt Min,Tilt Max,Seed,SNR Convention,Defocus"
)


def command(folder: Path, **options: object) -> list[str]:
    """The command line of a tiny data set in `folder`."""
    words = [sys.executable, str(REPOSITORY / "simulate.py"), "--data-dir", str(folder)]
    for name, value in (TINY | options).items():
        values = value if isinstance(value, (tuple, list)) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def config(folder: Path, **options: object) -> Config:
    """The same data set, for a call in this process."""
    options = TINY | options
    groups = {
        name: kind(**{f.name: options.pop(f.name) for f in dataclasses.fields(kind) if f.name in options})
        for name, kind in (("imaging", Imaging), ("expert", Expert))
    }
    return Config(data_dir=str(folder), **groups, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def threads():
    """The script takes torch's threads for itself; give them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A tiny data set, made by the command."""
    folder = tmp_path_factory.mktemp("made") / "data_"
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "3 classes x 5 particles x 3 SNRs (variance convention), 45 volumes" in done.stdout
    assert done.stderr == ""  # bars are for terminals
    return folder


def test_the_layout_is_that_of_the_original_data(made):
    table = pd.read_csv(made / "particles.csv", dtype={"SNR Level": str}, keep_default_na=False)
    assert (made / "particles.csv").read_text().splitlines()[0] == HEADER
    assert len(table) == 3 * 5 * 3
    assert set(table["SNR Level"]) == {"003", "005", "infinity"}
    for place in ("data1_SNR003", "data2_SNR005", "data3_SNRinfinity"):
        volumes = {f"tomotarget{i}.mrc" for i in range(15)}
        assert {path.name for path in (made / place / "subtomogram_mrc").iterdir()} == volumes
        masks = {f"packtarget{i}.mrc" for i in range(15)}
        assert {path.name for path in (made / place / "processed_densitymap_mrc_mrc2binary").iterdir()} == masks
    for row in table.to_dict("records"):
        number = int(row["Input Data"].rsplit("tomotarget")[1].removesuffix(".mrc"))
        assert row["Actual Label"] == f"complex{number // 5:02d}"  # the class is the number over per_class
        assert row["Particle"] == f"complex{number // 5:02d}_{number % 5:04d}"
        assert f"SNR{row['SNR Level']}/" in row["Input Data"]
        assert (
            row["Input Data"].replace("subtomogram_mrc/tomo", "processed_densitymap_mrc_mrc2binary/pack")
            == (row["Segmentation Ground Truth"])
        )
        assert row["Tomogram"] == "" and float(row["Voxel Size"]) == 20.0 and row["Seed"] == 9
        assert np.linalg.norm([float(x) for x in row["Quaternion"].split()]) == pytest.approx(1, abs=1e-5)
        assert len(row["Shift"].split()) == 3 and (row["Tilt Min"], row["Tilt Max"]) == (-60, 60)
    one_pose = table.groupby("Particle")[["Quaternion", "Shift", "Actual Label"]].nunique()
    assert (one_pose == 1).all(axis=None)
    assert (made / "contact_sheet.png").stat().st_size > 10_000


def test_volumes_hold_a_bright_particle_where_the_mask_says(made):
    for i in range(15):
        volume, voxel = read_volume(made / f"data3_SNRinfinity/subtomogram_mrc/tomotarget{i}.mrc")
        mask, _ = read_volume(made / f"data1_SNR003/processed_densitymap_mrc_mrc2binary/packtarget{i}.mrc")
        assert volume.shape == mask.shape == (16,) * 3 and voxel == 20.0
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert volume[mask > 0].mean() > volume[mask == 0].mean() + volume.std()


def test_the_snr_of_the_files_is_the_one_asked_for(made):
    measured = []
    for i in range(15):
        clean, noisy = (
            read_volume(made / f"{place}/subtomogram_mrc/tomotarget{i}.mrc")[0]
            for place in ("data3_SNRinfinity", "data2_SNR005")
        )
        measured.append(clean.var() / (noisy - clean).var())
    assert np.mean(measured) == pytest.approx(0.05, rel=0.05)


def test_one_worker_makes_the_same_bytes_as_two(made, tmp_path):
    main(config(tmp_path, workers=1))
    assert files(tmp_path) == files(made)


def test_a_particle_does_not_depend_on_what_else_is_made(made, tmp_path):
    options = {"classes": ("complex02", "complex01"), "per_class": 3, "snr": (0.5, 0.05)}
    main(config(tmp_path, **options))
    for ours, theirs in ((0, 10), (2, 12), (3, 5), (5, 7)):
        name = "subtomogram_mrc/tomotarget{}.mrc"
        one, other = (
            read_volume(folder / place / name.format(i))[0]
            for folder, place, i in ((tmp_path, "data2_SNR005", ours), (made, "data2_SNR005", theirs))
        )
        assert np.allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_the_same_complexes_can_be_imaged_as_other_particles(made, tmp_path):
    """What evaluates a network must show it the shapes it knows, and no particle that it was trained on."""
    main(config(tmp_path, seed=10, shape_seed=9, snr=(math.inf,), per_class=1))
    table, before = (pd.read_csv(folder / "particles.csv") for folder in (tmp_path, made))
    assert not {*table["Quaternion"]} & {*before["Quaternion"]}
    grid = Grid(16, 20.0, 40.0)
    for shape_seed, matches in ((9, True), (10, False)):
        densities = load_densities(("complex00", "complex01"), "", grid, shape_seed)
        sizes = [np.count_nonzero(density > 0.3) for density in densities.numpy()]
        masks = [np.count_nonzero(read_volume(tmp_path / name)[0]) for name in table["Segmentation Ground Truth"][:2]]
        assert (np.abs(np.divide(masks, sizes) - 1).max() < 0.3) == matches


def test_a_killed_run_goes_on_and_ends_with_the_same_files(made, tmp_path):
    options = {"per_class": 150, "snr": (0.05,), "workers": 1}
    folder = tmp_path / "killed"
    process = subprocess.Popen(command(folder, **options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    volumes = folder / "data1_SNR005" / "subtomogram_mrc"
    for _ in range(3000):
        if volumes.is_dir() and len(os.listdir(volumes)) > 80:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in volumes.glob("t*.mrc")}
    assert 80 <= len(before) < 450 and not (folder / "particles.csv").exists()
    (volumes / ".tomotarget449.mrc").write_bytes(b"half")
    main(config(folder, **options))
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= 32  # whole batches are not made again
    whole = tmp_path / "whole"
    main(config(whole, **options))
    assert files(folder) == files(whole)


def test_other_options_in_a_folder_with_data_are_refused(made, tmp_path, capsys):
    with pytest.raises(InputError, match=r"other options \(per_class\); --overwrite"):
        main(config(made, per_class=6))
    assert len(files(made)) == 2 * 45 + 3
    main(config(tmp_path))
    main(config(tmp_path, overwrite=True, per_class=2, snr=(0.1, math.inf)))
    names = files(tmp_path)
    assert len(names) == 2 * 12 + 3 and not any("SNR003" in name for name in names)
    assert json.loads(names["simulation.json"])["snr"] == [0.1, "inf"]


def test_a_data_set_from_before_an_option_was_there_is_taken_up(tmp_path):
    options = {"per_class": 1, "snr": (math.inf,)}
    main(config(tmp_path, **options))
    record = tmp_path / "simulation.json"
    kept = json.loads(record.read_text())
    del kept["crop"], kept["padding"]
    record.write_text(json.dumps(kept))
    main(config(tmp_path, **options))
    with pytest.raises(InputError, match=r"other options \(crop\)"):
        main(config(tmp_path, crop=True, **options))


def test_simulation_json_keeps_the_options_on_one_level_as_on_the_command_line(made):
    record = json.loads((made / "simulation.json").read_text())
    assert record["classes"] == ["complex00", "complex01", "complex02"] and record["files"] == {}
    assert record["snr"] == [0.03, 0.05, "inf"] and record["defocus"] == [5.0, 5.0]
    assert (record["box"], record["voxel_size"], record["resolution"], record["map_level"]) == (16, 20.0, 40.0, 0.1)
    imaging = {field.name for field in dataclasses.fields(Imaging)}
    assert imaging <= set(record) and not {"imaging", "expert", "workers", "device", "overwrite"} & set(record)


def test_every_option_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    parts = re.split(r"(?m)^\W*--(?=[a-z])", capsys.readouterr().out)[1:]
    options = [part.split("(default")[0].split() for part in parts]
    expected = {f.name for kind in (Config, Imaging, Expert) for f in dataclasses.fields(kind)} - {"imaging", "expert"}
    assert {words[0].rstrip(",").replace("-", "_") for words in options} == expected
    assert not [words[0] for words in options if len([word for word in words if word.islower()]) < 4]


def test_a_set_stands_in_for_the_defaults_and_other_options_override_it(monkeypatch):
    def given(*words: str) -> Config:
        configs = []
        monkeypatch.setattr(sys, "argv", ["simulate.py", *words])
        run(configs.append, Config, "", SETS, "set")
        return configs[0]

    assert given() == Config()
    hard = SETS["hard"]["imaging"]
    assert given("--set", "hard") == Config(set="hard", imaging=hard, crop=True)
    changed = given("--set", "hard", "--shift", "1", "--no-crop", "--defocus", "4", "5")
    assert changed == Config(set="hard", imaging=dataclasses.replace(hard, shift=1.0, defocus=(4.0, 5.0)))
    assert given("--set", "other").independent and not given("--set", "series").independent
    with pytest.raises(SystemExit):
        given("--set", "easy")


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_made_and_its_name_is_recorded(tmp_path, name):
    imaging = dataclasses.replace(SETS[name]["imaging"], voxel_size=20.0)
    options = {**SETS[name], "imaging": imaging, "expert": Expert(resolution=40.0, workers=1), "set": name}
    cfg = Config(str(tmp_path), procedural=2, per_class=2, box=18, snr=(0.1, math.inf), device="cpu", **options)
    main(cfg)
    record = json.loads((tmp_path / "simulation.json").read_text())
    assert record["set"] == name and record["defocus"] == [*imaging.defocus]
    assert record["independent"] == (name == "other")
    table = pd.read_csv(tmp_path / "particles.csv")
    assert len(table) == 8 and {*table["SNR Convention"]} == {"lab" if name == "lab" else "variance"}
    defocus = table["Defocus"]
    assert defocus.between(*imaging.defocus).all()
    volumes = [read_volume(tmp_path / path)[0] for path in table["Input Data"]]
    assert all(np.isfinite(volume).all() and volume.std() > 0 for volume in volumes)
    before = files(tmp_path)
    main(dataclasses.replace(cfg, set=""))  # the same data by other words
    assert files(tmp_path) == before
    with pytest.raises(InputError, match="other options"):
        main(dataclasses.replace(cfg, set="", crop=not cfg.crop))


def test_only_a_crop_that_is_asked_for_takes_complexes_out_of_the_box(tmp_path):
    options = {"per_class": 8, "snr": (math.inf,), "shift": 6.0}
    with pytest.raises(InputError, match="6 voxels of margin need a box of"):
        main(config(tmp_path, **options))
    main(config(tmp_path, crop=True, **options))
    table = pd.read_csv(tmp_path / "particles.csv")
    shifts = np.array([[float(value) for value in text.split()] for text in table["Shift"]])  # (N, 3) as x, y, z
    assert 5 < np.abs(shifts).max() <= 6
    masks = [read_volume(tmp_path / name)[0] for name in table["Segmentation Ground Truth"]]
    sizes = np.array([np.count_nonzero(mask) for mask in masks]).reshape(3, 8)
    assert (sizes.min(axis=1) < 0.9 * sizes.max(axis=1)).any()


def test_a_users_own_data_is_not_overwritten(tmp_path):
    path = tmp_path / "data1_SNR003" / "subtomogram_mrc" / "tomotarget0.mrc"
    write_volume(path, np.zeros((8, 8, 8), np.float32), 10.0)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not simulated here"):
        main(config(tmp_path))
    assert path.read_bytes() == before and len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"per_class": 0}, "--per-class 0"),
        ({"procedural": 0}, "--procedural 0"),
        ({"snr": ()}, "--snr"),
        ({"snr": (0.0,)}, "--snr 0.0"),
        ({"snr": (math.nan,)}, "--snr nan"),
        ({"snr": (0.05, 0.05)}, "twice"),
        ({"snr": (0.05, 0.050000001)}, "twice"),
        ({"snr_convention": "peak"}, "variance or lab"),
        ({"tilt_min": 70.0}, "tilt_min < tilt_max"),
        ({"box": 4}, "--box 4"),
        ({"box": 10}, "need a box of"),
        ({"seed": -1}, "--seed -1"),
        ({"structures": "nowhere"}, "nowhere: no such folder"),
        ({"classes": ("benchmark",)}, "--structures"),
        ({"classes": ("1bxn",)}, "1bxn"),
        ({"classes": ("complex00", "complex00")}, "twice"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, options, message):
    folder = tmp_path / "data_"
    with pytest.raises(InputError, match=message):
        main(config(folder, **options))
    assert not folder.exists()


def test_a_truncated_structure_ends_in_one_line_and_code_2(tmp_path):
    structures = tmp_path / "structures"
    structures.mkdir()
    write_volume(structures / "good.mrc", np.pad(np.ones((3, 3, 3), np.float32), 3), 20.0)
    (structures / "cut.mrc").write_bytes((structures / "good.mrc").read_bytes()[: HEADER_BYTES + 100])
    folder = tmp_path / "data_"
    done = subprocess.run(
        command(folder, structures=structures, classes=("good", "cut")), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and not folder.exists()
    assert done.stderr.startswith("simulate.py: error: ") and done.stderr.count("\n") == 1 and "cut.mrc" in done.stderr


def test_structures_of_a_folder_become_classes_in_sorted_order(tmp_path):
    structures = tmp_path / "structures"
    write_volume(structures / "b.mrc", np.pad(np.ones((3, 3, 3), np.float32), 3), 20.0)
    write_volume(structures / "a.mrc", np.pad(np.ones((2, 3, 5), np.float32), 3), 20.0)
    options = {"per_class": 1, "snr": (math.inf,), "neighbours": 2}
    main(config(tmp_path / "data_", structures=str(structures), **options))
    table = pd.read_csv(tmp_path / "data_" / "particles.csv")
    assert list(table["Actual Label"]) == ["a", "b"]


def test_a_fast_written_file_is_the_same_as_a_slowly_written_one(tmp_path):
    random = np.random.default_rng(0)
    for dtype, volume in ((np.float32, random.normal(size=(8,) * 3)), (np.int8, random.integers(0, 2, (8,) * 3))):
        write_volume(tmp_path / "slow.mrc", volume.astype(dtype), 10.0)
        VolumeWriter(8, dtype, 10.0)(tmp_path / "fast.mrc", volume.astype(dtype))
        assert (tmp_path / "fast.mrc").read_bytes() == (tmp_path / "slow.mrc").read_bytes()


def test_snr_folders_are_named_as_in_the_original():
    assert snr_folders((0.03, 0.05, math.inf)) == ["data1_SNR003", "data2_SNR005", "data3_SNRinfinity"]
    assert [snr_code(value) for value in (0.1, 1.0, 10.0)] == ["01", "1", "10"]
    assert simulate.Config().snr == (0.03, 0.05, math.inf)
