"""Where the parts of a pipeline run, so that all of them fit on the cluster at once. Nothing here knows Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from engine.config import Config
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
    heartbeat_s: float = Field(default=30.0, gt=0)
    """How often driver and workers write where they are, for `status` [s]; two small objects each time."""


@dataclass(frozen=True)
class WorkerPlan:
    """Where each part of the pipeline runs; see `plan_workers`."""

    placement: Literal["fused", "split"]
    read_stages: tuple[Stage, ...]
    shared_stages: tuple[Stage, ...]
    branch_stages: tuple[tuple[Stage, ...], ...]
    reader: Resources
    worker: Resources
    workers: int
    threads: int


def plan_workers(
    num_units: int,
    branches: Sequence[Sequence[Stage]],
    config: PipelineConfig,
    cluster: Mapping[str, float],
    is_remote: bool = False,
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
    cluster
        Total resources, as `ray.cluster_resources()` tells them.
    is_remote
        Whether units are read over a network.
    """
    everything = [stage for stages in branches for stage in stages]
    uses_gpu = any(stage.resources.num_gpus > 0 for stage in everything)
    placement = config.placement if config.placement != "auto" else ("split" if uses_gpu else "fused")
    common = _common_start(branches)
    cut = min([len(common), *map(_first_worker_stage, branches)]) if placement == "split" else 0
    asked = _largest([stage for stages in branches for stage in stages[cut:]], config)
    cpus = cluster.get("CPU", 1.0)
    workers = min(config.workers or _fitting(asked, cluster, placement), num_units)
    if placement == "fused":
        num_cpus = min(asked.num_cpus, cpus / (workers + 1))
        reader = Resources(num_cpus, asked.num_gpus, asked.memory_gib)
    else:
        reader = Resources(min(config.read_cpus, cpus / 2), 0.0, config.read_memory_gib)
        num_cpus = min(asked.num_cpus, (cpus - reader.num_cpus) / workers) - CPU_STEP
    return WorkerPlan(
        placement=placement,
        read_stages=common[:cut],
        shared_stages=common[cut:],
        branch_stages=tuple(tuple(stages[len(common) :]) for stages in branches),
        reader=reader,
        worker=Resources(max(num_cpus, CPU_STEP), asked.num_gpus, asked.memory_gib),
        workers=workers,
        threads=config.units_per_worker or (2 if is_remote else 1),
    )


def _common_start(branches: Sequence[Sequence[Stage]]) -> tuple[Stage, ...]:
    """Stages that all branches begin with."""
    start: list[Stage] = []
    for level in zip(*branches, strict=False):
        if any(stage != level[0] for stage in level):
            break
        start.append(level[0])
    return tuple(start)


def _fitting(asked: Resources, cluster: Mapping[str, float], placement: str) -> int:
    """How many workers of a size the cluster can hold; half the CPUs are for reading when split."""
    if asked.num_gpus:
        return max(1, int(cluster.get("GPU", 0.0) / asked.num_gpus))
    share = 1.0 if placement == "fused" else 0.5
    return max(1, round(share * cluster.get("CPU", 1.0) / asked.num_cpus))


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
