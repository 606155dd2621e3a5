"""Every loss against loops written from its formula, against other libraries, and with numbers hard on floats."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import ArcFaceLoss, CosFaceLoss
from torch import Tensor, nn

from loss.loss import AUTHORS, LOSSES, ORIGINAL, with_length

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
        own = m * o["margins"][len(logits)] if "margins" in o else m
        logits.append([s * (cosine(x, w) + bias[j] - own * (j == label)) for j, w in enumerate(weight)])
    return mean_cross_entropy(logits, y)


def loop_center(f, y, p, o, prefix="center."):
    total = 0.0
    for x, label in zip(f, y, strict=True):
        if o.get("center_features", "normalized") == "normalized":
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


def loop_of(name: str) -> Callable[..., Tensor]:
    """The loop of a loss. A loss without one fails the tests that need it, with a sentence."""
    loop = globals().get(f"loop_{name}")
    if loop is None:
        pytest.fail(
            f"the loss {name!r} has no formula to be compared with: write loop_{name}(f, y, p, o) in "
            "tests/test_loss.py, for embeddings, labels, parameters by name and options"
        )
    return loop


def against_loop(name: str, shape: tuple[int, int, int], margins: Tensor | None = None, **options) -> None:
    """The loss and all its gradients are those of the loop, to float32 accuracy."""
    n, e, c = shape
    criterion = build(name, e, c, **options)
    if options.get("bias"):
        nn.init.normal_(criterion.get_parameter("bias" if name == "lmcl" else "lmcl.bias"), std=0.1)
    embeddings, labels = batch(n, e, c)
    terms = criterion(embeddings, labels, margins)
    terms.total.backward()
    options |= {} if margins is None else {"margins": margins.tolist()}

    exact = embeddings.detach().double().requires_grad_()
    state = {key: value.detach().clone().double().requires_grad_() for key, value in criterion.state_dict().items()}
    expected = loop_of(name)(exact, labels.tolist(), state, options)
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


def test_a_loss_without_a_formula_fails_with_a_sentence_and_not_the_whole_file(monkeypatch):
    monkeypatch.setitem(LOSSES, "mine", LOSSES["softmax"])
    with pytest.raises(pytest.fail.Exception, match=r"'mine' has no formula .*: write loop_mine\(f, y, p, o\) in"):
        against_loop("mine", SHAPES[0])


@pytest.mark.parametrize(
    "options",
    [
        {"s": 64.0, "m": 0.1},
        {"bias": True},
        {"margin_weight": 0.1, "center_weight": 0.5},
        {"center_features": "raw", "center_weight": 1.0},
        {"center_reduction": "mean", "center_weight": 1.0},
        AUTHORS,
        ORIGINAL,
    ],
    ids=str,
)
def test_options_of_soft_lmccl_are_those_of_the_formula(options):
    against_loop("soft_lmccl", (12, 8, 5), **options)


@pytest.mark.parametrize("options", [{}, {"s": 64.0, "m": 0.6}, {"bias": True}], ids=str)
@pytest.mark.parametrize("name", ["lmcl", "soft_lmccl"])
def test_each_embedding_takes_its_share_of_the_margin(name, options):
    """Against the loops, and at the ends: a share of 1 is the loss as it is, one of 0 that without a margin."""
    against_loop(name, (12, 8, 5), torch.linspace(0, 1, 12), **options)
    embeddings, labels = batch(12, 8, 5)
    with_margin, without = (build(name, 8, 5, **options | changed) for changed in ({}, {"m": 0.0}))
    without.load_state_dict(with_margin.state_dict())
    ones, zeros = torch.ones(12), torch.zeros(12)
    assert with_margin(embeddings, labels, ones).total == with_margin(embeddings, labels).total
    assert with_margin(embeddings, labels, zeros).total == without(embeddings, labels).total
    assert with_margin(embeddings, labels, zeros).total < with_margin(embeddings, labels).total


def test_a_share_is_of_the_margin_that_the_epoch_has():
    embeddings, labels = batch(12, 8, 5)
    growing, halfway = build("lmcl", 8, 5, m=0.4, warmup_epochs=4), build("lmcl", 8, 5, m=0.2)
    growing.start_epoch(2)
    shares = torch.linspace(0, 1, 12)
    torch.testing.assert_close(growing(embeddings, labels, shares), halfway(embeddings, labels, shares))


@pytest.mark.parametrize("name", LOSSES)
def test_margins_of_the_wrong_shape_or_for_a_loss_without_them_are_refused(name):
    embeddings, labels = batch(12, 8, 5)
    able = name in ("lmcl", "soft_lmccl")
    expected = r"shape \(11,\), expected \(12,\)" if able else r"shape \(11,\), expected none"
    with pytest.raises(ValueError, match=expected):
        build(name, 8, 5)(embeddings, labels, torch.ones(11))


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
