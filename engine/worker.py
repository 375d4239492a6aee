"""What happens to a unit at a worker: it is read, computed and written, and the worker tells how far it is.

Nothing here knows Ray: `engine.pipeline` makes an actor of it.
"""

import copy
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import numpy as np
import pyarrow as pa

from engine import log, metrics
from engine.allocator import keep_freed_memory
from engine.attempts import Attempts, Room, Unlimited, attempt
from engine.errors import EngineError
from engine.ledger import LedgerRecord
from engine.metrics import Meter, NoMeter
from engine.runs import InHand, Pulse, RunFolder
from engine.sealed import seal, unseal
from engine.stage import Stage, UnitFunction, UnitTable, run_local
from engine.units import Unit, Work

_log = logging.getLogger(__name__)


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

    def give_up(self, unit: Unit, detail: str) -> LedgerRecord:
        """Record that nothing comes of a unit in this run, and why."""
        ...


@dataclass(frozen=True)
class Branch:
    """What becomes of the rows of a unit once they are read: one catalogue of several.

    `name` is what its numbers are told under: by default that of its last stage, which is the model's.
    """

    stages: tuple[Stage, ...]
    sink: Sink
    name: str = ""

    @property
    def model(self) -> str:
        """Name, or that of the last stage."""
        return self.name or (self.stages[-1].name if self.stages else "none")


@dataclass(frozen=True)
class Watch:
    """How workers are watched. Picklable.

    Parameters
    ----------
    folders
        Where they write that they live and what they have in hand; none: nowhere.
    every_s
        Time between two such beats [s].
    log_format
        How they log; None leaves logging as it is.
    make_meter
        Makes, at the worker, what takes its numbers.
    """

    folders: tuple[RunFolder, ...] = ()
    every_s: float = 30.0
    log_format: log.LogFormat | None = None
    make_meter: Callable[[], Meter] = NoMeter

    @property
    def run(self) -> str:
        """Name of the run, empty if it has none."""
        return self.folders[0].run if self.folders else ""


UNWATCHED = Watch()
UNLIMITED = Unlimited()

OPENING = "opening"
"""What a worker has in hand before it has a unit."""
WHY_IT_DIED = "the worker was killed (memory?) or crashed"
WHAT_TO_DO = "the next run tries it again: give workers more memory, or see the logs of Ray"


class UnitWorker:
    """Opens the stages once, then computes and writes unit after unit.

    It may be called from several threads: one unit is read or written while another is computed.
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
    watch
        Whom it tells how it gets on.
    attempts
        Whom it asks before it takes a unit in hand.

    Raises
    ------
    UnitError
        If each worker before it died while it opened the stages.
    """

    def __init__(
        self,
        source: Reader | None,
        shared: Sequence[Stage],
        branches: Sequence[Branch],
        watch: Watch = UNWATCHED,
        attempts: Attempts = UNLIMITED,
    ) -> None:
        keep_freed_memory()
        pa.array(np.zeros(1))  # pyarrow imports pandas for its first array: now, not within a unit
        self._steps = Steps(watch)
        self._steps.pulse("worker").start()
        self._source, self._branches = source, tuple(branches)
        self._attempts, self._room = attempts, Room()
        with attempt(attempts, self._room, OPENING) as may_begin:
            if not may_begin:
                raise UnitError(f"a worker cannot be started: {WHY_IT_DIED} each time it opened the stages")
            self._shared = _opened(shared)
            self._own = [_opened(branch.stages) for branch in branches]
        self._compute = threading.Lock()
        self._local = threading.local()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Compute each unit of a block; return the numbers of branches and their ledger records as JSON."""
        done = [pair for row in range(block.num_rows) for pair in self._run(block.slice(row, 1))]
        branches, records = zip(*done, strict=True)
        return pa.table({"branch": pa.array(branches), "record": pa.array(records, pa.large_string())})

    def _run(self, sealed: pa.Table) -> Iterator[tuple[int, str]]:
        work = Work.from_json(sealed["work"][0].as_py())
        with (
            naming(work),
            attempt(self._attempts, self._room, work.key) as may_begin,
            self._steps.unit(work.unit.key),
        ):
            for number, record in self._done(sealed, work) if may_begin else self._given_up(work):
                self._steps.written(self._branches[number].model, record)
                yield number, record.to_json()

    def _done(self, sealed: pa.Table, work: Work) -> Iterator[tuple[int, LedgerRecord]]:
        """Read, compute and write a unit."""
        started = time.monotonic()
        table = self._read(sealed, work)
        table = self._computed(self._shared, table)
        for number, unit in work.branches():
            result = self._computed(self._own[number], table)
            seconds = {"worker_seconds": time.monotonic() - started}
            result = replace(result, stats=result.stats | seconds)
            with self._steps.step("write"):
                record = self._branches[number].sink.write(unit, result)
            yield number, record

    def _given_up(self, work: Work) -> Iterator[tuple[int, LedgerRecord]]:
        detail = f"{WHY_IT_DIED} each time it had unit {work.unit.key} in hand; {WHAT_TO_DO}"
        for number, unit in work.branches():
            yield number, self._branches[number].sink.give_up(unit, detail)

    def _read(self, sealed: pa.Table, work: Work) -> UnitTable:
        if self._source is None:  # whoever sealed it has told how it was read
            return unseal(sealed)
        return self._steps.read(self._reader(self._source), work.unit)

    def _computed(self, stages: "Sequence[_Opened]", table: UnitTable) -> UnitTable:
        with self._compute:
            for stage in stages:
                table = self._steps.computed(stage.name, stage.function, table)
        return table

    def _reader(self, source: Reader) -> Reader:
        if not hasattr(self._local, "source"):
            self._local.source = copy.deepcopy(source)
        return self._local.source


@dataclass(frozen=True)
class _Opened:
    name: str
    function: UnitFunction


def _opened(stages: Sequence[Stage]) -> list[_Opened]:
    return [_Opened(stage.name, stage.open()) for stage in stages]


@dataclass
class _Timed:
    seconds: float = 0.0


class Steps:
    """Which unit a worker has in which step: for its beats, its log and its numbers."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._run = watch, watch.run
        self._meter = _meter(watch.make_meter)
        self._in_hand: dict[int, InHand] = {}  # by thread
        if watch.log_format:
            log.setup(form=watch.log_format)

    def pulse(self, who: str, after_s: float = 0.0) -> Pulse:
        """Return what writes, once it is started, which units are in hand."""
        name = f"{who}-{secrets.token_hex(4)}"
        tell = lambda _: {"in_hand": self.in_hand()}  # noqa: E731
        return Pulse(self._watch.folders, self._watch.every_s, name, tell, after_s)

    @contextmanager
    def heard_if_long(self, who: str) -> Iterator[None]:
        """Be heard inside the `with`, from when it has taken as long as a beat: what is short costs no request."""
        pulse = self.pulse(who, after_s=self._watch.every_s)
        pulse.start()
        try:
            yield
        finally:
            pulse.withdraw()

    def in_hand(self) -> tuple[InHand, ...]:
        """Units that are being worked on."""
        return tuple(self._in_hand.copy().values())

    def read(self, source: Reader, unit: Unit) -> UnitTable:
        """Read a unit, count its bytes, and note how long it took."""
        with self.step("read") as timed:
            table = source.read(unit)
        self._meter.add(metrics.BYTES_FETCHED, table.stats.get("bytes_fetched", 0.0), run=self._run)
        return _with_seconds(table, "read", timed)

    def computed(self, name: str, function: UnitFunction, table: UnitTable) -> UnitTable:
        """Run a stage, and note how long it took."""
        with self.step(name) as timed:
            table = function(table)
        return _with_seconds(table, name, timed)

    @contextmanager
    def unit(self, key: str, done: str = "done") -> Iterator[None]:
        """Have a unit in hand inside the `with`; the log says afterwards that it is `done`."""
        thread, started = threading.get_ident(), time.monotonic()
        with log.context(run=self._run, unit=key):
            self._move(thread, InHand(key, "wait", time.time()))
            try:
                yield
            except Exception as error:
                _log.error("failed: %s", error)
                raise
            finally:
                self._move(thread, None)
            _log.info("%s in %.2f s", done, time.monotonic() - started)

    @contextmanager
    def step(self, name: str) -> Iterator[_Timed]:
        """Be in a step of the unit inside the `with`; what it yields tells afterwards how long it took."""
        thread, timed, started = threading.get_ident(), _Timed(), time.monotonic()
        unit = self._in_hand[thread].unit
        self._in_hand[thread] = InHand(unit, name, time.time())
        with log.context(stage=name):
            yield timed
        timed.seconds = time.monotonic() - started
        self._in_hand[thread] = InHand(unit, "wait", time.time())
        self._meter.add(metrics.STAGE_SECONDS, timed.seconds, run=self._run, stage=name)

    def written(self, model: str, record: LedgerRecord) -> None:
        """Count what was written."""
        labels = {"run": self._run, "model": model}
        self._meter.add(metrics.UNITS, 1, **labels)
        self._meter.add(metrics.ROWS, record.rows, **labels)
        self._meter.add(metrics.BYTES_WRITTEN, record.num_bytes, **labels)
        for reason, count in record.rejected.items():
            self._meter.add(metrics.REJECTED, count, reason=reason, **labels)

    def _move(self, thread: int, unit: InHand | None) -> None:
        if unit:
            self._in_hand[thread] = unit
        else:
            self._in_hand.pop(thread, None)
        self._meter.add(metrics.IN_HAND, len(self._in_hand), run=self._run)


@cache
def _meter(make: Callable[[], Meter]) -> Meter:
    """One for all units that a process reads."""
    return make()


def _with_seconds(table: UnitTable, step: str, timed: _Timed) -> UnitTable:
    name = f"{step.replace(' ', '_')}_seconds"
    return replace(table, stats=table.stats | {name: timed.seconds})


def name_unit(work: Work) -> pa.Table:
    """Block that only names a unit, for workers that read it themselves."""
    return pa.table({"work": pa.array([work.to_json()], pa.large_string())})


def read_unit(
    source: Reader,
    stages: Sequence[Stage],
    work: Work,
    attempts: Attempts = UNLIMITED,
    watch: Watch = UNWATCHED,
) -> pa.Table:
    """Read a unit, run the first stages on it, and seal it; one to be given up is sealed empty: the worker gives it up.

    How long each took is told as a worker tells it, and travels with the unit. A process reads one unit at a time.
    """
    steps = Steps(watch)
    with attempt(attempts, Room(), work.key) as may_begin:
        if not may_begin:
            return seal(UnitTable(pa.table({}), pa.table({}), 0), work)
        with steps.unit(work.unit.key, "read"), steps.heard_if_long("reader"):
            table = steps.read(source, work.unit)
            for stage in stages:
                table = steps.computed(stage.name, partial(run_local, [stage]), table)
            return seal(table, work)


@contextmanager
def naming(work: Work) -> Iterator[None]:
    """Put the unit's name into any error: Ray Data hands on nothing but text."""
    try:
        yield
    except Exception as error:
        ids = ", ".join(filter(None, work.ids))
        text = f"unit {work.unit.key} ({ids}) failed: {type(error).__name__}: {error}"
        raise UnitError(" ".join(text.split())) from error
