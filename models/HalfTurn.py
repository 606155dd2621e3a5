"""A residual network that does not see the half turns of its input: the symmetry that a symmetric missing wedge leaves.

The identity and the half turns about z, y and x are a group of four (Klein's). The convolutions are group convolutions
over it (Cohen and Welling 2016, arXiv 1602.07576): a *field* is one feature seen from the four sides, in four channels.
Where the volume is turned, a field's maps are turned and its channels change places. No mirror image is in the group:
the network sees the handedness of a volume as any other does.

The elements are numbered 0 (identity), 1 (z), 2 (y), 3 (x), so that the product of g and h is g xor h. Channels are in
the order (element, field).
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.depths import BLOCKS_PER_STAGE, FIRST_BOTTLENECK_DEPTH

# Of each element the axes to reverse in a kernel (fields out, z, y, x, bit 1, bit 0, fields in): two in space, and the
# bits of the input's element that "xor" turns over.
REVERSED = ((), (2, 3, 5), (1, 3, 4), (1, 2, 4, 5))
ELEMENTS = len(REVERSED)
LEAST = 1e-6  # that a generalised mean takes for 0, whose power has no gradient


class HalfTurnConv3d(nn.Module):
    """Group convolution without bias, zero-padded: (N, 4 fields_in, D, H, W) -> (N, 4 fields_out, D', H', W').

    Output channel (g, o) is the convolution with kernel o turned by g, whose channel (g xor h, i) meets channel (h, i)
    of the input. The four turned copies make one ordinary kernel.

    Args:
        fields_in: of the input; 0 for a volume of one channel.
        side: of the kernel. At a stride of 2 only an even side keeps the symmetry, on grids of even side.
    """

    def __init__(self, fields_in: int, fields_out: int, side: int, stride: int = 1):
        super().__init__()
        self.stride, self.padding = stride, (side - 1) // 2
        bits = (2, 2) if fields_in else (1, 1)
        self.shape = (fields_out, *bits, fields_in or 1, side, side, side)
        # a matrix, as DistributedDataParallel warns of gradients whose strides are not those of their 5-D parameter
        self.weight = nn.Parameter(torch.empty(fields_out, math.prod(self.shape[1:])))
        # He's variance, by the fan-out of the ordinary kernel, as in ResNet3D
        nn.init.normal_(self.weight, std=(2 / (ELEMENTS * fields_out * side**3)) ** 0.5)

    def kernel(self) -> torch.Tensor:
        """The kernel of the ordinary convolution: (4 fields_out, 4 fields_in or 1, side, side, side), channels last."""
        weight = self.weight.view(self.shape)  # (fields_out, 2, 2, fields_in, side, side, side)
        weight = weight.permute(0, 4, 5, 6, 1, 2, 3).contiguous()  # -> (fields_out, side, side, side, 2, 2, fields_in)
        turned = torch.cat([weight.flip(axes) for axes in REVERSED])
        return turned.flatten(4).permute(0, 4, 1, 2, 3)  # -> (4 fields_out, 4 fields_in, side, side, side)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv3d(x, self.kernel(), stride=self.stride, padding=self.padding)


class FieldNorm(nn.Module):
    """Batch normalisation with one mean, variance, scale and shift per field, over its four channels.

    The channels of an element are seen as further voxels along x. In the channels-last layout this moves no data.
    """

    def __init__(self, fields: int):
        super().__init__()
        self.norm = nn.BatchNorm3d(fields)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, d, h, w = x.shape
        voxels = x.movedim(1, -1).reshape(n, d, h, w * ELEMENTS, -1)  # (N, 4 fields, D, H, W) -> (N, D, H, 4 W, fields)
        normed = self.norm(voxels.movedim(-1, 1)).movedim(1, -1)  # (N, D, H, 4 W, fields)
        return normed.reshape(n, d, h, w, -1).movedim(-1, 1)  # -> (N, 4 fields, D, H, W)


class Even(nn.Module):
    """Each odd side of (N, C, D, H, W) one longer, by the means of neighbours, zeros beyond the faces.

    Halving an odd side would favour one end of it; this, and then halving, does not.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        odd = [size % 2 for size in x.shape[2:]]
        if not any(odd):
            return x
        around = [extra for extra in reversed(odd) for _ in range(2)]
        return F.avg_pool3d(F.pad(x, around), [1 + extra for extra in odd], stride=1)


class HalfTurnBlock(nn.Module):
    """Two group convolutions beside a shortcut; at a stride of 2 the first has side 4, and the shortcut averages."""

    def __init__(self, fields_in: int, fields: int, stride: int):
        super().__init__()
        self.even = Even() if stride > 1 else nn.Identity()
        self.residual = nn.Sequential(
            HalfTurnConv3d(fields_in, fields, 3 if stride == 1 else 4, stride),
            FieldNorm(fields),
            nn.ReLU(),
            HalfTurnConv3d(fields, fields, 3),
            FieldNorm(fields),
        )
        nn.init.zeros_(self.residual[-1].norm.weight)  # so that blocks start as identities
        self.shortcut = nn.Identity()
        if fields_in != fields or stride > 1:
            self.shortcut = nn.Sequential(nn.AvgPool3d(stride), HalfTurnConv3d(fields_in, fields, 1), FieldNorm(fields))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.even(x)
        return torch.relu(self.residual(x) + self.shortcut(x))


class HalfTurnResNet3D(nn.Module):
    """The shape of ResNet3D with pooling, over half turns: (N, 1, D, H, W) -> (N, features), the same for all of them.

    The output is exactly (to rounding) that of the volume turned by 180 degrees about z, y or x, for every box. The box
    is halved five times; a side that is odd on the way (never one that 32 divides) is smoothed a little, see `Even`.
    The features are the means and the maxima of the fields over the group, of the averages over the voxels.

    Args:
        depth: 10, 18 or 34.
        width: channels of the first stage, four per field; the following have 2, 4 and 8 times as many.
        gem: take a generalised mean over the voxels, of a power that is learned (GeM, arXiv 1711.02512), not the mean.
    """

    def __init__(self, depth: int, width: int, gem: bool = False):
        super().__init__()
        depths = [known for known in BLOCKS_PER_STAGE if known < FIRST_BOTTLENECK_DEPTH]
        if depth not in depths:
            others = "; resnet and resnet_pool have it" if depth in BLOCKS_PER_STAGE else ""
            raise ValueError(f"depth {depth}: resnet_half_turn has {', '.join(map(str, depths))}{others}")
        if width < ELEMENTS or width % ELEMENTS:
            others = "; resnet and resnet_pool have any" if width > 0 else ""
            raise ValueError(f"width {width}: resnet_half_turn has multiples of {ELEMENTS}{others}")
        fields = width // ELEMENTS
        # pooled first, as there is then an eighth to normalise
        self.stem = nn.Sequential(
            *(Even(), HalfTurnConv3d(0, fields, 6, stride=2), Even(), nn.MaxPool3d(2)), FieldNorm(fields), nn.ReLU()
        )
        layers, before = [], fields
        for stage, blocks in enumerate(BLOCKS_PER_STAGE[depth]):
            for index in range(blocks):
                stride = 2 if index == 0 and stage > 0 else 1
                layers.append(HalfTurnBlock(before, fields * 2**stage, stride))
                before = fields * 2**stage
        self.stages = nn.Sequential(*layers)
        self.features = 2 * before
        self.power = nn.Parameter(torch.tensor(3.0)) if gem else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.stages(self.stem(x))  # (N, 4 fields, D, H, W), none below 0
        if self.power is not None:
            maps = maps.clamp_min(LEAST).pow(self.power)
        fields = maps.mean(dim=(2, 3, 4)).unflatten(1, (ELEMENTS, -1))  # -> (N, 4, fields)
        if self.power is not None:
            fields = fields.pow(1 / self.power)
        return torch.cat([fields.mean(dim=1), fields.amax(dim=1)], dim=1)  # (N, features)
