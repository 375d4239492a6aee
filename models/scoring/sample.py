"""A random sample of a stream of any length."""

from collections.abc import Iterable, Sequence

import numpy as np


def random_rows(parts: Iterable[Sequence[np.ndarray]], num_rows: int, seed: int) -> list[np.ndarray]:
    """Keep random rows of a stream, in random order: those that drew the smallest keys.

    Parameters
    ----------
    parts
        Columns [rows, ...] that belong together; the same ones, in the same order, in each part.
    num_rows
        How many to keep; all where there are not more.
    seed
        Of the keys.

    Returns
    -------
    list of numpy.ndarray
        The columns; an empty list if there were no parts.
    """
    random = np.random.default_rng(seed)
    kept, keys = list[np.ndarray](), np.empty(0)
    for part in parts:
        keys = np.concatenate([keys, random.random(len(part[0]))])
        chosen = np.argsort(keys, kind="stable")[:num_rows]
        columns = map(np.concatenate, zip(kept, part, strict=True)) if kept else part
        kept, keys = [column[chosen] for column in columns], keys[chosen]
    return kept
