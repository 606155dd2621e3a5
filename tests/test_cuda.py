"""What only a GPU shows; on the CPU the rest of the tests hold."""

import subprocess
import sys

import pytest
import torch

import train
from common.group import Group
from loader.dataset import load_split
from model import embed, load_checkpoint, load_model
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_name
from tests.scripts import LIMIT_S, REPOSITORY, SMALL_RUN, small
from training.batches import FileBatches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    "options",
    [{}, {"compile": True}, {"ema": 0.9, "accumulate": 2, "noise": 0.3, "rotate": True}, {"upsample": 2}],
    ids=["plain", "compiled", "everything", "enlarged"],
)
def test_training_runs_in_bfloat16_and_its_checkpoint_serves_the_cpu(copy, options):
    train.main(small(copy, epochs=3, device="cuda", **options))
    saved = load_checkpoint(copy / "model_save" / "last.pt")
    assert all(value.isfinite().all() for value in saved["state_dict"].values())
    images = load_split(copy / "csv_split" / "valid.csv").images
    embeddings = [
        embed(load_model(copy / "model_save" / "checkpoint.pt", torch.device(device))[0], images, torch.device(device))
        for device in ("cpu", "cuda")
    ]
    assert abs((embeddings[0] * embeddings[1]).sum(axis=1) - 1).max() < 1e-3


def test_online_training_simulates_on_the_device(copy):
    options = {"simulate_online": True, "auxiliary": 4, "data_dir": str(copy / "data_"), "online_tilt": (50.0, 60.0)}
    train.main(small(copy, epochs=2, device="cuda", **options))
    assert load_checkpoint(copy / "model_save" / "last.pt")["epoch"] == 2


def test_a_stream_is_kept_and_drawn_on_the_device(copy):
    options = {"simulate_online": True, "auxiliary": 4, "data_dir": str(copy / "data_"), "online_imaging": "random"}
    options |= {"online_renewal": 0.25, "online_stock": 64, "online_junk": 0.3}
    train.main(small(copy, epochs=2, device="cuda", **options))
    assert load_checkpoint(copy / "model_save" / "last.pt")["epoch"] == 2


def test_volumes_that_fit_are_packed_on_the_device_and_give_the_same_batches(copy):
    split = load_split(copy / "csv_split" / "train.csv")
    placed = split.on_device(CUDA)
    assert placed.images.is_cuda and "on cuda" in placed.place
    assert split.on_device(CUDA, share=1e-9).images.device.type == "cpu"
    cfg = small(copy)
    there, here = (FileBatches(cfg, each, CUDA, Group()).batch(0, 1) for each in (placed, split))
    assert torch.equal(there[0], here[0]) and torch.equal(there[1], here[1])
    cpu = FileBatches(cfg, split, torch.device("cpu"), Group()).batch(0, 1)[0]
    torch.testing.assert_close(there[0].cpu(), cpu)


def test_the_simulator_makes_the_same_signal_and_noise_on_both_devices():
    densities = load_densities(tuple(procedural_name(index) for index in range(2)), "", Grid(16, 20.0, 20.0))
    labels = torch.tensor([0, 1, 1])
    on_cpu = Simulator(densities, Imaging(voxel_size=20.0))
    poses, _ = on_cpu.draw(labels, torch.Generator().manual_seed(0))
    white = on_cpu.white(3, torch.Generator().manual_seed(1))
    volumes, noises = [], []
    for simulator in (on_cpu, Simulator(densities.to(CUDA), Imaging(voxel_size=20.0))):
        moved = type(poses)(*(part.to(simulator.device) for part in poses))
        target, spectrum = simulator.filters(moved.defocus)
        noises.append(simulator.noise(white.to(simulator.device), spectrum).cpu())
        volumes.append(simulator.signal(simulator.pose(labels.to(simulator.device), moved), target).cpu())
    torch.testing.assert_close(volumes[0], volumes[1], rtol=1e-3, atol=1e-3 * float(volumes[0].abs().max()))
    torch.testing.assert_close(noises[0], noises[1], rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_synchronised_batch_normalisation_sees_the_whole_batch(workspace, tmp_path):
    script = [str(REPOSITORY / "train.py"), *SMALL_RUN, "--epochs", "1", "--csv-dir", str(workspace / "csv_split")]
    script += ["--no-bfloat16"]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *script, "--sync-batchnorm"]
    kept = []
    for name, command in (("alone", script), ("together", together)):
        command = [sys.executable, *command, "--save-dir", str(tmp_path / name)]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=LIMIT_S)
        kept.append(load_checkpoint(tmp_path / name / "last.pt")["state_dict"])
    means = [name for name in kept[0] if name.endswith("running_mean")]
    assert means and kept[1].keys() == kept[0].keys()
    for name in means:
        torch.testing.assert_close(kept[1][name], kept[0][name], rtol=1e-2, atol=1e-3)
