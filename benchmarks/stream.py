"""What does drawing from a stock save, and what does it cost in accuracy? The stream of training volumes at renewal
rates, against drawing every particle afresh, all under imaging drawn at random.

-> benchmarks/results/stream.{json,md}, or stream_quick.{json,md}

    python -m benchmarks.stream --structures structures --quick    # the benchmark's structures, on a CPU
    python -m benchmarks.stream --structures structures            # the size for a GPU

Every network gets the same number of volumes. A renewal of 1 simulates each particle that it draws. The speed is that
of the same step on a batch that is there already over that of the step with its batch, by processor time on a CPU. A
benchmark that was cut off goes on when called again with the same options.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import tyro

import train
from benchmarks import study
from benchmarks.study import Bench, Size, Study, means_table
from common.cli import InputError, choose_device, run
from common.group import Group
from training.loop import take_step
from training.state import TrainingState
from training.stop import StopRequest

OPTIONS = {"simulate_online": True, "online_imaging": "random", "auxiliary": "300", "loss_options": "margin_weight 0.3"}
OPTIONS |= {"online_snr": "0.01 1", "online_stock": "4096"}
FULL = Size(
    {"per_class": "300", "envelope": "inf"},
    {"width": "64", "epochs": "10", "online_volumes": "100000", **OPTIONS},
)
QUICK = Size(
    {"per_class": "80", "envelope": "inf"},
    {"width": "8", "backbone": "resnet_pool", "epochs": "2", "online_volumes": "16000", **OPTIONS},
)
ENDLESS = 10**9  # batches of an epoch
COLUMNS = {
    "known accuracy": ("accuracy",),
    "pair AUC": ("valid_unseen", "auc"),
    "VAL at FAR 1e-2": ("valid_unseen", "val"),
    "rejection AUROC": ("valid_unseen", "auroc"),
    "speed": ("speed",),
}


@dataclass(frozen=True)
class Config(Study):
    renewals: tuple[float, ...] = (1.0, 0.25, 0.125, 0.0625)  # simulated particles per volume drawn; 1 for all afresh
    seconds: float = 10.0  # seconds of measuring each speed
    seeds: tuple[int, ...] = (9, 10)  # seeds of weights, order and of what is simulated


def main(cfg: Config) -> None:
    """Train and measure every renewal with every seed."""
    if not cfg.renewals or not cfg.seeds:
        raise InputError("--renewals, --seeds: expected at least one")
    classes = replace(study.class_set(cfg.structures), unseen=())
    bench = study.begin(cfg, "stream", classes, (FULL, QUICK))
    done: dict[float, list[dict]] = {}
    for seed, renewal in product(cfg.seeds, cfg.renewals):
        name = f"renewal-{renewal:g}-{seed}"
        options = {**bench.settings["train"], "online_renewal": renewal, "seed": seed}

        def job(folder: Path, options: dict = options) -> dict:
            given = {**options, **bench.simulated_from()}
            return bench.train_and_measure(folder, given) | {"speed": speed(bench, given)}

        result = bench.network(name, options, {}, job)
        done.setdefault(renewal, []).append(result)
        print(f"{name}: pair AUC {result['valid_unseen']['auc']:.3f}, speed {result['speed']:.2f}", flush=True)
        rows = [
            {"renewal": renewal, **study.over_seeds(found), "speed": study.mean_std([each["speed"] for each in found])}
            for renewal, found in done.items()
        ]
        content = bench.settings | {"rows": rows}
        study.write_results(bench.stem, content, page(content))
    study.show(bench.stem)


def speed(bench: Bench, options: dict) -> float:
    """Seconds of a step on a batch that is there over those of a step with its batch: 1 where batches cost nothing."""
    return step_seconds(bench, options, bench.cfg.seconds, given=True) / step_seconds(bench, options, bench.cfg.seconds)


def step_seconds(bench: Bench, options: dict, seconds: float, given: bool = False) -> float:
    """Seconds of a training step with the making of its batch, or on a batch that is given; measured for `seconds`."""
    words = study.arguments({**options, "csv_dir": bench.csv_dir, "device": bench.cfg.device})
    cfg = replace(tyro.cli(train.Config, args=words), schedule="decay")  # one that has no last step
    device = choose_device(cfg.device)
    rows, _, data = train.read_tables(cfg)
    batches = train.make_simulated(cfg, len(rows), data, device, Group())
    state = TrainingState(cfg, data, batches.count, device)
    state.module.train()
    batches.count = ENDLESS
    if given:
        first = batches.batch(0, 0)
        batches.batch = lambda epoch, number: first
    return measure(lambda: take_step(state, batches, StopRequest()), seconds)


def measure(step: Callable[[], None], seconds: float) -> float:
    """Seconds of a step: of processor time where there is no GPU, as others may use the processor too."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    step()
    start, begun, count = clock(), time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        step()
        count += 1
    return (clock() - start) / count


def page(content: dict) -> str:
    """The table with what it was measured on."""
    rows = [([f"{row['renewal']:g}"], row) for row in content["rows"]]
    lines = [
        *("# The stream of training volumes", "", study.describe(content), ""),
        "Of valid_unseen.csv, pairs across all SNRs. Speed: a step on a batch that is there already over a step with "
        f"its batch. Mean ± standard deviation over seeds. `{content['command']}`",
        *("", *means_table(["simulated per volume"], COLUMNS, rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main, Config, __doc__)
