"""What `docs/scale.md` says is what its commands print, and the planner's simulation is of what it says."""

import gc
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import planner
from benchmarks.cost_model import BEGIN, END, MEASURED, cost, desi, in_page, nircam, tables

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_page_has_the_tables_of_the_command() -> None:
    text = PAGE.read_text()
    assert in_page(text, tables(4)) == text, "python -m benchmarks.cost_model --page docs/scale.md"
    assert in_page(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"


def test_commands_that_print_what_was_measured_are_there() -> None:
    found = [re.findall(r"python -m (benchmarks\.\w+)", constant.source) for constant in MEASURED.values()]
    assert sum(map(len, found)) >= 6
    assert all(find_spec(module) for modules in found for module in modules)


@pytest.mark.parametrize("survey", [desi(), nircam()], ids=lambda survey: survey.name)
def test_more_nodes_fetch_and_compute_faster_and_the_largest_term_bounds(survey) -> None:
    one, four = cost(survey, 1, 0), cost(survey, 4, 0)
    for name in ("fetching", "CPUs"):
        assert one.terms[name] == pytest.approx(4 * four.terms[name])
    assert one.terms["the driver"] == four.terms["the driver"]
    assert four.terms[four.bound] == max(four.terms.values())
    assert four.wall_h > max(four.terms.values())
    tiny = cost(replace(survey, units=survey.units * 1e4), 100, 0)
    assert tiny.bound == "the driver", "ever smaller units end in book-keeping"


def test_networks_move_from_cpus_to_gpus() -> None:
    on_cpu, on_gpu = cost(nircam(), 4, 0), cost(nircam(), 4, 2)
    assert on_gpu.cpu_h < on_cpu.cpu_h
    assert on_gpu.gpu_h > 0
    assert on_cpu.gpu_h == 0


@pytest.fixture
def few_objects() -> Iterator[None]:
    """Keep what other tests have left out of the garbage collections of each step."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("few_objects")
def test_simulated_release_changes_as_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planner.prepare(tmp_path, 400, 30)
    with closing(planner.Simulated(tmp_path, 400, 1)) as storage:
        told = planner.measure(storage, 30)
    assert told["changes"] == "4 new, 4 changed, 2 gone, 394 unchanged units since version 1"
    assert told["pending"] == 8
    assert told["units"] == 402
    assert told["rows"] == 402 * 30
    assert told["partitions"] == 1, "all in one pixel of order 0, and fewer rows than a partition may have"
    assert told["units_bytes"] > 402 * 16, "of ids alone"
    assert capsys.readouterr().out.count("\n| ") == 11
