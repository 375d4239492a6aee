"""`make chaos` in short: a node is killed at a random moment. Workers, drivers and servers that fail have tests of their own here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.elastic import DEATH_IS_NOTICED

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_killed_node_leaves_the_catalogue_as_it_would_have_been() -> None:
    options = ["--moments", "1", "--faults", "node", "--files", "3", "--seed", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        env=os.environ | DEATH_IS_NOTICED,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    cells = [line.split("|") for line in ran.stdout.splitlines() if line.startswith("| node |")]
    assert [int(row[3]) for row in cells] == [1], f"no run was hit: {ran.stdout}"
