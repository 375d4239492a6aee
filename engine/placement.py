"""Where the parts of a pipeline run, so that all of them fit on the cluster at once. Nothing here knows Ray."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """CPUs that a reading task asks for (split); at most half of a node's, so that workers find the others."""
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

NOTHING = Resources(num_cpus=0.0)

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
    (ray-project/ray#44687). So workers ask for a little less CPU than they use where there is no room, and are
    fewer than it takes to leave no node room for a reader, wherever Ray puts them.
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
        If not one worker fits on any node, or no reader beside it, and none is to come.
    """
    everything = [stage for stages in branches for stage in stages]
    uses_gpu = any(stage.resources.num_gpus > 0 for stage in everything)
    placement = config.placement if config.placement != "auto" else ("split" if uses_gpu else "fused")
    common = _common_start(branches)
    cut = min([len(common), *map(_first_worker_stage, branches)]) if placement == "split" else 0
    asked = _largest([stage for stages in branches for stage in stages[cut:]], config)
    reader, why_less = _reader(config, nodes, placement, may_grow)
    wished = min(config.workers or _fitting(asked, nodes, placement), num_units)
    workers, why_fewer = _with_room(wished, asked, reader, nodes, may_grow)
    worker = replace(asked, num_cpus=_share(workers, asked, reader, nodes, may_grow))
    return WorkerPlan(
        placement=placement,
        read_stages=common[:cut],
        shared_stages=common[cut:],
        branch_stages=tuple(tuple(stages[len(common) :]) for stages in branches),
        reader=worker if reader == NOTHING else reader,
        worker=worker,
        workers=workers,
        max_workers=max(workers, min(num_units, MAX_WORKERS)) if may_grow and not config.workers else workers,
        threads=config.units_per_worker or (2 if is_remote else 1),
        reasons=why_less + why_fewer,
    )


def _reader(
    config: PipelineConfig, nodes: Sequence[Node], placement: str, may_grow: bool
) -> tuple[Resources, tuple[str, ...]]:
    """Return what a reading task asks for, and why less than configured; nothing when fused: it runs inside a worker."""
    if placement == "fused":
        return NOTHING, ()
    reader = Resources(config.read_cpus, 0.0, config.read_memory_gib)
    with_memory = [node for node in nodes if _room(replace(reader, num_cpus=0.0), node)]
    most = max((node.get("CPU", 0.0) for node in with_memory), default=0.0) / 2
    if may_grow or not 0 < most < reader.num_cpus:
        return reader, ()
    reason = f"reading tasks ask for {most:g} CPU instead of {config.read_cpus:g}: half of what a node has"
    return replace(reader, num_cpus=most), (reason,)


def _with_room(
    wished: int, asked: Resources, reader: Resources, nodes: Sequence[Node], may_grow: bool
) -> tuple[int, tuple[str, ...]]:
    """How many of the workers find GPU and memory on the nodes, and why fewer; CPU they share, see `_share`."""
    room = _most(replace(asked, num_cpus=CPU_STEP), reader, nodes)
    if room < 1 and not may_grow:
        raise _no_room(asked, reader, nodes)
    workers = max(min(room, wished), 1)
    if workers == wished:
        return wished, ()
    beside = f" beside a reading task of {_asks(reader)}" if reader != NOTHING else ""
    reason = f"{workers} workers instead of {wished}: each asks for {_asks(asked)} and the nodes have room for {room}{beside}"
    return workers, (reason,)


def _no_room(asked: Resources, reader: Resources, nodes: Sequence[Node]) -> ResourceError:
    is_beside = any(_room(replace(asked, num_cpus=CPU_STEP), node) for node in nodes)
    return ResourceError(
        "no node of the cluster is sure to have room for a reading task beside a worker"
        if is_beside
        else "no node of the cluster has room for a worker",
        "pipeline",
        got="; ".join(_text(node) for node in nodes) or "no node",
        expected=f"{_asks(asked)} for a worker"
        + (f", {_asks(reader)} for a reading task" if reader.memory_gib else ""),
        hint="Lower infer.memory_gib, infer.num_gpus, pipeline.worker_memory_gib or pipeline.read_memory_gib, add "
        "nodes, or set cluster.may_grow = true if the cluster scales by itself.",
    )


def _share(workers: int, asked: Resources, reader: Resources, nodes: Sequence[Node], may_grow: bool) -> float:
    """CPUs that a worker asks for: where nodes are to come all that it uses, and never just those of a reader.

    Else Ray would read inside the worker.
    """
    share = asked.num_cpus if may_grow else _fair_share(workers, asked, reader, nodes)
    is_alike = reader != NOTHING and abs(share - reader.num_cpus) < CPU_STEP / 2
    return max(share - CPU_STEP, CPU_STEP) if is_alike else share


def _fair_share(workers: int, asked: Resources, reader: Resources, nodes: Sequence[Node]) -> float:
    """As many CPUs as a worker uses, or as let all workers and a reader fit on the nodes."""
    most = asked.num_cpus
    if reader == NOTHING:  # and one that only names units, should Ray not do so inside a worker
        most = min(most, _total(nodes, "CPU") / (workers + 1))
    if _most(replace(asked, num_cpus=most), reader, nodes) >= workers:
        return most
    steps = range(1, int(most / CPU_STEP) + 1)
    num_good = bisect_left(
        steps, True, key=lambda n: _most(replace(asked, num_cpus=n * CPU_STEP), reader, nodes) < workers
    )
    return max(num_good, 1) * CPU_STEP


def _most(worker: Resources, reader: Resources, nodes: Sequence[Node]) -> int:
    """How many workers the nodes hold beside a reader, wherever Ray puts them: fewer than leave it no node."""
    held = sum(_room(worker, node) for node in nodes)
    return int(max(0, min(held, sum(_blocking(worker, reader, node) for node in nodes) - 1)))


def _blocking(worker: Resources, reader: Resources, node: Node) -> float:
    """How many workers leave a reader no room on a node; infinite if it has room beside as many as there fit."""
    if not _room(reader, node):
        return 0
    left = {"CPU": reader.num_cpus, "memory": reader.memory_gib * GIB}
    beside = _room(worker, {**node, **{name: node.get(name, 0.0) - amount for name, amount in left.items()}})
    return beside + 1 if beside < _room(worker, node) else math.inf


def _room(asked: Resources, node: Node) -> float:
    """How many workers, or readers, of a size a node holds."""
    return min(
        _times(node.get("CPU", 0.0), asked.num_cpus),
        _on_cards(node.get("GPU", 0.0), asked.num_gpus),
        _times(node.get("memory", 0.0) / GIB, asked.memory_gib),
    )


def _on_cards(gpus: float, asked: float) -> float:
    """How many find their share of a GPU: all of it on one card."""
    return math.floor(gpus) * _times(1.0, asked) if 0 < asked < 1 else _times(gpus, asked)


def _times(there: float, asked: float) -> float:
    return max(0, math.floor(there / asked + 1e-9)) if asked else math.inf  # 0.3 / 0.1 is below 3


def _asks(resources: Resources) -> str:
    return f"{resources.num_gpus:g} GPU and {resources.memory_gib:.3g} GiB"


def _text(node: Node) -> str:
    memory_gib = node.get("memory", 0.0) / GIB
    return f"{node.get('CPU', 0.0):g} CPU, {node.get('GPU', 0.0):g} GPU, {memory_gib:.3g} GiB"


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
        return max(1, int(sum(_on_cards(node.get("GPU", 0.0), asked.num_gpus) for node in nodes)))
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
