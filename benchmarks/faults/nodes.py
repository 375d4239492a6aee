"""Several Ray nodes on this machine, that can be killed, replaced, pinned to a core, or given another time."""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from ray.cluster_utils import Cluster

MEMORY_BYTES = 150 << 20
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)
"""Where Debian's libfaketime is."""


def set_environment() -> None:
    """Set what Ray must find in the environment of a cluster on loopback."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


class Nodes:
    """A head without CPUs, and worker nodes.

    Parameters
    ----------
    num
        Worker nodes.
    num_cpus
        Logical CPUs of each.
    cores
        Core of each worker node; none: they share all cores.
    clock
        File with the offset of the clock of the last node, as libfaketime reads it; none: no other clock.
    """

    def __init__(
        self, num: int, num_cpus: float = 1, cores: tuple[int, ...] = (), clock: Path | None = None
    ) -> None:
        set_environment()
        self._num_cpus, self._cores, self._clock = num_cpus, cores, clock
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._last = num - 1
        self._nodes = [self._add(number) for number in range(num)]

    def __enter__(self) -> "Nodes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """What a job connects to."""
        return self._cluster.address

    def pids(self) -> list[int]:
        """Raylets of the worker nodes."""
        return [_raylet(node) for node in self._nodes]

    def kill_one(self, rng: random.Random) -> int:
        """Kill a node, which nothing replaces yet; return its number."""
        number = rng.randrange(len(self._nodes))
        self._cluster.remove_node(self._nodes[number], allow_graceful=False)
        return number

    def replace_one(self, rng: random.Random) -> None:
        """Kill a node and start another in its place, as an autoscaler does."""
        number = self.kill_one(rng)
        self._nodes[number] = self._add(number)

    def _add(self, number: int) -> Any:
        variables = clock_of(self._clock) if self._clock is not None and number == self._last else {}
        node = self._cluster.add_node(
            num_cpus=self._num_cpus, object_store_memory=MEMORY_BYTES, env_vars=dict(variables)
        )
        if self._cores:
            _pin(_raylet(node), self._cores[number])
        return node


def has_faketime() -> bool:
    """Tell whether a node can have a clock of its own here."""
    return any(Path(path).exists() for path in FAKETIME)


def set_clock(file: Path, offset_s: int) -> None:
    """Say how far the clock of the last node is ahead of ours [s]; its processes notice within a second."""
    file.write_text(f"{offset_s:+d}\n")


def clock_of(file: Path) -> Mapping[str, str]:
    """Return variables with which a process has the clock of a file; those that measure durations stay as they are."""
    library = next(path for path in FAKETIME if Path(path).exists())
    return {
        "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def _pin(pid: int, core: int) -> None:
    """Let a raylet and what it starts, now and later, run on one core alone."""
    raylet = psutil.Process(pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        process.cpu_affinity([core])
