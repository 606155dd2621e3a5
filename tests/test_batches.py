from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from common.cli import InputError
from common.group import Group
from loader.dataset import Split
from loader.prepare import Preprocessing
from training.batches import FileBatches, epoch_order

DEVICE = torch.device("cpu")
PLAIN = {"batch_size": 8, "class_samples": 0, "half_turns": False, "shift": 0, "noise": 0.0, "rotate": False, "seed": 3}


def split(n=22, tilts=(-60, 60)):
    """A split whose volume number i is i everywhere, but for a gradient."""
    ramp = torch.linspace(0, 0.5, 4)[:, None, None].expand(4, 4, 4)
    images = (torch.arange(n)[:, None, None, None] + ramp)[:, None].to(torch.float16)
    preprocessing = Preprocessing(4, None, tilt_range=tilts)
    return Split(images, torch.arange(n) % 3, np.zeros((n, 4)), pd.DataFrame(), preprocessing, "in memory")


def batches(group=None, n=22, **changes):
    return FileBatches(SimpleNamespace(**{**PLAIN, **changes}), split(n), DEVICE, group or Group())


def epoch(source, number=0):
    return [source.batch(number, i) for i in range(source.count)]


def test_an_epoch_has_every_volume_once_with_its_label():
    source = batches()
    volumes, labels = (torch.cat(parts) for parts in zip(*epoch(source), strict=True))
    numbers = volumes[:, 0, 0, 0, 0].round().long()
    assert sorted(numbers.tolist()) == list(range(22))
    assert torch.equal(labels, numbers % 3)
    assert (source.count, source.volumes, [source.size(i) for i in range(3)]) == (3, 22, [8, 8, 6])


def test_a_last_batch_of_one_volume_is_left_out_as_batch_normalisation_cannot_use_it():
    source = batches(n=17)
    assert (source.count, source.volumes) == (2, 16)


def test_every_process_needs_two_volumes_of_a_batch():
    with pytest.raises(InputError, match=r"^3 training volumes: expected 4 or more, 2 for each process"):
        batches(Group(0, 2), n=3)
    with pytest.raises(InputError, match="--batch-size 8: expected 2 or more for each of 5 processes"):
        batches(Group(0, 5))
    assert batches(Group(0, 2), n=4).count == 1


def test_a_batch_follows_from_seed_epoch_and_number_whatever_was_asked_before():
    options = {"half_turns": True, "shift": 1, "noise": 0.5, "rotate": True}
    source, fresh = batches(**options), batches(**options)
    later = epoch(source, 4)
    assert torch.equal(fresh.batch(4, 2)[0], later[2][0])
    assert not torch.equal(source.batch(5, 2)[0], later[2][0])
    assert not torch.equal(batches(**{**options, "seed": 4}).batch(4, 2)[0], later[2][0])


def test_processes_share_each_batch_and_its_augmentation():
    options = {"half_turns": True, "shift": 1, "noise": 0.5}
    whole = epoch(batches(**options))
    parts = [epoch(batches(Group(rank, 2), **options)) for rank in range(2)]
    for number, (volumes, labels) in enumerate(whole):
        for rank in range(2):
            assert torch.equal(parts[rank][number][0], volumes[rank::2])
            assert torch.equal(parts[rank][number][1], labels[rank::2])


@pytest.mark.parametrize("options", [{"half_turns": True}, {"shift": 1}, {"noise": 0.5}, {"rotate": True}])
def test_a_volume_that_recurs_in_an_epoch_is_augmented_anew(options):
    """Of 22 volumes the two of the one class come as often as the twenty of the other."""
    labels = torch.tensor([0] * 2 + [1] * 20)
    images = torch.randn(22, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).to(torch.float16)
    few = replace(split(), images=images, labels=labels)
    cfg = SimpleNamespace(**{**PLAIN, "batch_size": 4, "class_samples": 2, **options})
    source, parts = (FileBatches(cfg, few, DEVICE, group) for group in (Group(), Group(1, 2)))
    volumes = torch.cat([source.batch(0, number)[0] for number in range(source.count)])
    assert torch.equal(parts.batch(0, 1)[0], source.batch(0, 1)[0][1::2])
    for number in range(2):
        found = volumes[source.order[: len(volumes)] == number].flatten(1)
        assert len(found) >= 5
        assert len(found.unique(dim=0)) > 1


def test_nothing_is_turned_where_the_tilt_range_is_unknown():
    source = FileBatches(SimpleNamespace(**{**PLAIN, "half_turns": True}), split(tilts=None), DEVICE, Group())
    volumes = torch.cat([volumes for volumes, _ in epoch(source)])
    assert source.turns == ()
    assert (volumes[:, 0, 0, 0, 0] < volumes[:, 0, 3, 0, 0]).all()  # the gradient points as it did


def test_rotations_need_the_tilt_range():
    with pytest.raises(InputError, match="--rotate: the tilt range of the volumes is unknown"):
        FileBatches(SimpleNamespace(**{**PLAIN, "rotate": True}), split(tilts=None), DEVICE, Group())


@pytest.mark.parametrize(("counts", "classes"), [((12, 12, 12), 3), ((30, 4, 2), 3), ((10,) * 7, 7)])
def test_p_x_k_sampling_puts_k_of_each_of_p_different_classes_in_a_batch(counts, classes):
    labels = torch.repeat_interleave(torch.arange(classes), torch.tensor(counts))
    order = epoch_order(labels, batch_size=6, class_samples=2, generator=torch.Generator().manual_seed(0))
    assert len(order) == len(labels)
    for batch in order.split(6):
        if len(batch) == 6:
            assert (torch.bincount(labels[batch], minlength=classes).unique() <= 2).all()
            assert len(labels[batch].unique()) == 3
            assert len(batch.unique()) == 6  # no volume twice
    often = torch.bincount(labels[order], minlength=classes)
    assert often.max() - often.min() <= 2  # classes come equally often, but for one turn
    for label in range(classes):
        times = torch.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


@pytest.mark.parametrize(
    ("batch_size", "class_samples", "message"),
    [
        (6, 4, "expected a batch size that is a multiple of 4"),
        (8, 2, "8 / 2 = 4 classes per batch, there are 3; expected a batch size of at most 6"),
        (6, 3, "the smallest class has 2 volumes"),
    ],
)
def test_a_batch_that_cannot_be_filled_is_refused(batch_size, class_samples, message):
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 2)
    with pytest.raises(InputError, match=f"with --batch-size {batch_size}: .*{message}"):
        epoch_order(labels, batch_size, class_samples, torch.Generator().manual_seed(0))
