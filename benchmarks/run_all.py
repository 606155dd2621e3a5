"""Every measurement that wants a GPU, the most valuable first, in the minutes that there are.

    python -m benchmarks.run_all --device cuda --minutes 25 --structures structures
    python -m benchmarks.run_all --device cpu --minutes 60 --only speed simulation

Each job is a process; when the time is over it is asked to stop (SIGTERM), and what it has written stays. Called again,
finished jobs are left out and the first unfinished one goes on where it stopped. <work-dir>/run_all.json says what is
done; the logs lie beside it, the results in <results-dir>.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.runs import RESULTS, machine
from common.cli import REPOSITORY, InputError, choose_device, run
from common.files import write_json

LEAST_SECONDS = 30  # that a job is begun with
GRACE_SECONDS = 30  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Config:
    minutes: float = 25.0  # for everything
    structures: str = ""  # folder of the benchmark's coordinate files; empty for procedural complexes
    work_dir: str = "bench"  # folder for data, runs and logs
    results_dir: str = str(RESULTS)  # folder of the results
    only: tuple[str, ...] = ()  # names of jobs; empty for all
    device: str = "auto"  # auto, cpu or cuda


def jobs(cfg: Config, device: torch.device) -> dict[str, list[str]]:
    """name -> command, in the order of their worth."""
    where = ["--device", device.type]
    data = ["--structures", str(Path(cfg.structures).absolute())] if cfg.structures else []
    quick = [] if device.type == "cuda" else ["--quick"]
    batch = ["--batch-size", "256", "--volumes", "8192"] if device.type == "cuda" else ["--batch-size", "64"]
    results, work = Path(cfg.results_dir).absolute(), Path(cfg.work_dir).absolute()

    def module(name: str, *options: str) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.{name}", *options, *where]

    def study(name: str, *options: str) -> list[str]:
        place = ["--work-dir", str(work / name), "--results", str(results / f"{name}{'_quick' if quick else ''}")]
        return module(name, *place, *data, *quick, *options)

    return {
        "tests": [sys.executable, "-m", "pytest", "-q", "tests/test_cuda.py", "tests/test_loss_behaviour.py"],
        "speed": module("speed", *batch, "--results", str(results / "speed")),
        "simulation": module("simulation_speed", "--results", str(results / "simulation_speed")),
        "loss_speed": module("loss_speed", "--results", str(results / f"loss_speed_{device.type}")),
        "class_diversity": study("class_diversity"),
        "select_score": study("select_score"),
        "losses": study("losses"),
        "recipes": study("recipes"),
    }


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    end = time.monotonic() + 60 * cfg.minutes
    work = Path(cfg.work_dir)
    todo = jobs(cfg, device)
    unknown = sorted({*cfg.only} - {*todo})
    if unknown:
        raise InputError(f"--only {' '.join(unknown)}: expected some of {', '.join(todo)}")
    record = work / "run_all.json"
    done = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for name, command in todo.items():
        if cfg.only and name not in cfg.only:
            continue
        if done.get(name, {}).get("command") == command and done[name]["state"] == "done":
            print(f"{name}: done before")
            continue
        left = end - time.monotonic()
        if left < LEAST_SECONDS:
            print(f"{name}: no time left")
            continue
        print(f"{name}: at most {left / 60:.0f} min", flush=True)
        started = time.monotonic()
        state = execute(command, work / f"{name}.log", left)
        seconds = round(time.monotonic() - started)
        done[name] = {"state": state, "seconds": seconds, "command": command, **machine(device)}
        write_json(record, done)
        print(f"{name}: {state} after {seconds} s; log {work / f'{name}.log'}", flush=True)
    print(f"written: {record}")


def execute(command: list[str], log: Path, seconds: float) -> str:
    """Run a command in the repository, its output into `log`: `done`, `failed`, or `stopped` when its time was over."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            stop(process)
            return "stopped"
        except BaseException:
            stop(process)
            raise


def stop(process: subprocess.Popen) -> None:
    """End a job with all that it has started: SIGTERM, and SIGKILL to what is left after a while."""
    end = time.monotonic() + GRACE_SECONDS
    sent = signal.SIGTERM
    while True:
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            break
        process.poll()
        sent = signal.SIGKILL if time.monotonic() > end else 0  # 0 asks whether anyone is left
        time.sleep(0.1)
    process.wait()


if __name__ == "__main__":
    run(main, Config, __doc__)
