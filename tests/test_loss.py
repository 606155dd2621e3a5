"""Every loss against loops written from its formula, and what must hold for any of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from loss.loss import AUTHORS, LMCL, LOSSES, ORIGINAL, CenterLoss, SoftLMCCL, scale_bound, with_length

# N, E, C: an ordinary batch; two classes; one embedding; classes absent from the batch; repeated labels.
SHAPES = [(12, 8, 5), (9, 3, 2), (1, 4, 3), (3, 6, 50), (40, 5, 4)]
WITH_CENTERS = ["soft_lmccl", "softmax_center"]
COSINE = ["lmcl", "arcface", "subcenter_arcface"]


def batch(n: int, e: int, c: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, e, generator=generator)
    return embeddings.requires_grad_(), torch.randint(c, (n,), generator=generator)


def build(name: str, e: int, c: int, **options) -> nn.Module:
    torch.manual_seed(1)
    if name in WITH_CENTERS:
        options.setdefault("center_init_std", 1.0)
    criterion = LOSSES[name](e, c, **options)
    if name != "lmcl" and hasattr(criterion, "head"):
        nn.init.normal_(criterion.head.bias)
    return criterion


# The formulas, one embedding and one class at a time, in float64.


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def mean_cross_entropy(logits: list[list[Tensor]], labels: list[int]) -> Tensor:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        top = max(value.item() for value in row)
        total = total + top + sum(torch.exp(value - top) for value in row).log() - row[label]
    return total / len(labels)


def loop_softmax(f, y, p, o):
    weight, bias = p["head.weight"], p["head.bias"]
    return mean_cross_entropy([[(w * x).sum() + b for w, b in zip(weight, bias, strict=True)] for x in f], y)


def loop_lmcl(f, y, p, o, prefix=""):
    weight, s, m = p[prefix + "weight"], o.get("s", 30.0), o.get("m", 0.35)
    bias = p.get(prefix + "bias", torch.zeros(len(weight)))
    logits = []
    for x, label in zip(f, y, strict=True):
        logits.append([s * (cosine(x, w) + bias[j] - m * (j == label)) for j, w in enumerate(weight)])
    return mean_cross_entropy(logits, y)


def loop_center(f, y, p, o, prefix="center."):
    total = 0.0
    for x, label in zip(f, y, strict=True):
        if o.get("center_features") == "normalized":
            x = x / (x * x).sum().sqrt()
        total = total + ((x - p[prefix + "centers"][label]) ** 2).sum()
    return total / len(y) if o.get("center_reduction") == "mean" else total / 2


def loop_softmax_center(f, y, p, o):
    return loop_softmax(f, y, p, o) + o.get("center_weight", 0.003) * loop_center(f, y, p, o)


def loop_soft_lmccl(f, y, p, o):
    return loop_softmax_center(f, y, p, o) + o.get("margin_weight", 1.0) * loop_lmcl(f, y, p, o, "lmcl.")


def loop_arcface(f, y, p, o, sub_centers=1):
    weight, s, m = p["loss.W"].T, 30.0, 0.5
    logits = []
    for x, label in zip(f, y, strict=True):
        row = []
        for j in range(len(weight) // sub_centers):
            cosines = [cosine(x, w) for w in weight[j * sub_centers : (j + 1) * sub_centers]]
            nearest = max(cosines, key=Tensor.item)
            angle = torch.acos(nearest)
            if j == label and angle.item() <= math.pi - m:
                row.append(s * torch.cos(angle + m))
            elif j == label:
                row.append(s * (nearest - m * math.sin(m)))
            else:
                row.append(s * nearest)
        logits.append(row)
    return mean_cross_entropy(logits, y)


def loop_subcenter_arcface(f, y, p, o):
    return loop_arcface(f, y, p, o, sub_centers=3)


def loop_triplet(f, y, p, o):
    unit = [x / (x * x).sum().sqrt() for x in f]
    losses = []
    for i, anchor in enumerate(unit):
        distances = [((anchor - other) ** 2).sum().clamp_min(1e-30).sqrt() for other in unit]
        same = [d for j, d in enumerate(distances) if y[j] == y[i] and j != i]
        other = [d for j, d in enumerate(distances) if y[j] != y[i]]
        if same and other:
            losses.append((max(same, key=Tensor.item) - min(other, key=Tensor.item) + 0.2).clamp_min(0))
    return sum(losses) / len(losses) if losses else 0 * f.sum()


def loop_supcon(f, y, p, o):
    losses = []
    for i in range(len(f)):
        similar = [cosine(f[i], x) / 0.1 for x in f]
        others = sum(similar[j].exp() for j in range(len(f)) if j != i)
        same = [similar[j] - others.log() for j in range(len(f)) if y[j] == y[i] and j != i]
        if same:
            losses.append(-sum(same) / len(same))
    return sum(losses) / len(losses) if losses else 0 * f.sum()


LOOPS = {name: globals()[f"loop_{name}"] for name in LOSSES}


def against_loop(name: str, shape: tuple[int, int, int], **options) -> None:
    """The loss and all its gradients are those of the loop, to float32 accuracy."""
    n, e, c = shape
    criterion = build(name, e, c, **options)
    if options.get("bias"):
        nn.init.normal_(criterion.get_parameter("bias" if name == "lmcl" else "lmcl.bias"), std=0.1)
    embeddings, labels = batch(n, e, c)
    terms = criterion(embeddings, labels)
    terms.total.backward()

    exact = embeddings.detach().double().requires_grad_()
    state = {key: value.detach().clone().double().requires_grad_() for key, value in criterion.state_dict().items()}
    expected = LOOPS[name](exact, labels.tolist(), state, options)
    expected.backward()

    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(embeddings.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    for key, parameter in criterion.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), state[key].grad, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_formula(name, shape):
    n, _, c = shape
    if name == "supcon" and (n == 1 or c > n):
        pytest.skip("no pairs: test_a_batch_without_pairs_costs_nothing")
    against_loop(name, shape)


@pytest.mark.parametrize(
    "options",
    [
        {"s": 64.0, "m": 0.1},
        {"bias": True},
        {"margin_weight": 0.1, "center_weight": 0.5},
        {"center_features": "normalized", "center_weight": 1.0},
        {"center_reduction": "mean", "center_weight": 1.0},
        AUTHORS,
        ORIGINAL,
    ],
    ids=str,
)
def test_options_of_soft_lmccl_are_those_of_the_formula(options):
    against_loop("soft_lmccl", (12, 8, 5), **options)


def test_total_is_the_weighted_sum_of_the_terms():
    embeddings, labels = batch(12, 8, 5)
    terms = build("soft_lmccl", 8, 5, margin_weight=0.5, center_weight=0.25)(embeddings, labels)
    torch.testing.assert_close(terms.total, terms.softmax + 0.5 * terms.margin + 0.25 * terms.center)
    assert all(term.shape == () and term > 0 for term in terms)


def test_absent_terms_are_zero():
    embeddings, labels = batch(12, 8, 5)
    assert build("softmax", 8, 5)(embeddings, labels)[2:] == (0, 0)
    softmax, margin, center = build("lmcl", 8, 5)(embeddings, labels)[1:]
    assert softmax == center == 0
    assert margin > 0


@pytest.mark.parametrize("name", ["triplet", "supcon"])
def test_a_batch_without_pairs_costs_nothing(name):
    for labels in (torch.zeros(1, dtype=torch.int64), torch.arange(4)):
        embeddings = torch.randn(len(labels), 8, requires_grad=True)
        total = build(name, 8, 5)(embeddings, labels).total
        total.backward()
        assert total == 0
        assert (embeddings.grad == 0).all()


@pytest.mark.parametrize(("n", "e", "c"), [(12, 8, 5), (9, 3, 2), (64, 32, 100)])
def test_lmcl_and_arcface_equal_pytorch_metric_learning(n, e, c):
    embeddings, labels = batch(n, e, c)
    lmcl, arcface = build("lmcl", e, c, s=64.0, m=0.35), build("arcface", e, c, s=64.0, m=math.radians(28.6))
    cosface_oracle, arcface_oracle = CosFaceLoss(c, e, margin=0.35, scale=64), ArcFaceLoss(c, e, margin=28.6, scale=64)
    cosface_oracle.W.data = lmcl.weight.data.T.clone()
    arcface_oracle.W.data = arcface.loss.W.data.clone()
    for ours, oracle in ((lmcl, cosface_oracle), (arcface, arcface_oracle)):
        loss, expected = ours(embeddings, labels).total, oracle(embeddings, labels)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(value, embeddings)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


# Numbers that are hard on floating point.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing_beyond_the_rounding_of_its_input(name, dtype):
    criterion = build(name, 32, 10)
    embeddings, labels = batch(48, 32, 10)
    with torch.autocast("cpu", dtype=dtype):
        low = embeddings.detach().to(dtype)
        terms, kept = criterion(low, labels), criterion(embeddings, labels)
    exact = criterion(low.float(), labels)
    assert all(term.dtype == torch.float32 for term in terms)
    torch.testing.assert_close(terms.total, exact.total, rtol=1e-3, atol=0)
    torch.testing.assert_close(kept.total, criterion(embeddings, labels).total, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_finite_at_any_size_of_the_features(name, size):
    criterion = build(name, 16, 5)
    embeddings, labels = batch(12, 16, 5)
    unit = F.normalize(embeddings.detach())
    check_finite(criterion, size * unit, labels)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", [*COSINE, "soft_lmccl"])
def test_loss_and_gradients_are_finite_on_and_opposite_the_class_weight(name, sign):
    criterion = build(name, 16, 5, s=256.0)
    weight = {"soft_lmccl": "lmcl.weight", "lmcl": "weight"}.get(name, "loss.W")
    weight = criterion.state_dict()[weight]
    weight = weight if weight.shape[1] == 16 else weight.T
    labels = torch.arange(5)
    check_finite(criterion, sign * weight[:: len(weight) // 5].clone(), labels)


@pytest.mark.parametrize("name", ["triplet", "supcon"])
def test_loss_and_gradients_are_finite_where_embeddings_coincide(name):
    check_finite(build(name, 16, 5), torch.ones(6, 16), torch.tensor([0, 0, 1, 1, 2, 2]))


@pytest.mark.parametrize("name", ["lmcl", "soft_lmccl", "arcface"])
def test_loss_and_gradients_are_finite_with_scale_256_and_10000_classes(name):
    criterion = build(name, 16, 10_000, s=256.0)
    check_finite(criterion, *batch(8, 16, 10_000))


def check_finite(criterion: nn.Module, embeddings: Tensor, labels: Tensor) -> None:
    embeddings = embeddings.detach().clone().requires_grad_()
    terms = criterion(embeddings, labels)
    terms.total.backward()
    assert all(term.isfinite() for term in terms)
    assert embeddings.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in criterion.parameters())


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e12])
def test_with_length_is_normalisation(size):
    rows = (size * torch.randn(6, 16)).requires_grad_()
    direction = torch.randn(6, 16)
    ours, expected = with_length(rows, 3.0), 3 * F.normalize(rows)
    torch.testing.assert_close(ours, expected)
    gradients = [torch.autograd.grad((value * direction).sum(), rows)[0] * size for value in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_an_embedding_of_zero_has_a_finite_loss():
    check_finite(build("soft_lmccl", 8, 5), torch.zeros(3, 8), torch.tensor([0, 1, 2]))


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
    criterion = build(name, 8, 5, validate=False).cuda()
    embeddings, labels = (tensor.detach().cuda() for tensor in batch(12, 8, 5))
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
