"""The 20-layer network of SphereFace (Liu et al. 2017, arXiv 1704.08063) in 3-D, as Du et al. (BMVC 2019) use it.

No normalisation inside, PReLU, one convolution of stride 2 at the head of each stage.
"""

import torch
from torch import nn

DEPTH = 20  # convolutions: 4 stage heads, and two in each of 8 blocks
BLOCKS = (1, 2, 4, 1)
FINAL_SIDE = 2  # voxels of the last feature map that are flattened; what stage four leaves of a box of 32


class SphereBlock(nn.Module):
    """Two 3x3x3 convolutions, each with its PReLU, beside the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x)


class SphereFace20(nn.Module):
    """Four stages of 1, 2, 4 and 1 residual blocks, then all voxels flattened: (N, 1, D, H, W) -> (N, features).

    Boxes other than 32^3 are averaged to 2^3 voxels before they are flattened.

    Args:
        depth: 20.
        width: channels of the first stage (64 in the paper); the following have 2, 4 and 8 times as many.
    """

    def __init__(self, depth: int, width: int):
        super().__init__()
        if depth != DEPTH:
            raise ValueError(f"depth {depth}: sphere20 has {DEPTH}")
        if width < 1:
            raise ValueError(f"width {width}: expected at least 1 channel")
        layers, channels = [], 1
        for stage, blocks in enumerate(BLOCKS):
            after = width * 2**stage
            layers += [nn.Conv3d(channels, after, 3, stride=2, padding=1), nn.PReLU(after)]
            layers += [SphereBlock(after) for _ in range(blocks)]
            channels = after
        self.stages = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool3d(FINAL_SIDE)
        self.features = channels * FINAL_SIDE**3
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.stages(x)).flatten(1)  # (N, 1, D, H, W) -> (N, features)


def initialise(module: nn.Module) -> None:
    """As SphereFace: Xavier at the stage heads, a normal distribution of 0.01 inside the blocks."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d) and layer.bias is not None:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv3d):
            nn.init.normal_(layer.weight, std=0.01)
