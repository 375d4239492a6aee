"""Threads of torch that a training worker takes."""

import pytest

from engine.train import worker
from engine.train.plan import TrainConfig


@pytest.mark.parametrize(
    ("cores", "workers", "readers_compute", "expected"),
    [
        (16, 1, False, 16),
        (16, 4, False, 4),
        (16, 1, True, 8),
        (2, 1, True, 1),
        (2, 4, False, 1),
        (2, 4, True, 1),
    ],
)
def test_cores_are_shared_by_workers_and_by_readers_that_make_rows(
    monkeypatch, cores, workers, readers_compute, expected
):
    monkeypatch.setattr(worker.os, "cpu_count", lambda: cores)
    assert worker.num_threads(TrainConfig(), workers, readers_compute) == expected


def test_a_number_that_is_given_counts():
    assert worker.num_threads(TrainConfig(threads_per_worker=3), 1, readers_compute=True) == 3
