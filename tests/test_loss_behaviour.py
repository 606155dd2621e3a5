"""What must hold for the losses: they learn, margins act on one logit, mistakes are named, no device is waited for."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from loss.loss import LMCL, LOSSES, CenterLoss, SoftLMCCL, scale_bound
from tests.test_loss import COSINE, WITH_CENTERS, batch, build

# Class weights and centres move.


def check_class_directions_learn(criterion: LMCL) -> None:
    """Train the class weights alone, on fixed embeddings around one random direction a class."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(6, 16, generator=generator))
    labels = torch.arange(6).repeat(8)
    embeddings = directions[labels] + 0.1 * torch.randn(48, 16, generator=generator)
    before = F.cosine_similarity(criterion.weight.detach(), directions)
    optimizer = torch.optim.AdamW(criterion.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(40):
        optimizer.zero_grad()
        criterion(embeddings, labels).total.backward()
        optimizer.step()
    after = F.cosine_similarity(criterion.weight.detach(), directions)
    assert (after > before).all()
    assert after.mean() > before.mean() + 0.3
    assert torch.equal(F.linear(embeddings, F.normalize(criterion.weight)).argmax(dim=1), labels)


class FrozenDirections(LMCL):
    """The defect that the test below is there for: the weight is a new parameter at every call."""

    def terms(self, embeddings, labels):
        self.weight = nn.Parameter(F.normalize(self.weight.detach()))
        return super().terms(embeddings, labels)


def test_class_directions_learn():
    torch.manual_seed(1)
    check_class_directions_learn(LMCL(16, 6, s=16.0, m=0.2))


def test_frozen_class_directions_are_noticed():
    torch.manual_seed(1)
    with pytest.raises(AssertionError):
        check_class_directions_learn(FrozenDirections(16, 6, s=16.0, m=0.2))


@pytest.mark.parametrize("name", LOSSES)
def test_every_parameter_and_centre_moves_in_one_step(name):
    criterion = build(name, 8, 5)
    embeddings, labels = batch(40, 8, 5)
    before = {key: value.clone() for key, value in criterion.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [{"params": [embeddings]}, {"params": criterion.parameters(), "weight_decay": 0.0}], lr=0.1
    )
    identities = [id(parameter) for parameter in criterion.parameters()]
    criterion(embeddings, labels).total.backward()
    optimizer.step()
    criterion.after_step()
    assert identities == [id(parameter) for parameter in criterion.parameters()]
    for key, value in criterion.state_dict().items():
        assert (value != before[key]).any(dim=-1).all(), key


@pytest.mark.parametrize("features", ["raw", "normalized"])
def test_centres_move_exactly_by_the_rule(features):
    torch.manual_seed(0)
    criterion = CenterLoss(8, 5, features=features, rate=0.05, init_std=1.0)
    before = criterion.centers.clone()
    embeddings, labels = torch.randn(12, 8), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 4, 4, 4])
    criterion(embeddings, labels)
    assert torch.equal(criterion.centers, before)  # the loss uses them as they were
    criterion.after_step()

    points = F.normalize(embeddings) if features == "normalized" else embeddings
    for k in range(5):
        of_class = points[labels == k]
        moved = before[k] - 0.05 * (before[k] - of_class).sum(dim=0) / (1 + len(of_class))
        torch.testing.assert_close(criterion.centers[k], moved, rtol=1e-6, atol=1e-6)
    assert torch.equal(criterion.centers[3], before[3])  # absent from the batch


@pytest.mark.parametrize("reduction", ["half_sum", "mean"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_centres_by_sgd_move_as_torch_sgd_moves_them(reduction, momentum):
    torch.manual_seed(0)
    criterion = CenterLoss(8, 5, reduction=reduction, update="sgd", rate=0.05, momentum=momentum, init_std=1.0)
    centers = criterion.centers.clone().requires_grad_()
    optimizer = torch.optim.SGD([centers], lr=0.05, momentum=momentum)
    for seed in range(3):
        embeddings, labels = batch(12, 8, 5, seed)
        criterion(embeddings, labels)
        criterion.after_step()
        optimizer.zero_grad()
        squared = (embeddings.detach() - centers[labels]).square().sum(dim=1)
        (squared.mean() if reduction == "mean" else squared.sum() / 2).backward()
        optimizer.step()
        torch.testing.assert_close(criterion.centers, centers.detach(), rtol=1e-5, atol=1e-6)


def test_centres_see_an_accumulated_batch_as_one():
    embeddings, labels = batch(12, 8, 5)
    whole, parts = build("soft_lmccl", 8, 5), build("soft_lmccl", 8, 5)
    whole(embeddings, labels)
    for part in (slice(0, 5), slice(5, 12)):
        parts(embeddings[part], labels[part])
    for criterion in (whole, parts):
        criterion.after_step()
    torch.testing.assert_close(whole.center.centers, parts.center.centers)


@pytest.mark.parametrize("name", WITH_CENTERS)
def test_centres_never_move_in_eval_or_without_gradients(name):
    criterion = build(name, 8, 5)
    before = criterion.center.centers.clone()
    with torch.no_grad():
        criterion(*batch(12, 8, 5))
    criterion.eval()
    criterion(*batch(12, 8, 5))
    criterion.after_step()
    assert torch.equal(criterion.center.centers, before)


def test_centres_get_no_gradient():
    assert not any("centers" in key for key, _ in build("soft_lmccl", 8, 5).named_parameters())


# The margin.


def test_margin_lowers_only_the_target_logit():
    embeddings, labels = batch(12, 8, 5)
    plain, margin = build("lmcl", 8, 5, m=0.0), build("lmcl", 8, 5, m=0.35)
    lowered = plain.logits(embeddings, labels) - margin.logits(embeddings, labels)
    expected = torch.zeros(12, 5).scatter_(1, labels[:, None], 30 * 0.35)
    torch.testing.assert_close(lowered, expected, rtol=0, atol=1e-5)


def test_margin_warms_up_linearly():
    criterion = SoftLMCCL(8, 5, m=0.4, warmup_epochs=4)
    assert criterion.lmcl.margin == 0.4  # a script without epochs has the whole margin
    margins = []
    for epoch in range(6):
        criterion.start_epoch(epoch)
        margins.append(criterion.lmcl.margin)
    assert margins == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_the_hooks_of_training(name):
    criterion = build(name, 8, 5)
    criterion.start_epoch(0)
    criterion.after_step()


@pytest.mark.parametrize("c", [2, 10, 1000])
def test_auto_scale_reaches_the_posterior_with_perfect_embeddings(c):
    criterion = LMCL(c, c, s="auto", m=0.2)
    simplex = torch.eye(c) - 1 / c  # the widest possible separation, cos = -1 / (C - 1)
    criterion.weight.data = simplex.clone()
    probability = criterion.logits(simplex, torch.arange(c)).softmax(dim=1).diagonal()
    torch.testing.assert_close(probability, torch.full((c,), 0.999), rtol=1e-4, atol=0)


def test_auto_scale_refuses_a_margin_that_the_classes_cannot_keep():
    with pytest.raises(ValueError, match=r"m < C / \(C - 1\) = 1\.111 for 10 classes, found m = 1\.25"):
        scale_bound(10, 1.25)
    with pytest.raises(ValueError, match="at least 2 classes"):
        LMCL(8, 1, s="auto")


# Invariances.


@pytest.mark.parametrize("name", [*COSINE, "triplet", "supcon"])
def test_the_size_of_each_feature_does_not_matter(name):
    criterion = build(name, 8, 5)
    embeddings, labels = batch(12, 8, 5)
    sizes = torch.linspace(0.01, 100, 12)[:, None]
    torch.testing.assert_close(
        criterion(sizes * embeddings, labels).total, criterion(embeddings, labels).total, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_classes_does_not_matter(name):
    criterion, renamed = build(name, 8, 5), build(name, 8, 5)
    order = torch.tensor([3, 0, 4, 1, 2])  # class k of the one is class order[k] of the other
    state = renamed.state_dict()
    for key, value in criterion.state_dict().items():
        if key == "loss.W":  # (E, C * sub-centres)
            state[key].view(8, 5, -1)[:, order] = value.view(8, 5, -1)
        else:
            state[key][order] = value
    embeddings, labels = batch(12, 8, 5)
    for one, other in zip(criterion(embeddings, labels), renamed(embeddings, order[labels]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", [{}, {"center_update": "sgd", "center_momentum": 0.9}], ids=["default", "sgd"])
def test_state_dict_restores_the_loss_and_depends_on_no_batch(name, options):
    options = options if name in WITH_CENTERS else {}
    criterion, fresh = build(name, 8, 5, **options), LOSSES[name](8, 5, **options)
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    embeddings, labels = batch(13, 8, 5)
    criterion(embeddings, labels)
    assert {key: value.shape for key, value in criterion.state_dict().items()} == shapes
    criterion.after_step()
    fresh.load_state_dict(criterion.state_dict(), strict=True)
    for _ in range(2):
        assert torch.equal(fresh(embeddings, labels).total, criterion(embeddings, labels).total)
        fresh.after_step()
        criterion.after_step()


# Mistakes are named.


@pytest.mark.parametrize("name", LOSSES)
def test_mistakes_are_named(name):
    criterion = build(name, 8, 5)
    embeddings, labels = batch(4, 8, 5)
    bad = embeddings.detach().clone()
    bad[1, 2] = math.nan
    for mistake, message in [
        ((embeddings, torch.tensor([0, 1, 5, 2])), r"labels run from 0 to 5, expected 0 to 4"),
        ((embeddings, torch.tensor([0, -1, 3, 2])), r"labels run from -1 to 3, expected 0 to 4"),
        ((embeddings, labels.float()), r"labels have dtype torch.float32, expected torch.int64"),
        ((embeddings, labels.int()), r"labels have dtype torch.int32, expected torch.int64"),
        ((embeddings, labels[:3]), r"labels have shape \(3,\), expected \(4,\)"),
        ((embeddings, labels[:, None]), r"labels have shape \(4, 1\), expected \(4,\)"),
        ((embeddings[:, :7], labels), r"embeddings have shape \(4, 7\), expected \(N, 8\)"),
        ((embeddings[0], labels[:1]), r"embeddings have shape \(8,\), expected \(N, 8\)"),
        ((labels[:, None].repeat(1, 8), labels), r"embeddings have dtype torch.int64, expected floating point"),
        ((embeddings[:0], labels[:0]), r"the batch is empty"),
        ((bad, labels), r"1 of 4 embeddings are not finite"),
        ((bad / 0, labels), r"4 of 4 embeddings are not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            criterion(*mistake)


def test_mistaken_options_are_named():
    with pytest.raises(ValueError, match="center update 'adam': expected one of rule, sgd"):
        SoftLMCCL(8, 5, center_update="adam")
    with pytest.raises(ValueError, match="center features"):
        CenterLoss(8, 5, features="unit")
    with pytest.raises(ValueError, match="center reduction"):
        CenterLoss(8, 5, reduction="sum")
    with pytest.raises(ValueError, match="expected s above 0"):
        LMCL(8, 5, s=0.0)
    with pytest.raises(ValueError, match="expected at least 1"):
        LMCL(8, 0)


# The device is not made to wait, and memory is not wasted.


class Record(TorchDispatchMode):
    """Notes every operation and the shapes of what it newly makes."""

    def __init__(self):
        super().__init__()
        self.names, self.made = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.append(function.overloadpacket.__name__)
        if isinstance(result, Tensor) and not function.is_view and not self.names[-1].endswith("_"):
            self.made.append((self.names[-1], tuple(result.shape)))
        return result


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2"}


@pytest.mark.parametrize("name", ["soft_lmccl", "softmax", "softmax_center", "lmcl"])
def test_without_checks_no_value_is_needed_on_the_host(name):
    with FakeTensorMode():  # tensors without values: whatever would wait for one raises
        criterion = build(name, 8, 5, validate=False)
        embeddings = torch.randn(12, 8, requires_grad=True)
        labels = torch.zeros(12, dtype=torch.int64)
        criterion(embeddings, labels).total.backward()
        criterion.after_step()
    criterion = build(name, 8, 5, validate=False)
    with Record() as record:
        criterion(*batch(12, 8, 5)).total.backward()
        criterion.after_step()
    assert not WAITING & set(record.names)


def test_checks_need_values_on_the_host():
    with Record() as record:
        build("lmcl", 8, 5)(*batch(12, 8, 5))
    assert WAITING & set(record.names)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["soft_lmccl", "softmax", "softmax_center", "lmcl"])
def test_without_checks_a_gpu_is_never_waited_for(name):
    criterion = build(name, 8, 5, validate=False).to("cuda")
    embeddings, labels = (tensor.detach().to("cuda") for tensor in batch(12, 8, 5))
    embeddings.requires_grad_()
    criterion(embeddings, labels).total.backward()
    criterion.after_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(embeddings, labels).total.backward()
        criterion.after_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_lmcl_makes_logits_and_their_log_softmax_and_nothing_else_of_that_size():
    criterion = LMCL(8, 50, validate=False)
    embeddings, labels = batch(12, 8, 50)
    with Record() as record:
        criterion(embeddings, labels)
    assert [name for name, shape in record.made if math.prod(shape) >= 12 * 50] == ["mm", "_log_softmax"]
