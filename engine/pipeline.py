"""Units through Ray Data: the only place that turns stages into operators.

A unit is read, computed and written as one block. Between operators it travels as a sealed table of one
row, which Ray can neither split nor merge with another, and in which Arrow keeps types and metadata.
Only the small ledger records come back to the driver.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayError, RayTaskError
from ray.util import metrics as ray_metrics
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine import log
from engine.attempts import Answer, Attempts, Tally
from engine.errors import EngineError
from engine.ledger import LedgerRecord
from engine.locations import is_object
from engine.metrics import METRICS, SECONDS, Metric
from engine.placement import PipelineConfig, WorkerPlan, plan_workers
from engine.stage import Resources
from engine.units import Work
from engine.worker import (
    OPENING,
    UNWATCHED,
    Branch,
    Reader,
    UnitError,
    UnitWorker,
    Watch,
    name_unit,
    naming,
    read_unit,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

WAITING_UNITS = 2
"""Units that wait at each worker beside those that it works on: it is never idle while Ray sends the next."""


UNITS_AT_ONCE = 20_000
"""Ray Data holds a task for each unit of a dataset in the driver from the beginning (5 kB and 1 ms each): a release
of more units is run in so many at a time, on new workers each time."""

ANSWER_S = 60.0
"""How long a worker waits to hear whether it may begin [s]: the actor that counts starts with the first workers."""

TASKS_PER_CPU = 2
"""Tasks of `map_tasks` that are submitted at once: one runs, one waits while a slow one holds up the order."""


def run_units(
    work: Sequence[Work],
    source: Reader,
    branches: Sequence[Branch],
    config: PipelineConfig,
    on_record: Callable[[int, LedgerRecord], None],
    watch: Watch = UNWATCHED,
    may_grow: bool = False,
) -> None:
    """Read each unit once, compute and write it in each branch that needs it, somewhere on the cluster.

    Workers that die are replaced and their units computed again; the ledger keeps one result. A unit that
    `max_attempts` workers have died of is given up: its record says so, and the others go on.

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
    watch
        Where workers tell how they get on; their numbers go to Ray's metrics.
    may_grow
        Nodes come and go: workers become more and fewer with them.

    Raises
    ------
    UnitError
        If a unit fails with anything but a rejection, naming it; or a stage cannot be opened.
    """
    if not work:
        return
    chains = [branch.stages for branch in branches]
    is_remote = any(is_object(file.uri) for file in work[0].unit.files)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    plan = plan_workers(len(work), chains, config, nodes, is_remote, may_grow)
    for reason in plan.reasons:
        _log.warning("%s", reason)
    rest = [Branch(own, b.sink, b.model) for own, b in zip(plan.branch_stages, branches, strict=True)]
    watched, attempts = replace(watch, make_meter=RayMeter), RayAttempts.of(config.max_attempts)
    for start in range(0, len(work), UNITS_AT_ONCE):
        some = work[start : start + UNITS_AT_ONCE]
        for row in _rows(some, source, plan, rest, watched, attempts):
            on_record(row["branch"], LedgerRecord.from_json(row["record"]))


def _rows(
    work: Sequence[Work],
    source: Reader,
    plan: WorkerPlan,
    branches: Sequence[Branch],
    watch: Watch,
    attempts: Attempts,
) -> Iterator[dict[str, Any]]:
    """Run some units through Ray Data; yield branch and record of each as it is done."""
    is_fused = plan.placement == "fused"  # then tasks only name a unit, and actors read it
    read = (
        name_unit
        if is_fused
        else partial(read_unit, source, plan.read_stages, attempts=attempts, watch=watch)
    )
    pool = ActorPoolStrategy(
        min_size=1 if plan.max_workers > plan.workers else plan.workers,
        max_size=plan.max_workers,
        initial_size=plan.workers,
        max_tasks_in_flight_per_actor=plan.threads + WAITING_UNITS,
        max_concurrent_calls_per_actor=plan.threads,
        enable_true_multi_threading=True,
    )
    with _quiet_context(), _clear_errors():
        dataset = ray.data.read_datasource(
            UnitDatasource(work, read), override_num_blocks=len(work), **_ray_resources(plan.reader)
        ).map_batches(
            UnitWorker,
            fn_constructor_args=(source if is_fused else None, plan.shared_stages, branches, watch, attempts),
            compute=pool,
            batch_size=None,
            batch_format="pyarrow",
            **_ray_resources(plan.worker),
        )
        yield from dataset.iter_rows()


def _ray_resources(resources: Resources) -> dict[str, Any]:
    return {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus or None,
        "memory": resources.memory_gib * 2**30 or None,
    }


@dataclass(frozen=True)
class RayAttempts:
    """Attempts of workers anywhere on the cluster, counted by an actor on the node of the driver. Picklable."""

    tally: Any

    @staticmethod
    def of(limit: int) -> "RayAttempts":
        """Start to count."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        tally = ray.remote(num_cpus=0)(Tally).options(scheduling_strategy=here)
        living = lambda: {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # noqa: E731 - travels by value
        return RayAttempts(tally.remote(limit, living))

    def begin(self, key: str, is_alone: bool) -> Answer:
        """Ask whether an attempt at something may begin here; it may if nobody answers."""
        node = ray.get_runtime_context().get_node_id()
        try:
            return ray.get(self.tally.begin.remote(_named(key), node, is_alone), timeout=ANSWER_S)
        except RayError as error:
            _log.warning("attempts are not counted: %s", error)
            return "begun"

    def end(self, key: str) -> None:
        """Tell that it is over, and wait for no answer."""
        self.tally.end.remote(_named(key))


def _named(key: str) -> str:
    """Tell apart what workers do before they have a unit: by the actor, which keeps its id when it is started again."""
    return f"{key} {ray.get_runtime_context().get_actor_id()}" if key == OPENING else key


class RayMeter:
    """Tells numbers to Ray, whose nodes export them for Prometheus (`/metrics`)."""

    def __init__(self) -> None:
        kinds = {
            "counter": ray_metrics.Counter,
            "gauge": ray_metrics.Gauge,
            "histogram": partial(ray_metrics.Histogram, boundaries=list(SECONDS)),
        }
        self._metrics: dict[str, Any] = {
            m.name: kinds[m.kind](m.name, description=m.description, tag_keys=m.labels) for m in METRICS
        }

    def add(self, metric: Metric, amount: float, **labels: str) -> None:
        """Add to a counter, set a gauge, or note a value of a histogram."""
        taker = self._metrics[metric.name]
        if metric.kind == "counter" and amount > 0:  # Ray takes no 0
            taker.inc(amount, tags=labels)
        elif metric.kind == "gauge":
            taker.set(amount, tags=labels)
        elif metric.kind == "histogram":
            taker.observe(amount, tags=labels)


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
    with naming(work):
        return [read(work)]


@contextmanager
def _quiet_context() -> Iterator[None]:
    """Set Ray Data up for our runs alone: no bars, no chatter, no splitting of blocks."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 4 << 30
    log.adopt("ray")
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
