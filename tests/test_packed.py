"""The packed file of a split: written once, shared, made anew where something changed, and never half there."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

import check_split
from common.cli import InputError
from loader.columns import CLASS, INPUT, LABEL, MASK, PARTICLE, SNR, VOXEL_SIZE
from loader.dataset import load_split
from loader.packed import RECORD, open_packed, own_preprocessing
from loader.prepare import Input, Preprocessing, prepare
from loader.rows import read_rows
from loader.volume import write_volume
from tests.scripts import REPOSITORY

BOX, COUNT = 6, 5
SAME = Preprocessing(BOX, 10.0)


def make_split(folder: Path, count: int = COUNT) -> Path:
    """train.csv of volumes whose headers say 10 A."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        volume = 5 + rng.normal(size=(BOX,) * 3).astype(np.float32)
        write_volume(folder / "data" / f"v{number}.mrc", volume, 10.0)
        rows.append((f"../data/v{number}.mrc", "", number % 2, "003", "ab"[number % 2], f"p{number}"))
    path = folder / "csv" / "train.csv"
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=[INPUT, MASK, CLASS, SNR, LABEL, PARTICLE]).to_csv(path, index=False)
    return path


@pytest.fixture
def split(tmp_path):
    return make_split(tmp_path)


def spoil(folder: Path) -> None:
    """Whoever reads a volume now fails: other content, of the same size and time."""
    for path in folder.glob("*.mrc"):
        state = path.stat()
        path.write_bytes(bytes(state.st_size))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def packed_files(csv: Path) -> list[str]:
    """The files beside the CSV, hidden ones too, without the lock."""
    return sorted(path.name for path in csv.parent.iterdir() if path.suffix not in (".csv", ".lock"))


FILES = ["train.packed.f16", "train.packed.json"]


def test_volumes_are_read_once_and_then_mapped(split):
    first = load_split(split)
    for row, image in enumerate(first.images):
        volume = prepare(Input(first.rows[INPUT][row]), SAME)
        np.testing.assert_array_equal(image[0].numpy(), volume.image.astype(np.float16))
        np.testing.assert_array_equal(first.intensity[row], volume.intensity)
    assert packed_files(split) == FILES
    spoil(split.parents[1] / "data")
    again = load_split(split)
    assert torch.equal(again.images, first.images)
    np.testing.assert_array_equal(again.intensity, first.intensity)
    assert again.preprocessing == first.preprocessing == SAME
    assert again.place == f"in {split.parent}/train.packed.f16, memory-mapped (0 MB)"


def test_the_json_says_what_the_packed_file_was_made_from(split):
    load_split(split, contrast="dark")
    head = json.loads((split.parent / "train.packed.json").read_text())
    assert (head["volumes"], len(head["csv_sha256"]), len(head["files_sha256"])) == (COUNT, 64, 64)
    assert Preprocessing.read(head["preprocessing"]) == replace(SAME, contrast="dark")


def newer(split):
    os.utime(split.parents[1] / "data" / "v3.mrc", ns=(0, 10**18))


def longer(split):
    path = split.parents[1] / "data" / "v3.mrc"
    time_ns = path.stat().st_mtime_ns
    values = np.random.default_rng(1).normal(size=(BOX,) * 3)
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(values.astype(np.float32))
        mrc.set_extended_header(np.zeros(8, dtype="V1"))
        mrc.voxel_size = 10.0
    os.utime(path, ns=(time_ns, time_ns))


def another_row(split):
    lines = split.read_text().splitlines()
    split.write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")


def cut(split):
    path = split.parent / "train.packed.f16"
    path.write_bytes(path.read_bytes()[:-1])


def of_another_json(split):
    path = split.parent / "train.packed.f16"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def no_json(split):
    (split.parent / "train.packed.json").write_text("{}")


@pytest.mark.parametrize("change", [newer, longer, another_row, cut, of_another_json, no_json])
def test_the_packed_file_is_made_anew_where_something_changed_or_is_damaged(split, change):
    load_split(split)
    change(split)
    assert open_packed(read_rows(split)) is None
    found = load_split(split)
    for address, image in zip(found.rows[INPUT], found.images, strict=True):
        np.testing.assert_array_equal(image[0].numpy(), prepare(Input(address), SAME).image.astype(np.float16))
    assert packed_files(split) == FILES


def test_a_data_set_that_was_moved_with_its_times_is_not_packed_again(split, tmp_path):
    load_split(split)
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    assert open_packed(read_rows(tmp_path.with_name("moved") / "csv" / "train.csv")) is not None


def test_a_volume_that_was_deleted_is_named_though_it_was_packed(split):
    load_split(split)
    (split.parents[1] / "data" / "v2.mrc").unlink()
    with pytest.raises(InputError, match=r"train\.csv, line 4: .*v2\.mrc: no such file"):
        load_split(split)


def test_the_other_contrast_is_packed_from_the_packed_file_alone(split):
    bright = load_split(split).images.clone()
    spoil(split.parents[1] / "data")
    dark = load_split(split, contrast="dark")
    assert torch.equal(dark.images, -bright)
    assert dark.preprocessing.contrast == "dark"
    assert torch.equal(load_split(split).images, bright)


def test_packed_volumes_of_another_box_or_voxel_size_than_the_checkpoint_are_refused(split):
    load_split(split)
    with pytest.raises(InputError, match=r"v0\.mrc: voxels of 10 A; expected 13\.5 A"):
        load_split(split, replace(SAME, voxel_size=13.5))
    with pytest.raises(InputError, match=r"v0\.mrc: a volume of \(6, 6, 6\) voxels \(z, y, x\); expected \(8, 8, 8\)"):
        load_split(split, replace(SAME, box=8))
    assert len(load_split(split, replace(SAME, voxel_size=None))) == COUNT


def test_rows_that_are_chosen_are_those_of_the_whole(split):
    whole = load_split(split)
    some = load_split(split, choose=lambda rows: np.flatnonzero(rows[LABEL] == "b"))
    assert torch.equal(some.images, whole.images[1::2])
    assert some.labels.tolist() == [1, 1]
    assert list(some.rows[PARTICLE]) == ["p1", "p3"]
    np.testing.assert_array_equal(some.intensity, whole.intensity[1::2])


def test_a_script_that_writes_to_the_images_spoils_no_file(split):
    first = load_split(split)
    before = first.images.clone()
    first.images.add_(1)
    assert torch.equal(load_split(split).images, before)


def test_a_packed_file_larger_than_the_memory_is_mapped(split):
    """A sparse file, of a box that no volume has."""
    load_split(split)
    data, text = split.parent / "train.packed.f16", split.parent / "train.packed.json"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    box = round((memory / COUNT) ** (1 / 3))  # 2 bytes a voxel: twice the memory
    head = json.loads(text.read_text())
    head["preprocessing"]["box"] = box
    text.write_text(json.dumps(head))
    end = COUNT * (2 * box**3 + RECORD.itemsize)
    os.truncate(data, end)
    with data.open("r+b") as file:
        file.seek(end)
        file.write(hashlib.sha256(json.dumps(head, sort_keys=True).encode()).digest())
    packed = open_packed(read_rows(split))
    assert packed.images.shape == (COUNT, 1, box, box, box)
    assert packed.images[-1, 0, -1, -1, -1] == 0


def test_a_bad_volume_leaves_no_packed_file(split):
    path = split.parents[1] / "data" / "v3.mrc"
    write_volume(path, np.ones((BOX,) * 3, dtype=np.float32), 10.0)
    with pytest.raises(InputError, match=r"v3\.mrc: the volume is constant"):
        load_split(split)
    assert packed_files(split) == []


@pytest.fixture
def closed(split):
    """A split in whose folder no packed file can be written: what would be its lock is a folder."""
    (split.parent / ".train.packed.lock").mkdir()
    return split


def test_where_no_file_can_be_written_the_volumes_are_kept_in_memory_and_the_user_is_told(closed, capsys):
    found = load_split(closed)
    line = capsys.readouterr().err.strip()
    assert "train.packed.f16: cannot be written (Is a directory); its volumes are read into memory (0 MB)" in line
    assert found.place == "in memory (0 MB)"
    assert packed_files(closed) == []
    for address, image in zip(found.rows[INPUT], found.images, strict=True):
        np.testing.assert_array_equal(image[0].numpy(), prepare(Input(address), SAME).image.astype(np.float16))


def test_where_no_file_can_be_written_and_memory_is_short_that_is_one_line(closed):
    with pytest.raises(
        InputError, match=r"cannot be written \(.*\), and its 0 MB are more than the 0 MB that they may"
    ):
        load_split(closed, memory_share=0.0)


def test_where_no_file_can_be_written_only_the_rows_that_are_chosen_are_read(closed):
    (closed.parents[1] / "data" / "v0.mrc").write_bytes(b"")
    found = load_split(closed, SAME, choose=lambda rows: np.array([2, 4]))
    assert list(found.rows[PARTICLE]) == ["p2", "p4"]
    with pytest.raises(InputError, match=r"v0\.mrc: not a readable MRC file"):
        load_split(closed, SAME)


def test_where_no_file_can_be_written_a_check_still_finds_what_is_wrong(closed, capsys):
    (closed.parents[1] / "data" / "v1.mrc").write_bytes(b"")
    problems = check_split.bad_volumes([read_rows(closed)])
    assert len(problems) == 1 and "v1.mrc: not a readable MRC file" in problems[0]
    assert "cannot be written (Is a directory); the next script reads the volumes again" in capsys.readouterr().err


PACK = """
import sys
from pathlib import Path
from loader.packed import load_packed, own_preprocessing
from loader.rows import read_rows
split = read_rows(sys.argv[1])
packed = load_packed(split, own_preprocessing(split, "bright"), 0.5, None)
file = Path(sys.argv[1]).with_name("train.packed.f16")
print(packed.place, file.is_file() and file.stat().st_mtime_ns, packed.images.astype(float).sum())
"""


def pack_elsewhere(split: Path) -> subprocess.Popen:
    """A process of its own that packs a split."""
    command = [sys.executable, "-c", PACK, str(split)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_that_grows_beyond_the_room_leaves_nothing_and_the_volumes_are_kept_in_memory(split):
    command = f"ulimit -f 1; exec {sys.executable} -c '{PACK}' {split}"  # files of at most 1 kB
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("in memory (0 MB) False "), done.stderr
    assert "train.packed.f16: cannot be written (File too large); its volumes are read into memory" in done.stderr
    assert packed_files(split) == []


def test_of_processes_that_need_a_split_at_once_one_packs_it_and_the_others_wait(split):
    with (split.parent / ".train.packed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [pack_elsewhere(split) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == f"{split}: waiting for another process that packs its volumes\n"
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1  # the same file, and the same volumes
    assert packed_files(split) == FILES


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    split = make_split(tmp_path, 500)
    process = pack_elsewhere(split)
    end = time.monotonic() + 60
    while not list(split.parent.glob(".*.train.packed.f16")):
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert packed_files(split) == [f".{process.pid}.train.packed.f16"]
    (split.parent / ".123.valid.packed.f16").touch()  # of another split, which may be at work
    assert len(load_split(split)) == 500
    assert packed_files(split) == [".123.valid.packed.f16", *FILES]


def test_a_first_volume_that_was_packed_is_not_read_again_for_box_and_voxel_size(split):
    load_split(split)
    spoil(split.parents[1] / "data")
    assert own_preprocessing(read_rows(split), "bright") == SAME


@pytest.mark.parametrize("cell", ["0", "0.0", ""])
def test_a_voxel_size_of_0_in_the_table_is_an_unknown_one(split, cell):
    rows = pd.read_csv(split, dtype=str, keep_default_na=False)
    rows.assign(**{VOXEL_SIZE: cell}).to_csv(split, index=False)
    assert load_split(split).preprocessing.voxel_size == 10
    rows.assign(**{VOXEL_SIZE: "-1"}).to_csv(split, index=False)
    with pytest.raises(InputError, match=r"train\.csv, line 2: Voxel Size '-1'; expected a number in A"):
        load_split(split)


@pytest.fixture
def whole(split):
    """A folder of three CSV files: two volumes in train, two in valid, and one of another class in unseen."""
    header, *rows = split.read_text().splitlines()
    parts = {"train": rows[:2], "valid": rows[2:4], "unseen": [rows[4].replace(",0,003,a,", ",-1,003,z,")]}
    for part, lines in parts.items():
        (split.parent / f"{part}.csv").write_text("\n".join([header, *lines]) + "\n")
    return split.parent


def check(folder: Path) -> list[str]:
    return check_split.bad_volumes([read_rows(folder / f"{part}.csv") for part in ("train", "valid", "unseen")])


def test_after_a_check_training_reads_no_volume(whole):
    assert check(whole) == []
    assert {path.name for path in whole.glob("*.f16")} == {
        f"{part}.packed.f16" for part in ("train", "valid", "unseen")
    }
    spoil(whole.parent / "data")
    for part, count in (("train", 2), ("valid", 2), ("unseen", 1)):
        assert len(load_split(whole / f"{part}.csv")) == count
    assert check(whole) == []


def test_a_check_names_all_bad_volumes_and_packs_the_files_without_one(whole):
    data = whole.parent / "data"
    write_volume(data / "v0.mrc", np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32), 20.0)
    write_volume(data / "v2.mrc", np.ones((BOX,) * 3, dtype=np.float32), 20.0)
    (data / "v3.mrc").write_bytes(b"")
    problems = check(whole)
    named = [problem.partition(": ")[0].rpartition("/")[2] for problem in problems]
    assert named == ["v1.mrc", "v2.mrc", "v3.mrc", "v4.mrc"]
    assert "voxels of 10 A; expected 20 A" in problems[0] and "constant" in problems[1]
    assert not list(whole.glob("*.packed.f16"))
    assert not list(whole.glob(".*.f16"))


def test_a_check_takes_the_voxel_size_of_the_table_as_training_does(whole):
    for part in ("train", "valid", "unseen"):
        rows = pd.read_csv(whole / f"{part}.csv", dtype=str, keep_default_na=False)
        rows.assign(**{VOXEL_SIZE: "20" if part == "train" else "40"}).to_csv(whole / f"{part}.csv", index=False)
    problems = check(whole)
    assert len(problems) == 3
    assert all("voxels of 40 A; expected 20 A" in problem for problem in problems)
