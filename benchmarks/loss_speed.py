"""Time the losses, forward and backward, against pytorch-metric-learning's CosFaceLoss and a plain cross entropy.

-> benchmarks/results/loss_speed.{json,md}

    python -m benchmarks.loss_speed
    python -m benchmarks.loss_speed --num-classes 10 1000 --rounds 20

All losses take turns in one run, in a new order each round; ratios are taken within a round. On the CPU the time is
that of this process on one thread, so that other work on the machine counts less.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytorch_metric_learning
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import CosFaceLoss
from torch import Tensor, nn

from benchmarks import machine, study
from common.cli import Device, choose_device, run
from loss.loss import LMCL, SoftLMCCL


@dataclass(frozen=True)
class Config:
    batch_size: int = 256  # embeddings per batch, N
    embedding_dim: int = 512  # numbers per embedding, E
    num_classes: tuple[int, ...] = (10, 1000, 100_000)  # numbers of classes to measure, C
    seconds: float = 60.0  # seconds of measuring for each number of classes
    rounds: int = 300  # most rounds for each number of classes
    seed: int = 9  # seed of embeddings, labels, weights and order
    device: Device = "auto"  # where to compute; auto is CUDA where there is one
    results: str = str(study.RESULTS / "loss_speed")  # path of the results, without the endings .json and .md


MIN_ROUNDS = 5
# name: (ours, others, limit): the sum of our times over that of the others' is to be at most the limit
GOALS = {
    "LMCL / CosFaceLoss": (("LMCL",), ("CosFaceLoss",), 1.0),
    "SoftLMCCL / (CosFaceLoss + cross entropy)": (("SoftLMCCL",), ("CosFaceLoss", "cross entropy"), 1.1),
}


def main(cfg: Config) -> None:
    device = choose_device(cfg.device)
    torch.set_num_threads(1)
    results = []
    for num_classes in cfg.num_classes:
        results.append(summarise(num_classes, time_losses(cfg, num_classes, device)))
        print(table(results[-1:]), flush=True)
    content = {
        "batch_size": cfg.batch_size,
        "embedding_dim": cfg.embedding_dim,
        "seed": cfg.seed,
        **machine.record(device),
        "clock": "wall" if device.type == "cuda" else "process",
        "pytorch_metric_learning": pytorch_metric_learning.__version__,
        "results": results,
    }
    study.write_results(cfg.results, content, page(content))
    study.show(cfg.results)


def time_losses(cfg: Config, num_classes: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of forward and backward, one figure per round, by name of the loss."""
    gc.collect()
    torch.manual_seed(cfg.seed)
    order = random.Random(cfg.seed)
    embeddings = torch.randn(cfg.batch_size, cfg.embedding_dim, device=device, requires_grad=True)
    labels = torch.randint(num_classes, (cfg.batch_size,), device=device)
    steps = make_steps(embeddings, labels, num_classes)
    for step in steps.values():
        timed(step, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + cfg.seconds
    names = list(steps)
    for number in range(cfg.rounds):
        if number >= MIN_ROUNDS and time.perf_counter() > end:
            break
        order.shuffle(names)
        for name in names:
            times[name].append(timed(steps[name], device))
    return times


def make_steps(embeddings: Tensor, labels: Tensor, num_classes: int) -> dict[str, Callable[[], None]]:
    """A function for each loss that computes it and its gradients once."""
    sizes = (embeddings.shape[1], num_classes)
    lmcl = LMCL(*sizes, s=64.0, validate=False)
    soft, checked, stepped = (SoftLMCCL(*sizes, validate=validate) for validate in (False, True, False))
    cosface = CosFaceLoss(num_classes, sizes[0])
    head = nn.Linear(*sizes)
    losses = {
        "LMCL": (lmcl, lambda: lmcl(embeddings, labels).total),
        "CosFaceLoss": (cosface, lambda: cosface(embeddings, labels)),
        "cross entropy": (head, lambda: F.cross_entropy(head(embeddings), labels)),
        "SoftLMCCL": (soft, lambda: soft(embeddings, labels).total),
        "SoftLMCCL, validate=True": (checked, lambda: checked(embeddings, labels).total),
        "SoftLMCCL and after_step": (stepped, lambda: stepped(embeddings, labels).total),
    }

    def make(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            embeddings.grad = None
            module.zero_grad()
            loss().backward()
            if module is stepped:
                module.after_step()

        return step

    return {name: make(module.to(embeddings.device), loss) for name, (module, loss) in losses.items()}


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call: of this process on the CPU, on the clock with a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def summarise(num_classes: int, times: dict[str, list[float]]) -> dict:
    """Median and quartiles of times (ms), and of the ratios that the goals are about."""
    rounds = len(next(iter(times.values())))
    ratios = {}
    for name, (ours, others, limit) in GOALS.items():
        values = [sum(times[key][i] for key in ours) / sum(times[key][i] for key in others) for i in range(rounds)]
        ratios[name] = {**spread(values), "at_most": limit}
    return {
        "num_classes": num_classes,
        "n": rounds,
        "ms": {name: spread([1e3 * value for value in values]) for name, values in times.items()},
        "ratios": ratios,
    }


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": round(middle, 4), "quartile_1": round(low, 4), "quartile_3": round(high, 4)}


def table(results: list[dict]) -> str:
    """Markdown: one row for each loss and ratio, one column for each number of classes; median (quartiles)."""
    heads = [f"C = {result['num_classes']:,} (n = {result['n']})" for result in results]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(results)]
    for name in results[0]["ms"]:
        lines.append(f"| {name}, ms | " + " | ".join(cell(result["ms"][name]) for result in results) + " |")
    for name, ratio in results[0]["ratios"].items():
        cells = " | ".join(cell(result["ratios"][name]) for result in results)
        lines.append(f"| **{name}**, goal {ratio['at_most']} | {cells} |")
    return "\n".join(lines) + "\n"


def cell(value: dict[str, float]) -> str:
    median, low, high = (
        f"{value[key]:,.0f}" if value[key] >= 100 else f"{value[key]:.3g}"
        for key in ("median", "quartile_1", "quartile_3")
    )
    return f"{median} ({low}-{high})"


def page(content: dict) -> str:
    """The table with what it was measured on."""
    return (
        "# Speed of the losses\n\n"
        f"Forward + backward, float32, N = {content['batch_size']}, E = {content['embedding_dim']}; "
        f"{machine.text(content)}; {content['clock']} time, "
        f"pytorch-metric-learning {content['pytorch_metric_learning']}. Median (quartiles) of n interleaved rounds; "
        "ratios within a round. `python -m benchmarks.loss_speed`\n\n" + table(content["results"])
    )


if __name__ == "__main__":
    run(main, Config, __doc__)
