"""Nodes join and leave while a job runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(400),
]  # two nodes start and one is found dead: slow on a busy machine


def test_node_joins_the_first_one_dies_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """With units in hand on both; all that the first leaves is computed by the one that came."""
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.elastic", str(tmp_path)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr[-2000:]
    before, after, records, distinct = json.loads((tmp_path / "counts.json").read_text())
    assert (before, after) == (1, 2)
    assert records == distinct == 100
