"""Connect to Ray, check that it can do what is asked, and stop only what we started."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from pydantic import Field
from ray.exceptions import GetTimeoutError, RayTaskError

from engine import log
from engine.config import Config
from engine.errors import ResourceError
from engine.stage import Stage

_log = logging.getLogger(__name__)

PACKAGES = ("engine", "models")
"""What workers must be able to import."""


class ClusterConfig(Config):
    """Which Ray to use."""

    address: str = "auto"
    """auto: the cluster that RAY_ADDRESS or the submitted job names, else a Ray of our own on this
    machine; local: always our own; otherwise the address of a cluster (host:port or ray://...)."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Logical CPUs of our own Ray; None: those of the machine."""
    num_gpus: int | None = Field(default=None, ge=0)
    """GPUs of our own Ray; None: those that Ray finds."""
    object_store_memory_gib: float = Field(default=1.0, ge=0.08)
    """Shared memory of our own Ray [GiB]; Ray's default would take a third of the machine."""
    may_grow: bool = False
    """The cluster scales up on demand: do not refuse what its present nodes cannot give."""
    import_timeout_s: float = Field(default=120.0, gt=0)
    """How long a worker may take to start and import our packages in the preflight [s]."""


@contextmanager
def connect(config: ClusterConfig, has_dashboard: bool = False) -> Iterator[None]:
    """Be connected to Ray inside the `with`; a Ray that we started is stopped afterwards.

    Parameters
    ----------
    config
        Which Ray, or how large one is started.
    has_dashboard
        Whether a Ray that is started has its dashboard, on loopback. Ray Train asks it whether the controller of a run is
        gone: without it a training that is stopped from outside keeps its CPUs reserved for ever (Ray 2.60).

    Raises
    ------
    ResourceError
        If the cluster that the configuration or RAY_ADDRESS names cannot be reached.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(config)
    if address == "local":
        _start_local(config, has_dashboard)
    else:
        _attach(address)
    log.adopt("ray")
    try:
        yield
    finally:
        ray.shutdown()


def _address(config: ClusterConfig) -> str:
    if config.address != "auto":
        return config.address
    return os.environ.get("RAY_ADDRESS", "") or "local"


def _start_local(config: ClusterConfig, has_dashboard: bool) -> None:
    # On loopback only. Otherwise Ray writes a token that turns authentication on for every later
    # cluster of this user while its command line does not send it (Ray 2.59 and later).
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise the first driver waits for a worker for each CPU, and for ever if one dies while it starts (ray issue 40131).
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    try:
        _init_local(config, has_dashboard)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        _log.warning("Ray did not start within its 30 s: the machine is busy; trying once more")
        _init_local(config, has_dashboard)
    _log.info("started Ray with %g CPUs", ray.cluster_resources().get("CPU", 0))


def _init_local(config: ClusterConfig, has_dashboard: bool) -> None:
    ray.init(
        address="local",
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        object_store_memory=int(config.object_store_memory_gib * 2**30),
        include_dashboard=has_dashboard,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _attach(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise ResourceError(
            "no Ray cluster can be reached",
            address,
            got=str(error),
            hint="Check cluster.address and RAY_ADDRESS, or set cluster.address = 'local'.",
        ) from error


def preflight(stages: Sequence[Stage], config: ClusterConfig) -> None:
    """Check that each stage fits on some node, and that workers can import our packages.

    Raises
    ------
    ResourceError
        Naming the stage, what it asks for, what there is, and what to do.
    """
    if not config.may_grow:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for stage in stages:
            _check_fits(stage, nodes)
    _check_imports(config.import_timeout_s)


def _check_fits(stage: Stage, nodes: Sequence[dict[str, float]]) -> None:
    asked = {
        "CPU": stage.resources.num_cpus,
        "GPU": stage.resources.num_gpus,
        "memory": stage.resources.memory_gib * 2**30,
    }
    if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return
    best = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
    raise ResourceError(
        "no node of the cluster can run the stage",
        f"stage '{stage.name}'",
        got=_text(best) + " at most on a node",
        expected=_text(asked),
        hint="Lower what the stage asks for (infer.num_gpus, infer.num_cpus, infer.memory_gib), add nodes, "
        "or set cluster.may_grow = true if the cluster scales by itself.",
    )


def _text(amounts: dict[str, float]) -> str:
    memory = amounts["memory"] / 2**30
    parts = [f"{amounts['CPU']:g} CPU", f"{amounts['GPU']:g} GPU"] + ([f"{memory:.3g} GiB"] if memory else [])
    return ", ".join(parts)


def _check_imports(timeout_s: float) -> None:
    task = ray.remote(num_cpus=0, max_retries=1)(_import_packages)
    try:
        missing = ray.get(task.remote(PACKAGES), timeout=timeout_s)
    except GetTimeoutError:
        raise ResourceError("no worker started", "preflight", got=f"nothing in {timeout_s:g} s") from None
    except RayTaskError as error:
        missing = str(error).strip().splitlines()[-1]
    if missing:
        raise ResourceError(
            "workers cannot import our packages",
            "preflight",
            got=missing,
            expected=", ".join(PACKAGES),
            hint="Install the project on all nodes, or submit the job with --working-dir.",
        )


def _import_packages(packages: Sequence[str]) -> str:
    from importlib.util import find_spec

    return ", ".join(f"no {package}" for package in packages if find_spec(package) is None)
