"""Volumes embedded in a stream: the same as all at once, gone on with after a kill, and shared among processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import mrcfile
import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import REPOSITORY
from common.files import LOCK_FILE
from common.group import Group
from loader.prepare import Preprocessing, prepare
from model import embed, load_model
from prediction import reading
from prediction.inputs import find_inputs
from prediction.parts import MEASURES, Embedded, Parts, fingerprint
from prediction.reading import read_batches
from prediction.stream import Work, embed_inputs
from tests.scripts import call_script

CPU = torch.device("cpu")
COUNT, SIDE = 150, 16
LIMIT_S = 120


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack of particles-like noise; volume 7 is constant."""
    path = tmp_path_factory.mktemp("stack") / "TS_01.mrcs"
    volumes = np.random.default_rng(0).normal(size=(COUNT, SIDE, SIDE, SIDE)).astype(np.float32)
    volumes[:, 6:10, 6:10, 6:10] += np.linspace(0, 3, COUNT)[:, None, None, None]
    volumes[6] = 1
    with mrcfile.new(path) as mrc:
        mrc.set_data(volumes)
        mrc.voxel_size = 20.0
    return path


@pytest.fixture(scope="module")
def network(trained):
    return load_model(trained / "model_save" / "checkpoint.pt", CPU)[0]


def work(stack, batch_size: int) -> Work:
    return Work(find_inputs([str(stack)]), Preprocessing(SIDE, 20.0), batch_size)


def parts(folder, work: Work, **settings) -> Parts:
    made = Parts(folder / "parts", fingerprint(work.inputs, work.preprocessing, __file__, settings))
    made.open()
    return made


def test_parts_are_whole_batches_and_hold_every_volume_once(stack):
    for batch_size in (1, 4, 7, 100, 1000):
        given = work(stack, batch_size)
        batches = [given.batches(number) for number in range(given.parts)]
        assert [row for part in batches for batch in part for row in batch] == list(range(COUNT))
        assert all(len(batch) == batch_size for part in batches for batch in part if batch.stop < COUNT)


def test_batches_come_in_order_with_what_could_not_be_read(stack):
    given = work(stack, 4)
    batches = list(read_batches(given.inputs, given.batches(0) + given.batches(1), given.preprocessing))
    assert [list(batch.rows) for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [bool(reason) for reason in batches[1].reasons] == [False, False, True, False]
    assert "constant" in batches[1].reasons[2] and not batches[1].images[2].any()
    expected = prepare(given.inputs[5], given.preprocessing)
    np.testing.assert_array_equal(batches[1].images[1, 0], expected.image.astype(np.float16))
    for name in MEASURES:
        assert getattr(batches[1], name)[1] == getattr(expected, name)


def test_of_many_volumes_the_skewness_of_evenly_spread_ones_is_told(stack, monkeypatch):
    monkeypatch.setattr(reading, "SKEWED", COUNT // 3)
    given = work(stack, 4)
    spans = [span for number in range(given.parts) for span in given.batches(number)]
    found = np.concatenate([batch.skewness for batch in read_batches(given.inputs, spans, given.preprocessing)])
    expected = [row for row in range(0, COUNT, COUNT // (COUNT // 3)) if row != 6]
    assert np.flatnonzero(~np.isnan(found)).tolist() == expected


def test_a_stream_gives_what_all_volumes_at_once_give(stack, network, tmp_path):
    given = work(stack, 4)
    found = embed_inputs(network, given, parts(tmp_path, given), Group(), CPU)
    rows = [row for row in range(COUNT) if row != 6]
    volumes = [prepare(given.inputs[row], given.preprocessing) for row in rows]
    images = torch.from_numpy(np.stack([volume.image for volume in volumes]).astype(np.float16))[:, None]
    np.testing.assert_allclose(found.embeddings, embed(network, images, CPU), atol=1e-5)
    for name in MEASURES:
        np.testing.assert_allclose(getattr(found, name), [getattr(volume, name) for volume in volumes])
    assert list(found.rows) == rows and list(found.failed) == [6] and found.notes == Counter()


def test_a_stream_that_goes_on_embeds_only_what_is_missing(stack, network, tmp_path, capsys):
    given = work(stack, 4)
    kept = parts(tmp_path, given)
    first = embed_inputs(network, given, kept, Group(), CPU)
    for number in (1, 5):
        (kept.folder / f"part_{number:06d}.npz").unlink()
    times = {path: path.stat().st_mtime_ns for path in kept.folder.glob("part*")}
    again = parts(tmp_path, given)
    second = embed_inputs(network, given, again, Group(), CPU)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)
    assert second.failed == first.failed and list(second.rows) == list(first.rows)
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    assert f"goes on after {COUNT - 8} of {COUNT} volumes" in capsys.readouterr().out


def test_parts_of_other_files_settings_or_weights_are_not_taken(stack, tmp_path):
    given = work(stack, 4)
    record = fingerprint(given.inputs, given.preprocessing, stack, {"batch_size": 4})
    kept = Parts(tmp_path / "parts", record)
    assert not kept.open()
    kept.save(0, Embedded(np.arange(4), np.ones((4, 2), np.float32), np.zeros(4), np.zeros(4), np.ones(4)))
    assert not Parts(kept.folder, json.loads(json.dumps(record))).open() and kept.has(0)

    state = os.stat(stack)
    os.utime(stack, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    others = [
        fingerprint(given.inputs, given.preprocessing, stack, {"batch_size": 4}),
        record | {"batch_size": 8},
        fingerprint(given.inputs.take(slice(0, 4)), given.preprocessing, stack, {"batch_size": 4}),
        fingerprint(given.inputs, Preprocessing(SIDE, 20.0, "dark"), stack, {"batch_size": 4}),
        fingerprint(given.inputs, given.preprocessing, __file__, {"batch_size": 4}),
    ]
    os.utime(stack, ns=(state.st_atime_ns, state.st_mtime_ns))
    for other in others:
        kept = Parts(tmp_path / "parts", record)
        kept.open()
        kept.save(0, Embedded(np.arange(4), np.ones((4, 2), np.float32), np.zeros(4), np.zeros(4), np.ones(4)))
        assert Parts(kept.folder, other).open()
        assert not kept.has(0)


def results(folder) -> tuple[pd.DataFrame, np.ndarray]:
    """predictions.csv and the embeddings."""
    folder = folder / "results" / "model_save-checkpoint" / "predict"
    with np.load(folder / "embeddings.npz") as kept:
        return pd.read_csv(folder / "predictions.csv", dtype=str), kept["embeddings"]


def options(trained, stack) -> list[str]:
    return [
        str(trained / "model_save" / "checkpoint.pt"),
        str(stack),
        "--batch-size",
        "1",
        "--device",
        "cpu",
        "--no-page",
    ]


def command(trained, stack, *before: str) -> list[str]:
    return [sys.executable, *before, str(REPOSITORY / "predict.py"), *options(trained, stack)]


@pytest.fixture(scope="module")
def whole(trained, stack, tmp_path_factory):
    """The results of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = call_script("predict.py", *options(trained, stack), cwd=folder)
    assert done.returncode == 3, done.stderr
    return results(folder)


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_results(trained, stack, whole, tmp_path):
    process = subprocess.Popen(command(trained, stack), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kept = tmp_path / "results" / "model_save-checkpoint" / "predict" / "parts"
    end = time.monotonic() + LIMIT_S
    while not (kept / "part_000010.npz").exists() and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (kept.parent / "predictions.csv").exists()
    begun = len([*kept.glob("part*")])
    assert 10 < begun < COUNT // 2
    done = subprocess.run(command(trained, stack), cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 3, done.stderr
    assert f"goes on after {2 * begun} of {COUNT} volumes" in done.stdout
    table, embeddings = results(tmp_path)
    pd.testing.assert_frame_equal(table, whole[0])
    np.testing.assert_array_equal(embeddings, whole[1])
    assert not kept.exists()


def test_a_second_call_with_the_same_results_is_refused_and_the_first_loses_nothing(trained, stack, whole, tmp_path):
    first = subprocess.Popen(command(trained, stack), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kept = tmp_path / "results" / "model_save-checkpoint" / "predict" / "parts"
    end = time.monotonic() + LIMIT_S
    while not (kept / "part_000005.npz").exists() and time.monotonic() < end:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert 5 < len(before) < COUNT // 2
    second = subprocess.run(
        [*command(trained, stack), "--batch-size", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S
    )
    after = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    other = call_script("predict.py", *options(trained, stack), "--name", "other", cwd=tmp_path)
    first.send_signal(signal.SIGCONT)
    first.communicate()
    (line,) = second.stderr.splitlines()
    assert second.returncode == 2 and not second.stdout and after == before
    assert f"process {first.pid} on" in line and "--name" in line
    assert first.returncode == 3 and other.returncode == 3
    table, embeddings = results(tmp_path)
    pd.testing.assert_frame_equal(table, whole[0])
    np.testing.assert_array_equal(embeddings, whole[1])
    assert not (kept.parent / LOCK_FILE).exists()


def test_two_processes_share_the_work_and_one_speaks(trained, stack, whole, tmp_path):
    torchrun = command(trained, stack, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode != 0 and "exitcode  : 3" in done.stderr  # volume 7
    assert done.stdout.count("written: ") == 1
    table, embeddings = results(tmp_path)
    pd.testing.assert_frame_equal(table.drop(columns="Score"), whole[0].drop(columns="Score"))
    np.testing.assert_allclose(embeddings, whole[1], atol=1e-5)
