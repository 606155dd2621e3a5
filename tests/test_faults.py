"""Bad volumes, tables and checkpoints: read rightly, or refused in one line, and nothing else comes of them."""

import gzip
import os
import pickle
import struct
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
import zarr

from benchmarks import bad_volumes, faults
from common.cli import REPOSITORY, InputError
from loader.tomogram import read_header
from loader.volume import read_volume
from model import CONTENT, load_checkpoint, load_model


def judged(found):
    """The failures among cases, and how many cases of each outcome there are."""
    found = list(found)
    wrong = [(kind, case.outcome, case.said) for kind, case in found if case.outcome not in faults.GOOD]
    return wrong, Counter(case.outcome for _, case in found)


def test_volumes_of_every_kind_and_500_fuzzed_ones_are_read_rightly_or_refused_in_one_line(tmp_path):
    wrong, counts = judged(faults.volumes(tmp_path, np.random.default_rng(1), 500))
    assert not wrong
    assert min(counts["read"], counts["refused in one line"]) > 300


def test_250_tables_of_every_kind_are_read_or_refused_in_one_line(tmp_path):
    wrong, counts = judged(faults.tables(tmp_path, np.random.default_rng(1), 250))
    assert not wrong
    assert min(counts["read"], counts["refused in one line"]) > 50


def test_a_case_that_is_read_wrong_or_slow_or_ends_in_a_traceback_counts_as_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"

    def fails(error):
        def read():
            raise error

        return faults.judge(read, path).outcome

    assert fails(InputError(f"{path}: holds 1; expected 2")) == "refused in one line"
    assert fails(InputError("holds 1; expected 2")) == fails(InputError(f"{path}: holds", ["1"])) == faults.OUTCOMES[4]
    assert fails(KeyError("x")) == "traceback"
    assert faults.judge(lambda: 1, path, lambda found: found == 2).outcome == "wrong"
    assert faults.judge(lambda: np.ones(2**23), path).outcome == "too much memory"
    monkeypatch.setattr(faults, "SLOW_S", 0.0)
    assert faults.judge(lambda: 1, path).outcome == "slow"


def test_a_compressed_file_whose_check_sum_is_wrong_is_refused(tmp_path):
    packed = bytearray(gzip.compress(bad_volumes.mrc_bytes(np.ones((4, 4, 4)), bad_volumes.Layout())))
    packed[-8] ^= 1
    (tmp_path / "a.mrc.gz").write_bytes(packed)
    with pytest.raises(InputError, match=r"a\.mrc\.gz: not a readable MRC file \(its compressed data are damaged"):
        read_volume(tmp_path / "a.mrc.gz")


def test_a_header_that_claims_2_to_the_31_voxels_allocates_nothing_for_them(tmp_path):
    content = bytearray(bad_volumes.mrc_bytes(np.ones((4, 4, 4)), bad_volumes.Layout()))
    struct.pack_into("<3i", content, 0, 2048, 1024, 1024)
    for name, packed in (("a.mrc", bytes(content)), ("a.mrc.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(packed)
        tracemalloc.start()
        with pytest.raises(InputError, match="its header claims 8,589,935,616 bytes"):
            read_volume(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**21
        tracemalloc.stop()


class Creates:
    """Unpickled by a careless reader, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path):
    trap = tmp_path / "trap"
    for save in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        save(dict.fromkeys(CONTENT) | {"epoch": Creates(trap)}, tmp_path / "c.pt")
        with pytest.raises(InputError, match=r"c\.pt: not a checkpoint of train\.py, or damaged"):
            load_checkpoint(tmp_path / "c.pt")
        assert not trap.exists()


def rewritten(path, key, **values):
    """The shipped checkpoint with other values in one of its dictionaries; with none it is no dictionary at all."""
    content = torch.load(REPOSITORY / "pretrained" / "universal.pt", weights_only=True)
    torch.save(content | {key: content[key] | values if values else 7}, path)
    return path


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("state_dict", {}, "its state_dict is a int; expected a dictionary"),
        ("calibration", {}, "its calibration is a int; expected a dictionary"),
        ("classes", {}, "its classes are 7; expected a list of names"),
        ("config", {"backbone": "resnet"}, "its weights do not fit its own configuration"),
        ("config", {"width": 10**6}, "its weights do not fit its own configuration"),
        ("state_dict", {"embedding.0.weight": torch.full((2, 2), np.nan)}, "holds NaN or infinity"),
        ("state_dict", {"embedding.0.weight": torch.zeros(1).expand(2**40)}, "claims 1,099,511,627,776 numbers"),
    ],
)
def test_a_checkpoint_that_lies_of_its_content_is_refused_before_it_costs_memory(tmp_path, key, values, message):
    with pytest.raises(InputError, match=rf"c\.pt: .*{message}"):
        load_model(rewritten(tmp_path / "c.pt", key, **values), torch.device("cpu"))


def test_a_checkpoint_that_ends_early_is_refused_wherever_it_ends(tmp_path):
    content = (REPOSITORY / "pretrained" / "universal.pt").read_bytes()
    for end in (0, 1, 100, len(content) // 2, len(content) - 10):
        (tmp_path / "c.pt").write_bytes(content[:end])
        with pytest.raises(InputError, match=r"c\.pt: not a checkpoint of train\.py, or damaged"):
            load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize("inside", ["../other.zarr/0", "/etc", "", "..", None, 5])
def test_a_zarr_image_reads_nothing_outside_of_its_folder(tmp_path, inside):
    for name, level in (("other.zarr", "0"), ("a.zarr", inside)):
        group = zarr.open_group(tmp_path / name, mode="w", zarr_format=2)
        group.create_array("0", data=np.ones((4, 4, 4), np.float32))
        scale = [{"type": "scale", "scale": [10, 10, 10]}]
        levels = [{"path": level, "coordinateTransformations": scale}]
        axes = [{"name": axis, "unit": "angstrom"} for axis in "zyx"]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": levels}]
    assert read_header(tmp_path / "other.zarr")[0] == (4, 4, 4)
    with pytest.raises(InputError, match=r"a\.zarr: not a readable OME-Zarr image"):
        read_header(tmp_path / "a.zarr")
