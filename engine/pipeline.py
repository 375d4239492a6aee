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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError, RayTaskError

from engine.allocator import keep_freed_memory
from engine.errors import EngineError
from engine.ledger import LedgerRecord
from engine.placement import PipelineConfig, plan_workers
from engine.sealed import seal, unseal
from engine.stage import Resources, Stage, UnitFunction, UnitTable
from engine.units import Unit

T = TypeVar("T")
R = TypeVar("R")

WAITING_UNITS = 2
"""Units that wait at each worker beside those that it works on: it is never idle while Ray sends the next."""


TASKS_PER_CPU = 2
"""Tasks of `map_tasks` that are submitted at once: one runs, one waits while a slow one holds up the order."""


class UnitError(EngineError):
    """A unit failed for a reason that is not its files' fault: the job stops."""


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
    is_fused = plan.placement == "fused"  # then tasks only name a unit, and actors read it
    with _quiet_context(), _clear_errors():
        dataset = ray.data.read_datasource(
            UnitDatasource(units, name_unit if is_fused else partial(read_unit, source, plan.read_stages)),
            override_num_blocks=len(units),
            **_ray_resources(plan.reader),
        ).map_batches(
            UnitWorker,
            fn_constructor_args=(source if is_fused else None, plan.worker_stages, sink),
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


def map_tasks(function: Callable[[T], R], items: Iterable[T], num_cpus: float = 1.0) -> Iterator[R]:
    """Call a function on each item in Ray tasks; yield the results in the order of the items.

    Tasks are submitted only a little ahead of what is taken, so that neither arguments nor results pile
    up: memory does not grow with the number of items.

    Raises
    ------
    EngineError
        What a task raised, as it raised it; a `UnitError` of one line for anything else.
    """
    ahead = TASKS_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))
    task = ray.remote(num_cpus=num_cpus)(_call)
    shared = ray.put(function)
    pending = deque[Any]()
    for item in items:
        pending.append(task.remote(shared, item))
        if len(pending) == ahead:
            yield _result(pending.popleft())
    while pending:
        yield _result(pending.popleft())


def _call(function: Callable[[T], R], item: T) -> R:
    """Ray takes functions only, not `partial` and other callables."""
    return function(item)


def _result(reference: Any) -> Any:
    with _clear_errors():
        return ray.get(reference)


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
        if isinstance(error, RayTaskError) and isinstance(error.cause, EngineError):
            raise error.cause from None
        found = re.findall(r"^(?:engine\.[\w.]+Error): (.+)$", str(error), re.MULTILINE)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UnitError(found[-1] if found else lines[-1] if lines else repr(error)) from error
