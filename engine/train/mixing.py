"""Batches of two sets in one epoch: each is of the other set with probability alpha, else of the first.

Which is drawn is a function of (seed, epoch) alone, so that processes that train together draw the same set in
the same step, and a resumed run repeats an uninterrupted one. An epoch has a fixed number of steps whatever alpha is:
what changes is where batches are from, not how many there are. As both sets are read in a fixed order, and in general not
to their end, each epoch takes another random part of the rows of each (`thinned`).

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, and its released code: the mixing.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import pyarrow as pa

from engine.schema import Arrays
from engine.train.batches import shuffled_batches
from engine.train.plan import EpochPlan, MixPlan

CHOICE, FIRST, OTHER = 1, 2, 3
"""Streams of random numbers that are independent of each other and of the shuffle."""


def mixed_batches(
    first: Iterable[pa.Table], other: Iterable[pa.Table], plan: EpochPlan, epoch: int
) -> Iterator[Arrays]:
    """Yield the batches of an epoch.

    Parameters
    ----------
    first, other
        Training rows of both sets, each with all columns of the plan; the iterables are not read to their end.
    plan
        Sizes, seed and `mix`; without `mix` the batches are those of the first set alone.
    epoch
        Number of the epoch, from 0.
    """
    mix = plan.mix
    if mix is None:
        yield from _shuffled(first, plan, plan.seed, epoch)
        return
    sets = (
        _shuffled(thinned(first, mix.keep[0], [plan.seed, epoch, FIRST]), plan, plan.seed, epoch),
        _shuffled(thinned(other, mix.keep[1], [plan.seed, epoch, OTHER]), plan, plan.seed + 1, epoch),
    )
    for is_other in chosen(mix, plan.seed, epoch):
        batch = next(sets[is_other], None)
        if batch is None:
            return
        yield batch


def chosen(mix: MixPlan, seed: int, epoch: int) -> list[bool]:
    """Whether each batch of an epoch is of the other set."""
    draws = np.random.default_rng([seed, epoch, CHOICE]).random(mix.steps)
    return (draws < mix.alpha).tolist()


def thinned(tables: Iterable[pa.Table], fraction: float, seed: list[int]) -> Iterator[pa.Table]:
    """Yield a random part of the rows of a stream, however it is cut into tables; all of them if `fraction` is 1."""
    if fraction >= 1:
        yield from tables
        return
    rng = np.random.default_rng(seed)
    for table in tables:
        yield table.filter(pa.array(rng.random(table.num_rows) < fraction))


def exhaust(*streams: Iterable[pa.Table]) -> None:
    """Read streams to their end: what is read by several processes cannot start anew before."""
    for _ in chain(*streams):
        pass


def _shuffled(tables: Iterable[pa.Table], plan: EpochPlan, seed: int, epoch: int) -> Iterator[Arrays]:
    return shuffled_batches(tables, plan.columns, plan.batch_rows, plan.buffer_rows, seed, epoch)
