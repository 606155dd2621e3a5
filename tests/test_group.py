"""Two processes: the same gradients as one process with the same global batch, and one run under torchrun."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import train
from loader.dataset import Split
from model import load_checkpoint
from tests.conftest import SMALL_RUN
from tests.scripts import LIMIT_S, REPOSITORY, on_two_processes
from training.batches import FileBatches
from training.group import Group
from training.loop import take_step
from training.run import Run
from training.stop import StopRequest

SETTINGS = {"depth": 10, "width": 4, "embedding_dim": 16, "batch_size": 10, "epochs": 1, "lr": 1e-3, "clip": 0.0}


def gradients(group: Group, **changes) -> dict[str, torch.Tensor]:
    """Of every parameter, after one step; batch normalisation in eval mode, as it would see half of the batch."""
    cfg = train.Config(**{**SETTINGS, **changes})
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(21, 1, 16, 16, 16, generator=generator).to(torch.float16)
    rows = {"tilt_range": [-60, 60], "box": 16}
    split = Split(images, torch.arange(21) % 3, np.zeros((21, 4)), pd.DataFrame(), rows, "in memory")
    batches = FileBatches(cfg, split, torch.device("cpu"), group)
    state = Run(cfg, ["a", "b", "c"], rows, batches.count, torch.device("cpu"), group)
    with torch.no_grad():  # the last batch normalisation of a block begins at 0, and stops every gradient before it
        for parameter in state.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    state.model.eval()
    stop = StopRequest()
    stop.number = 15 if group.rank else 0  # a signal that only the second process has got
    stopped = take_step(state, batches, stop)
    result = {name: parameter.grad.clone() for name, parameter in state.model.named_parameters()}
    result |= {name: parameter.grad.clone() for name, parameter in state.criterion.named_parameters()}
    return {**result, "sums": state.sums, "stopped": torch.tensor(stopped), "centres": state.criterion.center.centers}


CASES = {"whole": {}, "augmented": {"noise": 0.3, "rotate": True}, "accumulated": {"batch_size": 5, "accumulate": 2}}


def job(rank: int) -> dict:
    return {name: gradients(Group(rank, 2), **changes) for name, changes in CASES.items()}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return on_two_processes(job, tmp_path_factory.mktemp("group"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_one(two_processes, case):
    alone = gradients(Group(), **CASES[case])
    assert not alone.pop("stopped")
    for process in two_processes:
        together = process[case]
        assert together.pop("stopped") == 15  # both know of the signal that one of them has got
        assert together.keys() == alone.keys()
        assert all(value.abs().max() > 0 for name, value in alone.items())
        for name, value in alone.items():
            torch.testing.assert_close(
                together[name], value, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n} {text}"
            )


def stop_together(command, script, folder, environment):
    """SIGTERM to all, as a cluster sends it, in a longer run: it is saved, and goes on."""
    longer = [*script, "--epochs", "200", "--save-dir", "long"]
    with subprocess.Popen(
        [*command, *longer], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        end = time.monotonic() + LIMIT_S
        while not (folder / "long" / "checkpoint.pt").is_file():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        workers = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        for number in (*map(int, workers), process.pid):
            os.kill(number, signal.SIGTERM)
        assert "and saved" in process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode != 0
    saved = load_checkpoint(folder / "long" / "last.pt")
    assert saved["progress"]["step"] > 0 or saved["epoch"] >= 1


def test_torchrun_trains_with_one_voice(workspace, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = [*SMALL_RUN, "--epochs", "2", "--csv-dir", str(workspace / "csv_split")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = [str(REPOSITORY / "train.py"), *options]
    run = subprocess.run(
        [*command, *script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert sum(line.startswith("epoch 1/2") for line in lines) == 1
    assert "2 processes" in run.stdout
    saved = load_checkpoint(tmp_path / "model_save" / "last.pt")
    assert saved["epoch"] == 2
    assert saved["progress"]["steps_per_epoch"] == 3  # 36 volumes, 16 a batch, on both processes together
    assert not any(name.startswith("module.") for name in saved["state_dict"])
    stop_together(command, script, tmp_path, environment)
    # a mistake is said once, and both processes end
    again = subprocess.run(
        [*command, *script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert again.returncode != 0
    assert again.stderr.count("holds a run") == 1
