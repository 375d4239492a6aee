"""`make chaos` in short: a worker and a node are killed at a random moment each; the table of all faults is that of the benchmark."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_killed_worker_and_a_killed_node_leave_the_catalogue_as_it_would_have_been() -> None:
    options = ["--moments", "2", "--faults", "actor,node", "--files", "3", "--seed", "2"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *options],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    hits = {
        cells[1]: int(cells[3])
        for line in ran.stdout.splitlines()
        if line.startswith(("| actor |", "| node |"))
        and (cells := [cell.strip() for cell in line.split("|")])
    }
    assert hits == {"actor": 1, "node": 1}, ran.stdout
