"""Mini-batches of the training of the shipped checkpoints: every spectrum counts, and a training goes on as it was."""

import argparse
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import train_default
from benchmarks.train_default import CHUNK_ROWS, POOL_CHUNKS, mixed

ROWS = 256


@pytest.fixture(autouse=True)
def _numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that hold the numbers of their spectra."""

    def chunks(recipe: None, seed: int, first: int, last: int, num_workers: int) -> Iterator[dict]:
        for index in range(first, last):
            yield {"flux": index * CHUNK_ROWS + np.arange(CHUNK_ROWS)}

    monkeypatch.setattr(train_default, "chunks", chunks)


def drawn(passes: int, first: int, last: int) -> dict[int, np.ndarray]:
    args = argparse.Namespace(seed=3, passes=passes, batch_rows=ROWS, num_workers=0)
    return {
        index: np.stack([batch["flux"] for batch in batches])
        for index, batches in mixed(args, cast(Any, None), first, last)
    }


def test_one_pass_uses_each_spectrum_once() -> None:
    found = np.concatenate(list(drawn(1, 0, 3).values())).ravel()
    assert sorted(found) == list(range(3 * CHUNK_ROWS))


def test_passes_use_the_newest_chunk_and_some_before_it() -> None:
    for index, batches in drawn(4, 0, 12).items():
        numbers, counts = np.unique(batches, return_counts=True)
        newest = numbers // CHUNK_ROWS == index
        assert newest.sum() == CHUNK_ROWS
        assert counts.sum() == 4 * CHUNK_ROWS
        assert numbers.min() // CHUNK_ROWS > index - POOL_CHUNKS


def test_training_that_goes_on_sees_what_it_would_have_seen() -> None:
    whole, rest = drawn(3, 0, 14), drawn(3, 10, 14)
    assert list(rest) == [10, 11, 12, 13]
    for index, batches in rest.items():
        np.testing.assert_array_equal(batches, whole[index])
