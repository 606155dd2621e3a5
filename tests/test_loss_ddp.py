"""Every loss trains the same on two processes as on one with the same global batch.

Network and loss are wrapped together, as one module, so that the parameters of both are kept in step.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from loss.loss import LOSSES, LossTerms
from tests.scripts import on_two_processes

SGD_CENTRES = {"center_update": "sgd", "center_reduction": "mean", "center_momentum": 0.9, "center_weight": 1.0}
CASES = {name: (name, {}) for name in LOSSES}
CASES["soft_lmccl, centres by SGD"] = ("soft_lmccl", SGD_CENTRES)
CASES["soft_lmccl, a margin for each"] = ("soft_lmccl", {"m": 0.5})
CASES["soft_lmccl, bias"] = ("soft_lmccl", {"bias": True, "center_features": "raw"})
FIRST_PARTS = [6, 3]  # how many of the 12 rows the first process has
STEPS = 2


class TrainingStep(nn.Module):
    """What DistributedDataParallel is to wrap."""

    def __init__(self, model: nn.Module, criterion: nn.Module):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, inputs: Tensor, labels: Tensor, margins: Tensor | None = None) -> LossTerms:
        return self.criterion(self.model(inputs), labels, margins)


def train(case: str, first: int, accumulate: bool = False) -> list[dict[str, Tensor]]:
    """The terms, gradients, parameters and centres of each step; `first` is the size of the first process's part.

    With `accumulate` a step is made of two batches.
    """
    name, options = CASES[case]
    torch.manual_seed(0)
    criterion = LOSSES[name](8, 5, **options)
    step = TrainingStep(nn.Linear(6, 8), criterion)
    distributed = dist.is_initialized()
    module = DistributedDataParallel(step) if distributed else step
    part = slice(None)
    if distributed:
        part = slice(0, first) if dist.get_rank() == 0 else slice(first, None)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.01)
    # In this order neither process has all classes, and a part alone may hold no triplet. Class 4 is absent.
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3])
    margins = torch.linspace(0, 1, 12) if "a margin for each" in case else None
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        for last in (False, True) if accumulate else (True,):
            inputs = torch.randn(12, 6)
            with nullcontext() if last or not distributed else module.no_sync():
                terms = module(inputs[part], labels[part], None if margins is None else margins[part])
                terms.total.backward()
        gradients = {f"gradient of {key}": value.grad.clone() for key, value in step.named_parameters()}
        optimizer.step()
        criterion.after_step()
        state = {key: value.clone() for key, value in step.state_dict().items()}
        figures = {key: value.detach() for key, value in terms._asdict().items()}
        history.append({**figures, **gradients, **state})
    return history


def all_runs() -> dict:
    runs = {(case, first): train(case, first) for case in CASES for first in FIRST_PARTS}
    runs["accumulated"] = train("soft_lmccl", 6, accumulate=True)
    return runs


def job(rank: int) -> dict:
    runs = all_runs()
    if rank == 1:  # alone: would wait for ever if eval mode exchanged anything
        criterion = LOSSES["supcon"](8, 5).eval()
        runs["alone"] = criterion(torch.eye(4, 8), torch.tensor([0, 0, 1, 1])).total
    return runs


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    return on_two_processes(job, tmp_path_factory.mktemp("ddp"))


@pytest.fixture(scope="module")
def one_process() -> dict:
    return all_runs()


def check_same(one: list[dict[str, Tensor]], two: list[dict[str, Tensor]]) -> None:
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize("first", FIRST_PARTS, ids=["equal parts", "unequal parts"])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case, first, one_process, two_processes):
    for runs in two_processes:
        check_same(one_process[case, first], runs[case, first])


def test_two_processes_accumulate_as_one(one_process, two_processes):
    for runs in two_processes:
        check_same(one_process["accumulated"], runs["accumulated"])


def test_centres_do_move_on_two_processes(two_processes):
    history = two_processes[0]["soft_lmccl", 6]
    moved = history[-1]["criterion.center.centers"] - history[0]["criterion.center.centers"]
    assert (moved[:4] != 0).all()
    assert (moved[4] == 0).all()


def test_one_process_may_evaluate_alone(two_processes):
    assert two_processes[1]["alone"].isfinite()
