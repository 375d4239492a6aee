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
from dataclasses import dataclass, replace
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
from engine.locations import is_object
from engine.placement import PipelineConfig, plan_workers
from engine.sealed import seal, unseal
from engine.stage import Resources, Stage, UnitFunction, UnitTable
from engine.units import Unit, Work

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


@dataclass(frozen=True)
class Branch:
    """What becomes of the rows of a unit once they are read: one catalogue of several."""

    stages: tuple[Stage, ...]
    sink: Sink


def run_units(
    work: Sequence[Work],
    source: Reader,
    branches: Sequence[Branch],
    config: PipelineConfig,
    on_record: Callable[[int, LedgerRecord], None],
) -> None:
    """Read each unit once, compute and write it in each branch that needs it, somewhere on the cluster.

    Workers that die are replaced and their units computed again; the ledger keeps one result.

    Parameters
    ----------
    work
        Units, with their ids in each branch; each becomes one task.
    source, branches
        Picklable; a worker opens the stages once. What all branches begin with is computed once.
    config
        Placement and sizes.
    on_record
        Called in the driver with the number of the branch for each unit as it finishes, in no fixed order.

    Raises
    ------
    UnitError
        If a unit fails with anything but a rejection, naming it; or a stage cannot be opened.
    """
    if not work:
        return
    chains = [branch.stages for branch in branches]
    is_remote = any(is_object(file.uri) for file in work[0].unit.files)
    plan = plan_workers(len(work), chains, config, ray.cluster_resources(), is_remote)
    rest = [Branch(stages, b.sink) for stages, b in zip(plan.branch_stages, branches, strict=True)]
    is_fused = plan.placement == "fused"  # then tasks only name a unit, and actors read it
    with _quiet_context(), _clear_errors():
        dataset = ray.data.read_datasource(
            UnitDatasource(work, name_unit if is_fused else partial(read_unit, source, plan.read_stages)),
            override_num_blocks=len(work),
            **_ray_resources(plan.reader),
        ).map_batches(
            UnitWorker,
            fn_constructor_args=(source if is_fused else None, plan.shared_stages, rest),
            compute=ActorPoolStrategy(
                size=plan.workers,
                max_tasks_in_flight_per_actor=plan.threads + WAITING_UNITS,
                max_concurrent_calls_per_actor=plan.threads,
                enable_true_multi_threading=True,
            ),
            batch_size=None,
            batch_format="pyarrow",
            **_ray_resources(plan.worker),
        )
        for row in dataset.iter_rows():
            on_record(row["branch"], LedgerRecord.from_json(row["record"]))


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

    def __init__(self, work: Sequence[Work], read: Callable[[Work], pa.Table]) -> None:
        super().__init__()
        self._work, self._read = list(work), read

    def estimate_inmemory_data_size(self) -> int:
        """Size of all files [bytes]."""
        return sum(work.unit.num_bytes for work in self._work)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - one task a unit, whatever Ray would like
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """Return one task a unit, each of one block of one row."""
        return [self._task(work, per_task_row_limit) for work in self._work]

    def _task(self, work: Work, row_limit: int | None) -> ReadTask:
        size = work.unit.num_bytes
        metadata = BlockMetadata(num_rows=1, size_bytes=size, input_files=None, exec_stats=None)
        return ReadTask(partial(_one_block, self._read, work), metadata, per_task_row_limit=row_limit)


def _one_block(read: Callable[[Work], pa.Table], work: Work) -> list[pa.Table]:
    with _naming(work):
        return [read(work)]


def name_unit(work: Work) -> pa.Table:
    """Block that only names a unit, for actors that read it themselves."""
    return pa.table({"work": pa.array([work.to_json()], pa.large_string())})


def read_unit(source: Reader, stages: Sequence[Stage], work: Work) -> pa.Table:
    """Read a unit, run the first stages on it, and seal it."""
    table = source.read(work.unit)
    for stage in stages:
        table = stage.open()(table)
    return seal(table, work)


class UnitWorker:
    """Actor that opens the stages once, then computes and writes unit after unit.

    Ray may call it from several threads: one unit is read or written while another is computed.
    The stages themselves run one unit at a time, and each thread has a source of its own, whose counters
    no other thread moves.

    Parameters
    ----------
    source
        Reads the units; None if they arrive sealed.
    shared
        Stages that run once a unit.
    branches
        What is done with the outcome.
    """

    def __init__(self, source: Reader | None, shared: Sequence[Stage], branches: Sequence[Branch]) -> None:
        keep_freed_memory()
        pa.array(np.zeros(1))  # pyarrow imports pandas for its first array: now, not within a unit
        self._source, self._sinks = source, [branch.sink for branch in branches]
        self._shared: list[UnitFunction] = [stage.open() for stage in shared]
        self._own: list[list[UnitFunction]] = [[stage.open() for stage in b.stages] for b in branches]
        self._compute = threading.Lock()
        self._local = threading.local()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Compute each unit of a block; return the numbers of branches and their ledger records as JSON."""
        done = [pair for row in range(block.num_rows) for pair in self._run(block.slice(row, 1))]
        branches, records = zip(*done, strict=True)
        return pa.table({"branch": pa.array(branches), "record": pa.array(records, pa.large_string())})

    def _run(self, sealed: pa.Table) -> Iterator[tuple[int, str]]:
        work = Work.from_json(sealed["work"][0].as_py())
        started = time.monotonic()
        with _naming(work):
            table = unseal(sealed) if self._source is None else self._reader(self._source).read(work.unit)
            table = self._computed(self._shared, table)
            for number, unit in work.branches():
                result = self._computed(self._own[number], table)
                seconds = {"worker_seconds": time.monotonic() - started}
                result = replace(result, stats=result.stats | seconds)
                yield number, self._sinks[number].write(unit, result).to_json()

    def _computed(self, functions: Sequence[UnitFunction], table: UnitTable) -> UnitTable:
        with self._compute:
            for function in functions:
                table = function(table)
        return table

    def _reader(self, source: Reader) -> Reader:
        if not hasattr(self._local, "source"):
            self._local.source = copy.deepcopy(source)
        return self._local.source


@contextmanager
def _naming(work: Work) -> Iterator[None]:
    """Put the unit's name into any error: Ray Data hands on nothing but text."""
    try:
        yield
    except Exception as error:
        ids = ", ".join(filter(None, work.ids))
        text = f"unit {work.unit.key} ({ids}) failed: {type(error).__name__}: {error}"
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
