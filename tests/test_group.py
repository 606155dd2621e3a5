"""Two processes: the same gradients as one process with the same global batch, and one run under torchrun."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import train
from common import cli
from common.cli import InputError
from common.group import Group, join
from loader.dataset import Split
from loader.prepare import Preprocessing
from model import load_checkpoint
from tests.scripts import LIMIT_S, REPOSITORY, SMALL_RUN, on_two_processes
from training.batches import FileBatches
from training.loop import take_step
from training.state import TrainingSet, TrainingState
from training.stop import StopRequest

SETTINGS = {"depth": 10, "width": 4, "embedding_dim": 16, "batch_size": 10, "epochs": 1, "lr": 1e-3, "clip": 0.0}


def gradients(group: Group, **changes) -> dict[str, torch.Tensor]:
    """Of every parameter, after one step; batch normalisation in eval mode, as it would see half of the batch."""
    cfg = train.Config(**{**SETTINGS, **changes})
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(21, 1, 16, 16, 16, generator=generator).to(torch.float16)
    preprocessing = Preprocessing(16, None, tilt_range=(-60.0, 60.0))
    split = Split(images, torch.arange(21) % 3, np.zeros((21, 4)), pd.DataFrame(), preprocessing, "in memory")
    batches = FileBatches(cfg, split, torch.device("cpu"), group)
    state = TrainingState(cfg, TrainingSet(["a", "b", "c"], preprocessing), batches.count, torch.device("cpu"), group)
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


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def torchrun(script, folder):
    return subprocess.run(
        [*TORCHRUN, *script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S
    )


def stop_once(ready, script, folder):
    """SIGTERM to all processes of a longer run, as a cluster sends it, once it is `ready`; where it says it stopped."""
    said, errors = folder / "said.txt", folder / "errors.txt"
    with (
        said.open("w") as out,
        errors.open("w") as err,
        subprocess.Popen([*TORCHRUN, *script], cwd=folder, env=ENVIRONMENT, stdout=out, stderr=err) as process,
    ):
        try:
            end = time.monotonic() + LIMIT_S
            while not ready(said.read_text()):
                assert process.poll() is None and time.monotonic() < end, errors.read_text()
                time.sleep(0.01)
            workers = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
            ).stdout.split()
            for number in (*map(int, workers), process.pid):
                os.kill(number, signal.SIGTERM)
            assert process.wait(LIMIT_S) != 0
        finally:
            process.terminate()
    (place,) = re.findall("stopped after (.*), and saved", errors.read_text())
    saved = load_checkpoint(folder / "long" / "last.pt")
    step = saved["progress"]["step"]
    done = f"step {step} of 3 in epoch {saved['epoch'] + 1} of 200" if step else f"epoch {saved['epoch']} of 200"
    assert place == done
    return place


def stop_together(script, folder):
    """A run that all processes were asked to stop is saved where it says, and goes on there."""
    longer = [*script, "--epochs", "200", "--save-dir", "long"]
    place = stop_once(lambda said: (folder / "long" / "checkpoint.pt").is_file(), longer, folder)
    stop_once(lambda said: f"; goes on after {place}\n" in said, [*longer, "--resume"], folder)


def test_torchrun_trains_with_one_voice(workspace, tmp_path):
    options = [*SMALL_RUN, "--epochs", "2", "--csv-dir", str(workspace / "csv_split")]
    script = [str(REPOSITORY / "train.py"), *options]
    run = torchrun(script, tmp_path)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert sum(line.startswith("epoch 1/2") for line in lines) == 1
    assert "2 processes" in run.stdout
    saved = load_checkpoint(tmp_path / "model_save" / "last.pt")
    assert saved["epoch"] == 2
    assert saved["progress"]["steps_per_epoch"] == 3  # 36 volumes, 16 a batch, on both processes together
    assert not any(name.startswith("module.") for name in saved["state_dict"])
    stop_together(script, tmp_path)
    # a mistake is said once, and both processes end
    again = torchrun(script, tmp_path)
    assert again.returncode != 0
    assert again.stderr.count("holds a run") == 1


KEEP_DRAWN = """
import gc
import torch
import train
from torch.nn.parallel import DistributedDataParallel
from training.online import OnlineBatches

leave = torch.distributed.destroy_process_group


def leave_alone():
    assert not [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    leave()


torch.distributed.destroy_process_group = leave_alone
draw = OnlineBatches.batch


def draw_and_keep(self, epoch, number):
    volumes, labels = draw(self, epoch, number)
    torch.save(volumes, f"drawn{self.group.rank}-{number}.pt")
    return volumes, labels


OnlineBatches.batch = draw_and_keep
train.run(train.main, train.Config, None)
"""


def test_processes_under_torchrun_train_on_simulated_volumes_of_their_own(workspace, tmp_path):
    (tmp_path / "keep_drawn.py").write_text(KEEP_DRAWN)
    places = ["--csv-dir", str(workspace / "csv_split"), "--data-dir", str(workspace / "data_")]
    run = torchrun(["keep_drawn.py", *SMALL_RUN, *places, "--simulate-online", "--epochs", "1"], tmp_path)
    assert run.returncode == 0, run.stderr
    assert "32 volumes an epoch, simulated as they are needed" in run.stdout
    saved = load_checkpoint(tmp_path / "model_save" / "last.pt")
    assert (saved["epoch"], saved["progress"]["processes"]) == (1, 2)
    for number in range(2):
        parts = [torch.load(tmp_path / f"drawn{rank}-{number}.pt").flatten(1) for rank in range(2)]
        assert [len(part) for part in parts] == [8, 8]
        assert len(torch.cat(parts).unique(dim=0)) == 16


def test_a_module_ends_before_its_group_even_where_it_fails(monkeypatch):
    """Else it may wait for ever, see `join`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    modules, alive, leave = [], [], torch.distributed.destroy_process_group

    def note_and_leave():
        alive.extend(module() for module in modules)
        leave()

    def fail():
        module = DistributedDataParallel(torch.nn.Linear(2, 2))
        modules.append(weakref.ref(module))
        raise InputError("a mistake")

    monkeypatch.setattr(torch.distributed, "destroy_process_group", note_and_leave)
    with pytest.raises(InputError, match="a mistake"), join(torch.device("cpu")):
        fail()
    assert alive == [None]


@pytest.mark.parametrize(
    ("rank", "local_rank", "ended", "said"),
    [("0", "0", True, 1), ("1", "1", True, 0), ("2", "0", True, 1), ("1", "1", False, 1)],
    ids=["the first", "one beside it", "the first of another machine", "one that finds it alone"],
)
def test_a_mistake_is_said_once_a_machine(monkeypatch, capsys, rank, local_rank, ended, said):
    """torchrun ends a process that waits to speak where the first has spoken; where not, it speaks itself."""

    def wait(seconds):
        if ended:
            sys.exit("ended")

    def refuse(cfg):
        raise InputError("a mistake")

    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(time, "sleep", wait)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(SystemExit):
        cli.run(refuse, train.Config, None)
    assert capsys.readouterr().err.count("train.py: error: a mistake") == said


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_every_process_refuses_a_machine_with_too_few_gpus(monkeypatch, local_rank):
    for name, value in (
        ("RANK", local_rank),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", local_rank),
        ("LOCAL_WORLD_SIZE", "2"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend: pytest.fail("joined"))
    with (
        pytest.raises(InputError, match=r"^2 processes on a machine with 1 GPU; expected --nproc_per_node of"),
        join(torch.device("cuda")),
    ):
        pass
