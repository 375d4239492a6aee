"""Fixtures that several folders of tests share: Ray once a session, real data where it is at hand."""

import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores: spinning threads starve
os.environ.setdefault("NUMBA_OPT", "0")  # UMAP is compiled anew each time, for one small embedding
# Its cache does not know of that: what tests compile must not be what jobs of this checkout run, forty times slower.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "numba"))
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault(
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3"
)  # runs of seconds need not wait for the next 2 s
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")  # the same for the export each 10 s
os.environ.setdefault(
    "RAY_worker_niceness", "5"
)  # instead of 15, with which the process below would go first
os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")

pytest_plugins = ["tests.servers"]

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write tests/golden anew")


class OneRay(LoadScopeScheduling):
    """Deals tests to processes one by one, but all files with tests that share a Ray to one process.

    By file and not by `xdist_group`, which xdist 3.8 loses with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.partition("::")[0] in _files_with_ray() else nodeid


@cache
def _files_with_ray() -> frozenset[str]:
    root = Path(__file__).parents[1]
    return frozenset(
        str(path.relative_to(root))
        for path in root.glob("tests/**/test_*.py")
        if "mark.ray" in path.read_text()
    )


@cache
def _take_what_is_left() -> None:
    """Lower this process's priority, once."""
    os.nice(10)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the process with the tests with Ray go first: they are the longest."""
    beside_others = "PYTEST_XDIST_WORKER" in os.environ
    if beside_others and item.nodeid.partition("::")[0] not in _files_with_ray():
        _take_what_is_left()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay:
    """Return what deals tests to processes (`pytest -n 2`)."""
    return OneRay(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real survey data that lies beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not beside the project")
    return SHARED_DATA


@pytest.fixture
def rewrite_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--rewrite-golden"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Start one Ray for all tests that need one; 6 logical CPUs so that actors and reads never starve."""
    import ray.data

    ray.init(num_cpus=6, include_dashboard=False, object_store_memory=300 << 20, log_to_driver=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 warns of its own settings when it first makes them
        ray.data.DataContext.get_current()
    yield
    ray.shutdown()
