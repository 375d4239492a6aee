"""What the benchmark of the overhead makes of what it has seen of the driver."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.overhead import Sample, driver_ms, watch


def test_driver_pays_for_the_units_between_the_first_and_the_last_record() -> None:
    start = [Sample(0.0, 0), Sample(9.0, 0)]  # imports, and Ray's own start
    work = [Sample(10.0, 4), Sample(10.2, 50), Sample(10.5, 104)]
    end = [Sample(15.0, 104)]  # publishing
    assert driver_ms([*start, *work, *end]) == pytest.approx(5.0)
    assert math.isnan(driver_ms(start))
    assert math.isnan(driver_ms([*start, Sample(10.0, 9)]))
    assert math.isnan(driver_ms([]))


def test_a_process_is_watched_until_it_ends(tmp_path: Path) -> None:
    (tmp_path / "unit.json").touch()
    samples: list[Sample] = []
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        watch(process.pid, tmp_path, samples)
    assert all(sample.records == 1 for sample in samples)
    watch(process.pid, tmp_path, samples := [])
    assert samples == [], "it is gone"
