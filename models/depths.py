"""Blocks in the four stages of a residual network, by its depth (He et al. 2016, arXiv 1512.03385, table 1)."""

BLOCKS_PER_STAGE = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
FIRST_BOTTLENECK_DEPTH = 50  # from here on a block is a bottleneck; below it two convolutions of side 3
