"""Units through Ray Data: the only place that turns stages into operators.

A unit is read, computed and written as one block. Between operators it travels as a sealed table of one
row, which Ray can neither split nor merge with another, and in which Arrow keeps types and metadata.
Only the small ledger records come back to the driver.
"""

import copy
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from pydantic import Field
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError

from engine.allocator import keep_freed_memory
from engine.config import Config
from engine.errors import EngineError
from engine.ledger import LedgerRecord
from engine.sealed import seal, unseal
from engine.stage import Resources, Stage, UnitFunction, UnitTable
from engine.units import Unit

T = TypeVar("T")
R = TypeVar("R")

CPU_STEP = 0.01
"""Smallest amount of CPU that Ray can tell apart from none."""

WAITING_UNITS = 2
"""Units that wait at each worker beside those that it works on: it is never idle while Ray sends the next."""


class UnitError(EngineError):
    """A unit failed for a reason that is not its files' fault: the job stops."""


class PipelineConfig(Config):
    """How units run on the cluster."""

    placement: Literal["auto", "fused", "split"] = "auto"
    """fused: one actor reads, computes and writes a unit; split: tasks read, actors compute and write,
    so that CPUs feed GPUs; auto: split if a stage asks for a GPU, else fused."""
    workers: int | None = Field(default=None, ge=1)
    """Actors that compute; None: as many as the cluster's CPUs or GPUs allow."""
    units_per_worker: int = Field(default=2, ge=1, le=8)
    """Units that a worker holds at once: it reads one while it computes another."""
    read_cpus: float = Field(default=1.0, gt=0)
    """CPUs that a reading task asks for (split)."""
    worker_memory_gib: float = Field(default=0.0, ge=0)
    """Memory that a worker reserves on its node [GiB]; 0: none."""
    read_memory_gib: float = Field(default=0.0, ge=0)
    """Memory that a reading task reserves on its node [GiB] (split); 0: none."""


class Reader(Protocol):
    """What the pipeline needs of a source."""

    def read(self, unit: Unit) -> UnitTable:
        """Read one unit."""
        ...


class Sink(Protocol):
    """What the pipeline needs of a sink."""

    def write(self, unit: Unit, table: UnitTable) -> LedgerRecord:
        """Write one unit and record it."""
        ...


def run_units(
    units: Sequence[Unit],
    source: Reader,
    stages: Sequence[Stage],
    sink: Sink,
    config: PipelineConfig,
    on_record: Callable[[LedgerRecord], None],
) -> None:
    """Read, compute and write each unit somewhere on the cluster.

    Workers that die are replaced and their units computed again; the ledger keeps one result.

    Parameters
    ----------
    units
        With ids; each becomes one task.
    source, stages, sink
        Picklable; a worker opens the stages once.
    config
        Placement and sizes.
    on_record
        Called in the driver for each unit as it finishes, in no fixed order.

    Raises
    ------
    UnitError
        If a unit fails with anything but a rejection, naming it; or a stage cannot be opened.
    """
    if not units:
        return
    plan = plan_workers(units, stages, config, ray.cluster_resources())
    with _quiet_context(), _clear_errors():
        dataset = ray.data.read_datasource(
            UnitDatasource(units, plan.read(source)),
            override_num_blocks=len(units),
            **_ray_resources(plan.reader),
        ).map_batches(
            UnitWorker,
            fn_constructor_args=plan.worker_args(source, sink),
            compute=ActorPoolStrategy(
                size=plan.workers,
                max_tasks_in_flight_per_actor=config.units_per_worker + WAITING_UNITS,
                max_concurrent_calls_per_actor=config.units_per_worker,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            **_ray_resources(plan.worker),
        )
        for row in dataset.iter_rows():
            on_record(LedgerRecord.from_json(row["record"]))


def _ray_resources(resources: Resources) -> dict[str, Any]:
    return {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus or None,
        "memory": resources.memory_gib * 2**30 or None,
    }


def map_tasks(
    function: Callable[[T], R],
    items: Sequence[T],
    num_cpus: float = 1.0,
    on_result: Callable[[R], None] | None = None,
) -> list[R]:
    """Call a function on each item in Ray tasks; results in the order of the items.

    `on_result` is called for each as it comes. Only as many tasks as the cluster has CPUs for are submitted at once, so that neither arguments nor
    results pile up.
    """
    limit = max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))
    task = ray.remote(num_cpus=num_cpus)(_call)
    shared = ray.put(function)
    results: dict[int, R] = {}
    pending: dict[Any, int] = {}
    for index, item in enumerate(items):
        if len(pending) >= limit:
            _collect(pending, results, on_result)
        pending[task.remote(shared, item)] = index
    while pending:
        _collect(pending, results, on_result)
    return [results[index] for index in range(len(items))]


def _call(function: Callable[[T], R], item: T) -> R:
    """Ray takes functions only, not `partial` and other callables."""
    return function(item)


def _collect(pending: dict[Any, int], results: dict[int, R], on_result: Callable[[R], None] | None) -> None:
    done, _ = ray.wait(list(pending), num_returns=1)
    for reference in done:
        result = ray.get(reference)
        results[pending.pop(reference)] = result
        if on_result:
            on_result(result)


@dataclass(frozen=True)
class WorkerPlan:
    """Where each part of the pipeline runs; see `plan_workers`."""

    placement: Literal["fused", "split"]
    read_stages: tuple[Stage, ...]
    worker_stages: tuple[Stage, ...]
    reader: Resources
    worker: Resources
    workers: int

    def read(self, source: Reader) -> Callable[[Unit], pa.Table]:
        """Return what a reading task does with its unit."""
        return name_unit if self.placement == "fused" else partial(read_unit, source, self.read_stages)

    def worker_args(self, source: Reader, sink: Sink) -> tuple[Reader | None, tuple[Stage, ...], Sink]:
        """Return the arguments of `UnitWorker`."""
        return source if self.placement == "fused" else None, self.worker_stages, sink


def plan_workers(
    units: Sequence[Unit], stages: Sequence[Stage], config: PipelineConfig, cluster: Mapping[str, float]
) -> WorkerPlan:
    """Decide placement, number and size of workers so that all of them and a reader fit at once.

    If actors held every CPU, reading tasks would never start, and Ray would wait without a word
    (ray-project/ray#44687). So workers ask for a little less CPU than they use where there is no room.
    Ray runs a reading task inside the worker if both ask for the same: wanted when fused, where it only
    names the unit, and avoided when split.

    Parameters
    ----------
    units, stages, config
        What is to be run.
    cluster
        Total resources, as `ray.cluster_resources()` tells them.
    """
    uses_gpu = any(stage.resources.num_gpus > 0 for stage in stages)
    placement = config.placement if config.placement != "auto" else ("split" if uses_gpu else "fused")
    cut = _first_worker_stage(stages) if placement == "split" else 0
    asked = _largest(stages[cut:], config)
    cpus = cluster.get("CPU", 1.0)
    workers = min(config.workers or _fitting(asked, cluster, placement), len(units))
    if placement == "fused":
        num_cpus = min(asked.num_cpus, cpus / (workers + 1))
        reader = Resources(num_cpus, asked.num_gpus, asked.memory_gib)
    else:
        reader = Resources(min(config.read_cpus, cpus / 2), 0.0, config.read_memory_gib)
        num_cpus = min(asked.num_cpus, (cpus - reader.num_cpus) / workers) - CPU_STEP
    return WorkerPlan(
        placement=placement,
        read_stages=tuple(stages[:cut]),
        worker_stages=tuple(stages[cut:]),
        reader=reader,
        worker=Resources(max(num_cpus, CPU_STEP), asked.num_gpus, asked.memory_gib),
        workers=workers,
    )


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


class UnitDatasource(Datasource):
    """One read task a unit, planned beforehand: nothing is listed while it runs."""

    def __init__(self, units: Sequence[Unit], read: Callable[[Unit], pa.Table]) -> None:
        super().__init__()
        self._units, self._read = list(units), read

    def estimate_inmemory_data_size(self) -> int:
        """Size of all files [bytes]."""
        return sum(unit.num_bytes for unit in self._units)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task a unit, whatever Ray would like
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task a unit, each of one block of one row."""
        return [self._task(unit, per_task_row_limit) for unit in self._units]

    def _task(self, unit: Unit, row_limit: int | None) -> ReadTask:
        metadata = BlockMetadata(num_rows=1, size_bytes=unit.num_bytes, input_files=None, exec_stats=None)
        return ReadTask(partial(_one_block, self._read, unit), metadata, per_task_row_limit=row_limit)


def _one_block(read: Callable[[Unit], pa.Table], unit: Unit) -> list[pa.Table]:
    with _naming(unit):
        return [read(unit)]


def name_unit(unit: Unit) -> pa.Table:
    """Block that only names a unit, for actors that read it themselves."""
    return pa.table({"unit": pa.array([unit.to_json()], pa.large_string())})


def read_unit(source: Reader, stages: Sequence[Stage], unit: Unit) -> pa.Table:
    """Read a unit, run the first stages on it, and seal it."""
    table = source.read(unit)
    for stage in stages:
        table = stage.open()(table)
    return seal(table, unit)


class UnitWorker:
    """Actor that opens the stages once, then computes and writes unit after unit.

    Ray calls it from `units_per_worker` threads: one unit is read or written while another is computed.
    The stages themselves run one unit at a time, and each thread has a source of its own, whose counters
    no other thread moves.

    Parameters
    ----------
    source
        Reads the units; None if they arrive sealed.
    stages, sink
        What is done with them.
    """

    def __init__(self, source: Reader | None, stages: Sequence[Stage], sink: Sink) -> None:
        keep_freed_memory()
        pa.array(np.zeros(1))  # pyarrow imports pandas for its first array: now, not within a unit
        self._source, self._sink = source, sink
        self._functions: list[UnitFunction] = [stage.open() for stage in stages]
        self._compute = threading.Lock()
        self._local = threading.local()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Compute each unit of a block; return their ledger records as JSON."""
        records = [self._run(block.slice(row, 1)) for row in range(block.num_rows)]
        return pa.table({"record": pa.array(records, pa.large_string())})

    def _run(self, sealed: pa.Table) -> str:
        unit = Unit.from_json(sealed["unit"][0].as_py())
        started = time.monotonic()
        with _naming(unit):
            table = unseal(sealed) if self._source is None else self._own(self._source).read(unit)
            with self._compute:
                for function in self._functions:
                    table = function(table)
            seconds = {"worker_seconds": time.monotonic() - started}
            return self._sink.write(unit, replace(table, stats=table.stats | seconds)).to_json()

    def _own(self, source: Reader) -> Reader:
        if not hasattr(self._local, "source"):
            self._local.source = copy.deepcopy(source)
        return self._local.source


@contextmanager
def _naming(unit: Unit) -> Iterator[None]:
    """Put the unit's name into any error: Ray Data hands on nothing but text."""
    try:
        yield
    except Exception as error:
        text = f"unit {unit.key} ({unit.id}) failed: {type(error).__name__}: {error}"
        raise UnitError(" ".join(text.split())) from error


@contextmanager
def _quiet_context() -> Iterator[None]:
    """Set Ray Data up for our runs alone: no bars, no chatter, no splitting of blocks."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 4 << 30
    consoles = [h for h in logging.getLogger("ray.data").handlers if h.get_name() == "console"]
    for handler in consoles:
        handler.addFilter(_is_news)
    try:
        with DataContext.current(context):
            yield
    finally:
        for handler in consoles:
            handler.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether to show what Ray Data says: errors we tell ourselves, all is in its log file anyway."""
    return record.levelno == logging.WARNING and "Progress bars" not in record.getMessage()


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn Ray's errors, which wrap ours in pages of traceback, back into one sentence."""
    try:
        yield
    except RayError as error:
        found = re.findall(r"^(?:engine\.[\w.]+Error): (.+)$", str(error), re.MULTILINE)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnitError(found[-1] if found else lines[-1] if lines else repr(error)) from error
