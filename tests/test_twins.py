"""A clean teacher: each of some volumes of a batch is drawn to another particle of its class, without noise."""

import copy as copies
import shutil
from collections import Counter

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import train
from common.cli import InputError
from common.group import Group
from loss.loss import LOSSES
from model import Conv3D, load_checkpoint
from simulation.stream import GROUP, HALF_TURNS, Stock
from tests.scripts import on_two_processes, refuse, same
from tests.test_stream import SIDE, generator, maker
from tests.test_stream_training import settings, source
from training.online import TWIN_SHARE
from training.state import TrainingStep

# ---- which particle ----


@pytest.fixture
def stock(densities):
    """64 particles of random imaging: 3 of class 0, one of class 1, the rest of class 2."""
    stock = Stock(maker(densities), 8)
    stock.advance(0)
    stock.labels[:] = 2
    stock.labels[2, 3], stock.labels[2, 5], stock.labels[7, 0], stock.labels[4, 4] = 0, 0, 0, 1
    return stock


def test_a_twin_is_any_other_particle_of_the_class_and_itself_where_there_is_no_other(stock):
    classes, often = stock.labels.flatten().tolist(), {0: Counter(), 1: Counter(), 2: Counter()}
    for seed in range(60):
        draw = stock.draw(8 * GROUP, (0.1, 0.1), 0.0, generator(seed))
        twins = stock.twins(draw, 40, generator(1000 + seed))
        assert len(twins.rows) == 40
        for row, twin in zip(draw.rows.tolist(), twins.rows.tolist(), strict=False):
            assert classes[row] == classes[twin]
            assert (row == twin) == (classes[row] == 1)
            often[classes[row]][row, twin] += 1
    of_three = {2 * GROUP + 3, 2 * GROUP + 5, 7 * GROUP}
    assert {*often[0]} == {(row, twin) for row in of_three for twin in of_three - {row}}
    assert min(often[0].values()) > 5  # of about 19 each
    assert {*often[1]} == {(4 * GROUP + 4, 4 * GROUP + 4)}
    found = Counter(twin for _, twin in often[2].elements())
    assert len(found) == 60 and max(found.values()) < 3 * min(found.values())


def test_a_twin_is_the_stored_particle_cropped_and_turned_as_its_wedge_allows(stock):
    stock.turns[:] = 4
    stock.turns[2] = 2
    draw = stock.draw(8 * GROUP, (0.1, 0.1), 0.0, generator(1))
    twins = stock.twins(draw, 8 * GROUP, generator(2))
    volumes, labels = stock.read(twins)
    assert torch.equal(labels, stock.read(draw)[1])
    signals = stock.signals.flatten(0, 1).float()
    for volume, row, turn, corner in zip(volumes, twins.rows, twins.turns, twins.corners.tolist(), strict=True):
        box = signals[row][tuple(slice(at, at + SIDE) for at in corner)]
        box = box.flip(HALF_TURNS[turn].nonzero().flatten().tolist())
        assert torch.allclose(volume[0], (box - box.mean()) / box.std(correction=0), atol=1e-4)
    of_lopsided = twins.turns[twins.rows // GROUP == 2]
    assert set(twins.turns.tolist()) == {0, 1, 2, 3} and set(of_lopsided.tolist()) <= {0, 1}
    assert set(twins.corners.flatten().tolist()) == {0, 1, 2, 3, 4}


def test_a_quarter_of_a_batch_has_twins_which_follow_from_the_step_and_leave_the_batch_as_it_is(shared):
    plain, twinned = (source(shared, online_imaging="random", clean_twin=weight) for weight in (0.0, 0.3))
    twins = twinned.twins(0, 3)
    assert twins.shape == (4, 1, 16, 16, 16) and TWIN_SHARE == 0.25
    again = source(shared, online_imaging="random", clean_twin=0.3)
    assert torch.equal(again.twins(0, 3), twins)
    for number in (3, 4):
        first, second = plain.batch(0, number), twinned.batch(0, number)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(twinned.twins(0, 4), twins)
    parts = [source(shared, Group(rank, 2), batch_size=19).twins(0, 0) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]  # of 10 and 9
    assert not torch.equal(*parts)


# ---- the term ----


def loop_twin(embeddings, twins):
    cosines = []
    for a, b in zip(embeddings.tolist(), twins.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        lengths = [sum(x**2 for x in row) ** 0.5 for row in (a, b)]
        cosines.append(dot / (lengths[0] * lengths[1]))
    return sum(1 - cosine for cosine in cosines) / len(cosines)


@pytest.mark.parametrize("name", LOSSES)
def test_the_term_is_the_mean_of_1_minus_the_cosine_and_moves_the_embeddings_alone(name):
    embeddings, twins = (torch.randn(5, 8, generator=generator(seed)).requires_grad_() for seed in (1, 2))
    term = LOSSES[name](8, 3).twin(embeddings, twins)
    assert term.item() == pytest.approx(loop_twin(embeddings, twins), rel=1e-5)
    term.backward()
    assert twins.grad is None
    a, b = embeddings.detach()[2].double(), twins.detach()[2].double()
    cosine = a @ b / (a.norm() * b.norm())
    slope = (b / b.norm() - cosine * a / a.norm()) / a.norm()  # of the cosine
    torch.testing.assert_close(embeddings.grad[2].double(), -slope / 5, rtol=1e-4, atol=1e-7)
    assert LOSSES[name](8, 3).twin(embeddings, 3 * embeddings).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](8, 3).twin(embeddings, -embeddings).item() == pytest.approx(2)


def test_a_step_adds_the_weighted_term_and_the_teacher_is_the_network_as_it_is_used():
    """Its running statistics are those of the volumes alone, and no layer is left in eval mode."""
    torch.manual_seed(0)
    model, criterion = Conv3D("resnet", 10, 4, 8), LOSSES["soft_lmccl"](8, 3)
    volumes, labels = torch.randn(6, 1, 16, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    twins = torch.randn(2, 1, 16, 16, 16)
    alone, taught = (TrainingStep(*copies.deepcopy((model, criterion)), 0.3).train() for _ in range(2))
    plain, terms = alone(volumes, labels), taught(volumes, labels, twins)
    assert len(plain) == 4 and len(terms) == 5
    assert all(torch.equal(a, b) for a, b in zip(plain[1:], terms[1:4], strict=True))
    assert terms.total.item() == pytest.approx(plain.total.item() + 0.3 * terms.twin.item(), rel=1e-6)
    assert same(alone.model.state_dict(), taught.model.state_dict())
    assert all(layer.training for layer in taught.modules())
    with torch.no_grad():
        student = copies.deepcopy(model).train()(volumes)[:2]
        teacher = alone.model.eval()(twins)
    assert terms.twin.item() == pytest.approx(loop_twin(student, teacher), rel=1e-4)
    terms.total.backward()
    assert all(parameter.grad is not None for parameter in taught.parameters())


def distributed(rank: int | None) -> dict[str, torch.Tensor]:
    """Terms and gradients of a step on 12 rows, of which the first process has 8, and 3 of the 4 twins."""
    torch.manual_seed(0)
    step = TrainingStep(nn.Linear(6, 8), LOSSES["soft_lmccl"](8, 5), 0.7)
    module = step if rank is None else DistributedDataParallel(step)
    inputs, labels, twins = torch.randn(12, 6), torch.arange(12) % 5, torch.randn(4, 6)
    order = [0, 1, 2, *range(4, 9), 3, *range(9, 12)]  # those with twins are the first of each part
    rows, own = {None: (slice(None), slice(None)), 0: (order[:8], slice(3)), 1: (order[8:], slice(3, None))}[rank]
    terms = module(inputs[rows], labels[rows], twins[own])
    terms.total.backward()
    found = {name: value.detach() for name, value in terms._asdict().items()}
    return found | {name: parameter.grad for name, parameter in step.named_parameters()}


def test_two_processes_have_the_term_of_one_with_parts_of_unlike_size(tmp_path):
    expected = distributed(None)
    assert expected["twin"] > 0.1
    for found in on_two_processes(distributed, tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name)


# ---- a run ----


def test_a_cut_off_run_with_twins_ends_with_the_same_weights_and_logs_the_term(shared, tmp_path, capsys):
    options = {"epochs": 3, "auxiliary": 4, "online_imaging": "random", "online_junk": 0.25, "clean_twin": 0.5}
    train.main(settings(shared, save_dir=str(tmp_path / "whole"), **options))
    assert " + 0.5 x twin 0." in capsys.readouterr().out
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), keep=9, **options))
    shutil.copy(tmp_path / "parts" / "checkpoint1.pt", tmp_path / "parts" / "last.pt")
    train.main(settings(shared, save_dir=str(tmp_path / "parts"), resume=True, **options))
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert same(whole["state_dict"], parts["state_dict"]) and same(whole["criterion"], parts["criterion"])
    log = pd.read_csv(tmp_path / "whole" / "log.csv")
    summed = log["softmax"] + log["margin"] + 0.003 * log["center"] + 0.5 * log["twin"]
    assert log["train_loss"].to_numpy() == pytest.approx(summed.to_numpy(), rel=1e-5)
    with pytest.raises(InputError, match=r"last\.pt: clean_twin was 0\.5, is 0\.25"):
        train.main(settings(shared, save_dir=str(tmp_path / "whole"), resume=True, **options | {"clean_twin": 0.25}))


def test_without_twins_a_run_is_as_it_was_and_with_them_it_is_another(shared, tmp_path):
    """Without, nothing is asked for beside a batch, and the log has the columns that it always had."""
    options = {"epochs": 1, "online_imaging": "random"}
    for name, weight in (("off", 0.0), ("on", 0.5)):
        train.main(settings(shared, save_dir=str(tmp_path / name), clean_twin=weight, **options))
    off, on = (load_checkpoint(tmp_path / name / "last.pt") for name in ("off", "on"))
    assert not same(off["state_dict"], on["state_dict"])
    assert "twin" not in off["metrics"]["log"][0] and len(off["progress"]["sums"]) == 4


def test_twins_of_what_is_no_stock_of_particles_are_refused_before_anything_is_read(shared, tmp_path):
    options = ("--csv-dir", "nowhere", "--save-dir", str(tmp_path / "run"), "--clean-twin")
    assert "--clean-twin: of volumes that are simulated; give --simulate-online too" in refuse(
        "train.py", *options, "0.3", cwd=shared
    )
    assert "--clean-twin -1.0: expected 0 or more" in refuse("train.py", *options, "-1", cwd=shared)
    assert "--clean-twin: of a stock of particles; give --online-renewal below 1 too" in refuse(
        "train.py", *options, "0.3", "--simulate-online", cwd=shared
    )
