"""How many subtomograms per second does the simulator make? With poses, with neighbours, as files.

-> benchmarks/results/simulation_speed_<device>.{json,md}

    python -m benchmarks.simulation_speed                  # this machine's cores
    python -m benchmarks.simulation_speed --device cuda

On a CPU that others use too, the rate per second of processor time says more than the rate per second.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import machine, study
from common.cli import Device, choose_device, run
from common.machine import processors
from physics.grid import Grid
from physics.imaging import Imaging
from simulation.particles import DataSet
from simulation.simulator import Simulator
from simulation.structures import load_densities, procedural_name


@dataclass(frozen=True)
class Config:
    box: int = 32  # side of a volume, voxels
    seconds: float = 5.0  # seconds of measuring for each line of the table
    batch: int = 16  # volumes at once on the CPU, in each thread
    cuda_batch: int = 512  # volumes at once on a CUDA device
    classes: int = 10  # number of procedural complexes that are imaged
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = str(study.RESULTS / "simulation_speed")  # path of the results, without device and endings


SNR = 0.05


def main(cfg: Config) -> None:
    """Measure and print."""
    device = choose_device(cfg.device)
    on_cpu = device.type == "cpu"
    threads, batch = (processors(), cfg.batch) if on_cpu else (1, cfg.cuda_batch)
    torch.set_num_threads(1)
    names = tuple(procedural_name(index) for index in range(cfg.classes))
    densities = load_densities(names, "", Grid(cfg.box, 10.0, 20.0)).to(device)
    imaging = Imaging()
    settings = {
        "pose + CTF + wedge + noise": imaging,
        "the same, defocus drawn": replace(imaging, defocus=(4.0, 6.0)),
        "the same, box padded to twice": replace(imaging, padding=2.0),
        "the same, 4 neighbours": replace(imaging, neighbours=4),
        "the same, a view every 3 degrees": replace(imaging, tilt_step=3.0),
    }
    measured_on = {**machine.record(device), "threads": threads}
    jobs = {"CTF + wedge + noise": filtering(Simulator(densities, imaging), batch)}
    jobs |= {label: whole(Simulator(densities, setting), batch) for label, setting in settings.items()}
    rates = {}
    for label, job in jobs.items():
        print(f"measuring: {label}", flush=True)
        rates[label] = measure(job, batch, threads, cfg.seconds)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        data = DataSet(Path(folder), names, Simulator(densities, imaging), 9, (0.03, SNR, float("inf")))
        rates["files: 3 SNRs with masks"] = measure(files(data, batch), 3 * batch, threads, cfg.seconds)
    content = {**measured_on, "box": cfg.box, "batch": batch, "seconds": cfg.seconds, "volumes": rates}
    stem = f"{cfg.results}_{device.type}"
    study.write_results(stem, content, page(content))
    study.show(stem)


def filtering(simulator: Simulator, batch: int) -> Callable[[int], None]:
    """CTF, wedge and noise of densities that are posed already."""
    labels = torch.arange(batch, device=simulator.device) % len(simulator.fine)
    poses, _ = simulator.draw(labels, None)
    posed = simulator.pose(labels, poses)

    def job(seed: int) -> None:
        generator = torch.Generator(simulator.device).manual_seed(seed)
        target, spectrum = simulator.filters(poses.defocus)
        signal = simulator.signal(posed, target)
        white = simulator.white(batch, generator)
        signal + simulator.noise_level(signal, SNR) * simulator.noise(white, spectrum)

    return job


def whole(simulator: Simulator, batch: int) -> Callable[[int], None]:
    """Everything, as training in the loop draws it."""
    labels = torch.arange(batch, device=simulator.device) % len(simulator.fine)
    snr = torch.full((batch,), SNR, device=simulator.device)
    return lambda seed: simulator(labels, snr, torch.Generator(simulator.device).manual_seed(seed)) and None


def files(data: DataSet, batch: int) -> Callable[[int], None]:
    """Batches of particles, written at three SNRs with their masks, over the same few names."""
    return lambda seed: data.make(seed % len(data.names), range(batch), batch)


def measure(job: Callable[[int], None], batch: int, threads: int, seconds: float) -> dict[str, float]:
    """Volumes per second of all threads, and of one thread's processor time; the first calls do not count."""
    cuda = torch.cuda.is_available()

    def repeat(thread: int) -> tuple[int, float, float]:
        with torch.inference_mode():
            job(thread)
            if cuda:
                torch.cuda.synchronize()
            start, cpu_start, count = time.perf_counter(), time.thread_time(), 0
            while time.perf_counter() - start < seconds:
                count += 1
                job(threads * count + thread)
                if cuda:
                    torch.cuda.synchronize()
            return count * batch, time.perf_counter() - start, time.thread_time() - cpu_start

    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(repeat, range(threads)))
    return {
        "per_second": sum(count / took for count, took, _ in done),
        "per_cpu_second": sum(count for count, _, _ in done) / sum(cpu for _, _, cpu in done),
    }


def page(content: dict) -> str:
    """The table with what it was measured on."""
    rows = [
        (label, f"{rate['per_second']:,.0f}", f"{rate['per_cpu_second']:,.0f}")
        for label, rate in content["volumes"].items()
    ]
    lines = [
        "# Speed of the simulator",
        "",
        f"Volumes of {content['box']}^3 voxels, {content['batch']} at once, {content['seconds']:g} s per line; "
        f"{machine.text(content)}. "
        "`python -m benchmarks.simulation_speed`",
        "",
        *study.markdown_table(["", "volumes/s", "volumes/s of processor time"], rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
