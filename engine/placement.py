"""Where the parts of a pipeline run, so that all of them fit on the cluster at once. Nothing here knows Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from engine.config import Config
from engine.errors import ResourceError
from engine.stage import Resources, Stage

CPU_STEP = 0.01
"""Smallest amount of CPU that Ray can tell apart from none."""


class PipelineConfig(Config):
    """How units run on the cluster."""

    placement: Literal["auto", "fused", "split"] = "auto"
    """fused: one actor reads, computes and writes a unit; split: tasks read, actors compute and write,
    so that CPUs feed GPUs; auto: split if a stage asks for a GPU, else fused."""
    workers: int | None = Field(default=None, ge=1)
    """Actors that compute; None: as many as the cluster's CPUs or GPUs allow."""
    units_per_worker: int | None = Field(default=None, ge=1, le=8)
    """Units that a worker holds at once: it reads one while it computes another. None: 2 from object storage,
    which keeps one waiting; 1 from a local disk, where threads only take turns."""
    read_cpus: float = Field(default=1.0, gt=0)
    """CPUs that a reading task asks for (split)."""
    worker_memory_gib: float = Field(default=0.0, ge=0)
    """Memory that a worker reserves on its node [GiB]; 0: none."""
    read_memory_gib: float = Field(default=0.0, ge=0)
    """Memory that a reading task reserves on its node [GiB] (split); 0: none."""
    max_attempts: int = Field(default=3, ge=1)
    """Workers that may die (be killed, crash, run out of memory) of one unit: then it is given up for this run, and its
    files are `rejected` as `worker_died`. Of nodes that are lost three times as many."""
    heartbeat_s: float = Field(default=30.0, gt=0)
    """How often driver and workers write where they are, for `status` [s]; two small objects each time."""


MAX_WORKERS = 1000
"""Actors that a cluster that grows may come to: Ray schedules them all in the driver."""

GIB = 2**30

Node = Mapping[str, float]
"""Resources of a node as Ray tells them: CPU, GPU, memory [bytes]."""


@dataclass(frozen=True)
class WorkerPlan:
    """Where each part of the pipeline runs; see `plan_workers`. `reasons` tell where less was planned than asked for."""

    placement: Literal["fused", "split"]
    read_stages: tuple[Stage, ...]
    shared_stages: tuple[Stage, ...]
    branch_stages: tuple[tuple[Stage, ...], ...]
    reader: Resources
    worker: Resources
    workers: int
    max_workers: int
    threads: int
    reasons: tuple[str, ...] = ()


def plan_workers(
    num_units: int,
    branches: Sequence[Sequence[Stage]],
    config: PipelineConfig,
    nodes: Sequence[Node],
    is_remote: bool = False,
    may_grow: bool = False,
) -> WorkerPlan:
    """Decide placement, number and size of workers so that all of them and a reader fit at once.

    If actors held every CPU, reading tasks would never start, and Ray would wait without a word
    (ray-project/ray#44687). So workers ask for a little less CPU than they use where there is no room.
    Ray runs a reading task inside the worker if both ask for the same: wanted when fused, where it only
    names the unit, and avoided when split. Stages that all branches begin with run once a unit.

    Parameters
    ----------
    num_units, branches, config
        What is to be run: the stages of each branch.
    nodes
        What each node that is there has.
    is_remote
        Whether units are read over a network.
    may_grow
        Whether nodes come and go while it runs: workers then ask for all that they use, begin as many as fit
        now (one at least), and become more or fewer with the nodes.

    Raises
    ------
    ResourceError
        If not one worker fits on any node, and none is to come.
    """
    everything = [stage for stages in branches for stage in stages]
    uses_gpu = any(stage.resources.num_gpus > 0 for stage in everything)
    placement = config.placement if config.placement != "auto" else ("split" if uses_gpu else "fused")
    common = _common_start(branches)
    cut = min([len(common), *map(_first_worker_stage, branches)]) if placement == "split" else 0
    asked = _largest([stage for stages in branches for stage in stages[cut:]], config)
    wished = min(config.workers or _fitting(asked, nodes, placement), num_units)
    workers, reasons = _with_room(wished, asked, config, nodes, placement, may_grow)
    reader, worker = _shares(workers, asked, config, nodes, placement, may_grow)
    return WorkerPlan(
        placement=placement,
        read_stages=common[:cut],
        shared_stages=common[cut:],
        branch_stages=tuple(tuple(stages[len(common) :]) for stages in branches),
        reader=reader,
        worker=worker,
        workers=workers,
        max_workers=max(workers, min(num_units, MAX_WORKERS)) if may_grow and not config.workers else workers,
        threads=config.units_per_worker or (2 if is_remote else 1),
        reasons=reasons,
    )


def _with_room(
    wished: int,
    asked: Resources,
    config: PipelineConfig,
    nodes: Sequence[Node],
    placement: str,
    may_grow: bool,
) -> tuple[int, tuple[str, ...]]:
    """How many of the workers find GPU and memory on the nodes, and why fewer; CPU they share, see `_shares`."""
    if not asked.memory_gib and not asked.num_gpus:
        return wished, ()
    read_gib = config.read_memory_gib if placement == "split" else 0.0
    room = sum(_room(asked, node) for node in nodes)
    free_gib = sum(node.get("memory", 0.0) for node in nodes) / GIB - read_gib
    if asked.memory_gib:
        room = min(room, int(free_gib / asked.memory_gib + 1e-9))
    if room >= wished:
        return wished, ()
    if room < 1 and not may_grow:
        raise ResourceError(
            "no node of the cluster has room for a worker",
            "pipeline",
            got="; ".join(_text(node) for node in nodes) or "no node",
            expected=f"{asked.num_gpus:g} GPU and {asked.memory_gib:.3g} GiB for a worker"
            + (f", {read_gib:.3g} GiB for a reading task" if read_gib else ""),
            hint="Lower infer.memory_gib, infer.num_gpus, pipeline.worker_memory_gib or pipeline.read_memory_gib, add "
            "nodes, or set cluster.may_grow = true if the cluster scales by itself.",
        )
    workers = max(room, 1)
    reason = (
        f"{workers} workers instead of {wished}: each asks for {asked.num_gpus:g} GPU and {asked.memory_gib:.3g} GiB "
        f"and the nodes have room for {room}"
    )
    return workers, (reason,)


def _room(asked: Resources, node: Node) -> int:
    """How many workers find GPU and memory on a node."""
    fits = [node.get("GPU", 0.0) / asked.num_gpus] if asked.num_gpus else []
    fits += [node.get("memory", 0.0) / GIB / asked.memory_gib] if asked.memory_gib else []
    return int(min(fits) + 1e-9)


def _text(node: Node) -> str:
    memory_gib = node.get("memory", 0.0) / GIB
    return f"{node.get('CPU', 0.0):g} CPU, {node.get('GPU', 0.0):g} GPU, {memory_gib:.3g} GiB"


def _shares(
    workers: int,
    asked: Resources,
    config: PipelineConfig,
    nodes: Sequence[Node],
    placement: str,
    may_grow: bool,
) -> tuple[Resources, Resources]:
    """Return what a reading task and a worker ask for."""
    cpus = _total(nodes, "CPU")
    if may_grow:  # what is not there now is to come
        cpus = max(cpus, workers * asked.num_cpus + max(asked.num_cpus, config.read_cpus) + 1.0)
    if placement == "fused":
        num_cpus = min(asked.num_cpus, cpus / (workers + 1))
        reader = Resources(num_cpus, asked.num_gpus, asked.memory_gib)
    else:
        reader = Resources(min(config.read_cpus, cpus / 2), 0.0, config.read_memory_gib)
        num_cpus = min(asked.num_cpus, (cpus - reader.num_cpus) / workers) - CPU_STEP
    return reader, Resources(max(num_cpus, CPU_STEP), asked.num_gpus, asked.memory_gib)


def _total(nodes: Sequence[Node], name: str) -> float:
    return sum(node.get(name, 0.0) for node in nodes)


def _common_start(branches: Sequence[Sequence[Stage]]) -> tuple[Stage, ...]:
    """Stages that all branches begin with."""
    start: list[Stage] = []
    for level in zip(*branches, strict=False):
        if any(stage != level[0] for stage in level):
            break
        start.append(level[0])
    return tuple(start)


def _fitting(asked: Resources, nodes: Sequence[Node], placement: str) -> int:
    """How many workers of a size the cluster can hold; half the CPUs are for reading when split."""
    if asked.num_gpus:
        return max(1, int(_total(nodes, "GPU") / asked.num_gpus))
    share = 1.0 if placement == "fused" else 0.5
    return max(1, round(share * _total(nodes, "CPU") / asked.num_cpus))


def _first_worker_stage(stages: Sequence[Stage]) -> int:
    """Stages before the first that wants a GPU run where the files are read; else all but the last."""
    on_gpu = [index for index, stage in enumerate(stages) if stage.resources.num_gpus > 0]
    return on_gpu[0] if on_gpu else max(0, len(stages) - 1)


def _largest(stages: Sequence[Stage], config: PipelineConfig) -> Resources:
    """Resources of an actor that runs these stages one after the other."""
    asked = [stage.resources for stage in stages]
    return Resources(
        num_cpus=max([r.num_cpus for r in asked if r.num_cpus > 0], default=1.0),
        num_gpus=max([r.num_gpus for r in asked], default=0.0),
        memory_gib=max([config.worker_memory_gib, *(r.memory_gib for r in asked)]),
    )
