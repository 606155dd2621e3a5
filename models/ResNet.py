"""3-D residual networks (He et al. 2016, with 3-D convolutions), of any depth and width, for one-channel volumes."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from models.depths import BLOCKS_PER_STAGE, FIRST_BOTTLENECK_DEPTH
from models.HalfTurn import HalfTurnResNet3D
from models.SphereFace import SphereFace20


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv3d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(channels),
        )
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1x1 down, 3x3x3, 1x1x1 up, beside a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        channels_out = self.expansion * channels
        self.residual = nn.Sequential(
            nn.Conv3d(channels_in, channels, 1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels_out, 1, bias=False),
            nn.BatchNorm3d(channels_out),
        )
        self.shortcut = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.residual(x) + self.shortcut(x))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if channels_in == channels_out and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm3d(channels_out)
    )


class ResNet3D(nn.Module):
    """Stem of stride 2, four stages, global average pool: (N, 1, D, H, W) -> (N, features).

    The stem halves the box once: at the native 32^3 the stages work on 16, 8, 4 and 2 voxels.

    Args:
        depth: 10, 18 or 34 (basic blocks), 50 or 101 (bottlenecks).
        width: channels of the first stage; the following have 2, 4 and 8 times as many.
        pool: halve the box once more after the stem, by the max pooling of the networks for pictures.
    """

    def __init__(self, depth: int, width: int, pool: bool = False):
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ValueError(f"depth {depth}: expected one of {', '.join(map(str, sorted(BLOCKS_PER_STAGE)))}")
        if width < 1:
            raise ValueError(f"width {width}: expected at least 1 channel")
        block = Bottleneck if depth >= FIRST_BOTTLENECK_DEPTH else BasicBlock
        self.stem = nn.Sequential(
            nn.Conv3d(1, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm3d(width), nn.ReLU(inplace=True)
        )
        if pool:
            self.stem.append(nn.MaxPool3d(3, stride=2, padding=1))
        layers, channels = [], width
        for stage, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
            for index in range(blocks):
                stride = 2 if index == 0 and stage > 0 else 1
                layers.append(block(channels, width * 2**stage, stride))
                channels = width * 2**stage * block.expansion
        self.stages = nn.Sequential(*layers)
        self.features = channels
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages(self.stem(x)).mean(dim=(2, 3, 4))  # (N, 1, D, H, W) -> (N, features)


def initialise(module: nn.Module) -> None:
    """He initialisation; the last BatchNorm of a residual branch starts at 0, so that blocks start as identities."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    for layer in module.modules():
        if isinstance(layer, BasicBlock | Bottleneck):
            nn.init.zeros_(layer.residual[-1].weight)


# name -> constructor(depth, width) of a module with `features`, the width of its output
BACKBONES: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet": ResNet3D,
    "resnet_pool": partial(ResNet3D, pool=True),
    "resnet_half_turn": HalfTurnResNet3D,
    "resnet_half_turn_gem": partial(HalfTurnResNet3D, gem=True),
    "sphere20": SphereFace20,
}
