"""What goes wrong, each at a random moment of a run: processes that die, servers, disks, memory, clocks.

A full disk is a limit on the size of files (`RLIMIT_FSIZE`), and a lack of memory one on the address space
(`RLIMIT_AS`), set from outside upon a worker while it runs: it meets the errors of the real thing, the machine does
not. A clock that jumps is that of one node, whose processes are started with libfaketime; those of the others go on as before.
"""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.faults.nodes import Nodes, set_clock
from benchmarks.faults.proxy import FaultProxy
from benchmarks.faults.rgw import Rgw

CLOCK_JUMPS = (3600, -3600, 86400, -86400)
"""How far a clock jumps [s]."""


@dataclass
class Scene:
    """What a fault can lay hands on, and when it has struck."""

    driver: subprocess.Popen[bytes]
    rng: random.Random
    nodes: Nodes | None = None
    proxy: FaultProxy | None = None
    clock: Path | None = None
    server: Rgw | None = None
    struck: float = 0.0
    told: list[str] = field(default_factory=list)

    def strikes(self) -> None:
        """Note when the fault happens (`struck`, of the monotonic clock); one that waits for its victim notes it again."""
        self.struck = time.monotonic()

    def workers(self, title: str = "ray::") -> list[psutil.Process]:
        """Return processes of Ray workers whose title begins so: those below the driver, or on the nodes.

        Agents (`ray::RuntimeEnvAgent`) are called alike and are no workers: a raylet dies with them, which is the
        loss of a node.
        """
        roots = self.nodes.pids() if self.nodes else [self.driver.pid]
        found = [child for pid in roots for child in _children(pid)]
        titles = [(process, _title(process)) for process in found]
        return [process for process, name in titles if name.startswith(title) and not name.endswith("Agent")]

    def pick(self, title: str) -> psutil.Process | None:
        """One of them; waits for the first while the driver lives."""
        while not (found := self.workers(title)) and self.driver.poll() is None:
            time.sleep(0.1)
        self.strikes()
        return self.rng.choice(found) if found else None


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes
    ----------
    name
        For the table.
    inflict
        Does it; False if there was nothing to do it to.
    place
        "own" (a Ray that the job starts), "nodes" (several nodes) or "s3" (own, with an S3 server behind a proxy).
    overrides
        Configuration that the run needs.
    needs
        Tool without which it cannot be inflicted: "libfaketime", or "radosgw" (Ceph's gateway); none if empty.
    """

    name: str
    inflict: Callable[[Scene], bool]
    place: str = "own"
    overrides: tuple[str, ...] = ()
    needs: str = ""


def kill_driver(scene: Scene) -> bool:
    """Kill the driver, and the Ray that it has started, at one moment."""
    if scene.driver.poll() is not None:
        return False
    doomed = [] if scene.nodes else _children(scene.driver.pid)
    os.kill(scene.driver.pid, signal.SIGKILL)
    for process in doomed:
        _kill(process)
    return True


def kill_worker(title: str) -> Callable[[Scene], bool]:
    """Kill a worker process."""

    def inflict(scene: Scene) -> bool:
        victim = scene.pick(title)
        if victim is None:
            return False
        scene.told.append(_title(victim))
        return _kill(victim)

    return inflict


def kill_node(scene: Scene) -> bool:
    """Kill a node: its raylet by SIGKILL, and with it all that runs there; another takes its place."""
    assert scene.nodes is not None
    is_running = scene.driver.poll() is None
    scene.nodes.replace_one(scene.rng)
    return is_running


def limit(which: int, leaves: Callable[[psutil.Process], int]) -> Callable[[Scene], bool]:
    """Set a limit upon a worker that computes."""

    def inflict(scene: Scene) -> bool:
        victim = scene.pick("ray::MapWorker")
        if victim is None:
            return False
        try:
            resource.prlimit(victim.pid, which, (leaves(victim), resource.RLIM_INFINITY))
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False
        scene.told.append(_title(victim))
        return True

    return inflict


def restart_server(scene: Scene) -> bool:
    """Kill the server by SIGKILL and start it again after some seconds."""
    assert scene.proxy is not None
    assert scene.server is not None
    is_running = scene.driver.poll() is None
    scene.server.kill()
    scene.proxy.is_down = True
    time.sleep(scene.rng.uniform(1.0, 4.0))
    scene.server.restart()
    scene.proxy.is_down = False
    return is_running


def jump(scene: Scene) -> bool:
    """Set the clock of the last node an hour or a day on, or back, while it works."""
    assert scene.clock is not None
    offset = scene.rng.choice(CLOCK_JUMPS)
    set_clock(scene.clock, offset)
    scene.told.append(f"{offset:+d} s")
    return scene.driver.poll() is None


def nothing_more(scene: Scene) -> bool:
    """Leave it alone: what goes wrong does so all the while."""
    return scene.driver.poll() is None


FAULTS = (
    Fault("driver", kill_driver),
    Fault("reader", kill_worker("ray::Read"), overrides=("pipeline.placement=split",)),
    Fault("actor", kill_worker("ray::MapWorker")),
    Fault("node", kill_node, "nodes"),
    Fault("driver on nodes", kill_driver, "nodes"),
    Fault("server restarts", restart_server, "s3", needs="radosgw"),
    Fault("server misbehaves", nothing_more, "s3"),
    Fault("disk full", limit(resource.RLIMIT_FSIZE, lambda _: 4096)),
    Fault("out of memory", limit(resource.RLIMIT_AS, lambda process: process.memory_info().vms + (1 << 20))),
    Fault("clock jumps", jump, "nodes", needs="libfaketime"),
)
"""All of them, in the order of the table."""


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        process.kill()
        return True
    return False


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return "".join(process.cmdline()[:1])
    return ""
