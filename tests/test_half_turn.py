"""A half-turned volume gets the output and gradients of the volume itself; mirrored or quarter-turned ones do not."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loader.augment import HALF_TURNS
from model import Conv3D
from models.HalfTurn import ELEMENTS, Even, FieldNorm, HalfTurnConv3d, HalfTurnResNet3D

ORDER = ("", "z", "y", "x")  # of the group's elements
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


def turn(volumes, axis):
    return volumes.flip(HALF_TURNS[axis]) if axis else volumes


def make_network(dtype=torch.float64, depth=10, width=8, seed=0):
    """A network whose normalisations are as after training: random statistics, scales (no branch at 0) and shifts."""
    torch.manual_seed(seed)
    network = HalfTurnResNet3D(depth, width)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            for value in (layer.running_mean, layer.bias.data):
                nn.init.normal_(value, std=0.3)
            for value in (layer.running_var, layer.weight.data):
                nn.init.uniform_(value, 0.5, 2)
    return network.to(dtype, memory_format=torch.channels_last_3d)


def make_volumes(box=32, count=3, dtype=torch.float64, seed=1):
    shape = (count, 1, *((box,) * 3 if isinstance(box, int) else box))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_level(found, expected, dtype=torch.float64):
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("axis", HALF_TURNS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_half_turn_changes_nothing_but_rounding(axis, training, dtype):
    network, volumes = make_network(dtype, depth=18).train(training), make_volumes(dtype=dtype)
    assert_level(network(turn(volumes, axis)), network(volumes), dtype)


@pytest.mark.parametrize("box", [16, 24, 33, 40, (20, 32, 27)])
def test_it_holds_for_boxes_that_cannot_be_halved_evenly(box):
    network, volumes = make_network().eval(), make_volumes(box, count=2)
    expected = network(volumes)
    for axis in HALF_TURNS:
        assert_level(network(turn(volumes, axis)), expected)


def test_even_leaves_even_sides_alone_and_lengthens_odd_ones_by_the_means_of_neighbours():
    line = torch.arange(1.0, 4.0).expand(1, 1, 4, 2, 3)
    assert Even()(line).shape == (1, 1, 4, 2, 4)
    assert Even()(line)[0, 0, 0, 0].tolist() == [0.5, 1.5, 2.5, 1.5]
    assert torch.equal(Even()(line[..., :2]), line[..., :2])


@pytest.mark.parametrize("axis", HALF_TURNS)
def test_the_gradients_of_a_turned_batch_are_those_of_the_batch(axis):
    network, volumes = make_network().train(), make_volumes(count=4)
    goal = torch.randn(4, network.features, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for batch in (volumes, turn(volumes, axis)):
        network.zero_grad()
        F.mse_loss(network(batch), goal).backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    assert all(gradient.isfinite().all() for gradient in found[0])
    assert sum(bool(gradient.any()) for gradient in found[0]) == len(found[0])
    for expected, turned in zip(*found, strict=True):
        assert_level(turned, expected)


def test_it_holds_after_training():
    torch.manual_seed(0)
    network, volumes = HalfTurnResNet3D(10, 8).double(), make_volumes(count=4)
    before = copy.deepcopy(network.eval())(volumes)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=3e-3)
    for step in range(5):
        optimizer.zero_grad()
        F.cross_entropy(network(make_volumes(count=4, seed=step)), torch.arange(4)).backward()
        optimizer.step()
    expected = network.eval()(volumes)
    assert (expected - before).abs().max() > 0.01
    for axis in HALF_TURNS:
        assert_level(network(turn(volumes, axis)), expected)


def test_it_sees_mirror_images_and_quarter_turns():
    network, volumes = make_network().eval(), make_volumes()
    expected = network(volumes)
    mirrored = [volumes.flip(axes) for axes in [(2,), (3,), (4,), (2, 3, 4)]]
    turned = [volumes.rot90(1, axes) for axes in itertools.combinations((2, 3, 4), 2)]
    for other in (*mirrored, *turned):
        assert ((network(other) - expected).abs().max(dim=1).values > 1e-3).all()


def test_the_elements_multiply_by_xor():
    volume = make_volumes(5, count=1)
    for g, h in itertools.product(range(ELEMENTS), repeat=2):
        assert torch.equal(turn(turn(volume, ORDER[g]), ORDER[h]), turn(volume, ORDER[g ^ h]))


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2), (1, 1)])
def test_a_group_convolution_is_a_loop_over_turned_kernels(side, stride):
    torch.manual_seed(0)
    fields_in, fields_out = 2, 3
    layer = HalfTurnConv3d(fields_in, fields_out, side, stride).double()
    weight = layer.weight.view(fields_out, -1, side, side, side)  # (o, 4 fields_in, side, side, side)
    maps = torch.randn(2, ELEMENTS * fields_in, 6, 6, 6, dtype=torch.float64)
    expected = []
    for g in range(ELEMENTS):
        total = 0
        for h in range(ELEMENTS):
            kernel = weight[:, (g ^ h) * fields_in : ((g ^ h) + 1) * fields_in]
            field = maps[:, h * fields_in : (h + 1) * fields_in]
            total = total + F.conv3d(field, turn(kernel, ORDER[g]), stride=stride, padding=(side - 1) // 2)
        expected.append(total)
    assert_level(layer(maps), torch.cat(expected, dim=1))


def test_the_stem_lifts_a_volume_to_its_four_turned_filters():
    torch.manual_seed(0)
    layer, volumes = HalfTurnConv3d(0, 3, 6, 2).double(), make_volumes(8, count=2)
    filters = layer.weight.view(3, 1, 6, 6, 6)
    expected = [F.conv3d(volumes, turn(filters, axis), stride=2, padding=2) for axis in ORDER]
    assert_level(layer(volumes), torch.cat(expected, dim=1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_field_is_normalised_over_its_four_channels_in_any_layout(layout):
    maps = (3 * torch.randn(2, 8, 3, 4, 5) + 1).contiguous(memory_format=layout)
    found = FieldNorm(2)(maps)
    for field in range(2):
        values = maps[:, field::2]
        expected = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[:, field::2], expected)


def test_its_kernels_start_with_the_variance_of_he():
    kernel = HalfTurnConv3d(16, 16, 3).kernel()
    assert kernel.shape == (64, 64, 3, 3, 3)
    assert kernel.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)


def test_its_blocks_start_as_their_shortcuts():
    block = HalfTurnResNet3D(18, 8).eval().stages[1]
    maps = torch.randn(1, 8, 4, 4, 4)
    assert torch.equal(block(maps), maps.relu())


def test_it_has_a_quarter_of_the_ordinary_convolutions_parameters():
    network = HalfTurnResNet3D(18, 16)
    layers = [layer for layer in network.modules() if isinstance(layer, HalfTurnConv3d)]
    assert len(layers) == 20
    assert all(layer.kernel().numel() == ELEMENTS * layer.weight.numel() for layer in layers)
    assert sum(parameter.numel() for parameter in network.parameters()) == 618_552
    assert network.features == 2 * 8 * 4


@pytest.mark.parametrize(
    ("depth", "width", "expected"), [(18, 6, "multiples of 4"), (18, 0, "of 4$"), (50, 8, "10, 18, 34")]
)
def test_a_width_that_makes_no_fields_or_a_depth_of_bottlenecks_is_refused(depth, width, expected):
    with pytest.raises(ValueError, match=expected):
        HalfTurnResNet3D(depth, width)


def test_normalisation_over_processes_takes_the_place_of_every_normalisation():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(make_network())
    norms = [layer.norm for layer in converted.modules() if isinstance(layer, FieldNorm)]
    assert len(norms) == 12 and all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize("width", [4, 8])
def test_gradients_have_the_strides_of_their_parameters_as_processes_that_share_them_want(width):
    network = make_network(torch.float32, width=width)
    volumes = make_volumes(dtype=torch.float32).contiguous(memory_format=torch.channels_last_3d)
    network(volumes).square().mean().backward()
    assert all(parameter.grad.stride() == parameter.stride() for parameter in network.parameters())


def test_no_convolution_leaves_the_channels_last_layout():
    network, layouts = make_network(torch.float32), []

    def note(layer, given, found):
        if layer.shape[-1] > 1:  # what the shortcuts' average pooling gives is in the default layout, and small
            layouts.extend(maps.is_contiguous(memory_format=torch.channels_last_3d) for maps in (*given, found))

    for layer in network.modules():
        if isinstance(layer, HalfTurnConv3d):
            layer.register_forward_hook(note)
    network(make_volumes(64, dtype=torch.float32).contiguous(memory_format=torch.channels_last_3d))
    assert len(layouts) == 2 * 9 and all(layouts)


def test_bfloat16_autocast_gives_nearly_the_same():
    network, volumes = make_network(torch.float32).eval(), make_volumes(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = network(volumes)
    assert F.cosine_similarity(found.float(), network(volumes)).min() > 0.99


def test_the_embedding_has_the_symmetry_too():
    torch.manual_seed(0)
    model = Conv3D("resnet_half_turn", 10, 8, 16).double().eval()
    volumes = make_volumes()
    for axis in HALF_TURNS:
        assert_level(model(turn(volumes, axis)), model(volumes))
