"""Which pairs of rows there are, of the same class and of different ones, and drawing some of them evenly."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairPool:
    """All pairs of rows between some pairs of classes, without those that share a particle.

    Rows are kept sorted by class; a block (a, b) is every pair of a row of class a with a row of class b.
    """

    rows: np.ndarray  # (N,) row numbers, sorted by class
    starts: np.ndarray  # (K + 1,) where each class starts in `rows`
    particles: np.ndarray  # (N_all,) integer particle of each row number
    blocks: np.ndarray  # (B, 2) class numbers
    sizes: np.ndarray  # (B,) pairs of each block that share no particle

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return int(self.sizes.sum())

    def draw(self, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """`wanted` distinct pairs (M, 2) drawn evenly, or all when there are no more; memory grows with `wanted`."""
        if self.count <= 2 * wanted:
            pairs = np.concatenate([self._enumerate(a, b) for a, b in self.blocks] or [np.empty((0, 2), int)])
            return pairs if len(pairs) <= wanted else rng.choice(pairs, wanted, replace=False)
        total = len(self.particles)
        codes = np.empty(0, dtype=np.int64)
        while len(codes) < wanted:
            pairs = self._throw(2 * (wanted - len(codes)) + 64, rng)
            codes = np.concatenate([codes, pairs.min(axis=1) * total + pairs.max(axis=1)])
            codes = codes[np.sort(np.unique(codes, return_index=True)[1])]  # the first of each, order kept
        return np.stack(np.divmod(codes[:wanted], total), axis=1)

    def _enumerate(self, a: int, b: int) -> np.ndarray:
        """Every pair (M, 2) of block (a, b)."""
        first, second = (self.rows[self.starts[k] : self.starts[k + 1]] for k in (a, b))
        apart = self.particles[first][:, None] != self.particles[second][None, :]
        if a == b:
            apart = np.triu(apart, 1)
        i, j = np.nonzero(apart)
        return np.stack([first[i], second[j]], axis=1)

    def _throw(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Some pairs (<= number, 2), each pair of the pool as likely as any other; repeats happen."""
        lengths = np.diff(self.starts)
        block_lengths = lengths[self.blocks]  # (B, 2)
        boxes = block_lengths.prod(axis=1).astype(float)
        boxes[self.blocks[:, 0] == self.blocks[:, 1]] /= (
            2  # each pair within a class is met twice, as (i, j) and (j, i)
        )
        block = rng.choice(len(boxes), size=number, p=boxes / boxes.sum())
        within = (rng.random((number, 2)) * block_lengths[block]).astype(int)
        pairs = self.rows[self.starts[self.blocks[block]] + within]
        return pairs[self.particles[pairs[:, 0]] != self.particles[pairs[:, 1]]]


def pair_pools(labels: np.ndarray, particles: np.ndarray, sides: np.ndarray | None = None) -> tuple[PairPool, PairPool]:
    """The pools of same-class and of different-class pairs; no pair shares a particle.

    Args:
        labels: (N,) class names.
        particles: (N,) an identity that all copies of one particle share.
        sides: (N,) bool; when given, different-class pairs are only those of one row of each side.
    """
    from scipy.sparse import csr_matrix  # here: open_set.py --help does without SciPy

    particles = np.unique(np.asarray(particles), return_inverse=True)[1]
    names, numbers = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(len(names) + 1))
    copies = csr_matrix((np.ones(len(numbers)), (particles, numbers)))  # (particles, K)
    shared = (copies.T @ copies).toarray()  # (K, K) ordered row pairs that share a particle

    blocks = np.stack(np.triu_indices(len(names)), axis=1)
    lengths = np.diff(starts)
    sizes = lengths[blocks].prod(axis=1) - shared[blocks[:, 0], blocks[:, 1]]
    same = blocks[:, 0] == blocks[:, 1]
    sizes = np.where(same, sizes / 2, sizes).astype(np.int64)
    different = ~same
    if sides is not None:
        side = np.asarray(sides)[order[starts[:-1]]]  # (K,)
        if (side[numbers] != sides).any():
            raise ValueError("a class has rows on both sides; expected seen and unseen classes to be disjoint")
        different &= side[blocks[:, 0]] != side[blocks[:, 1]]
    return tuple(
        PairPool(order, starts, particles, blocks[chosen & (sizes > 0)], sizes[chosen & (sizes > 0)])
        for chosen in (same, different)
    )
