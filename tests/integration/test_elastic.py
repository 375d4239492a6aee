"""Workers join while a job runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_node_that_joins_takes_its_share_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.elastic", str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, records, distinct = map(int, done.stdout.split()[-4:])
    assert (before, after) == (1, 2)
    assert records == distinct == 100
