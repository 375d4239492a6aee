"""Put the parts of a pipeline together: source, stages, sink, and the units that have no record yet."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from engine import cluster, log
from engine.column import Column
from engine.commit import Changes, FragmentSink, Manifest, changes, current_version, manifest_of
from engine.errors import SourceError
from engine.ledger import Ledger, LedgerRecord
from engine.log import ProgressLine
from engine.pipeline import run_units
from engine.runs import Recorder, RunFolder, new_run_name
from engine.schema import arrow_schema
from engine.sources.base import Source
from engine.stage import Stage, check
from engine.storage import Storage
from engine.units import Unit, Work, content_hash, given_up_id, with_ids
from engine.worker import Branch, Watch
from jobs.config import JobConfig, Place
from jobs.job import JobResult

_log = logging.getLogger(__name__)

NAMED = 5
"""Units that are told by name where some are given up."""


@dataclass(frozen=True)
class Parts:
    """A pipeline that is ready to run, and what it writes to."""

    source: Source
    kind: str
    stages: tuple[Stage, ...]
    columns: tuple[Column, ...]
    output: Place
    units: list[Unit]
    pending: list[Unit]
    base: Manifest | None
    """Version that was current before the release was looked at, None if there was none."""
    given_up: tuple[str, ...] = ()
    """Keys of units whose workers died each time; see `settled`."""
    damaged_version: int = 0
    """Version that was current and has a damaged file, so that the same content is published again; 0: none."""
    damage: tuple[str, ...] = ()
    """What `--repair` found, a line each."""

    @property
    def storage(self) -> Storage:
        """Storage of the output."""
        return Storage(self.output.storage)

    @property
    def sink(self) -> FragmentSink:
        """Where finished units go."""
        return FragmentSink(self.output.uri, self.output.storage, self.columns)

    def changes(self) -> Changes:
        """How the release differs from the version that was current."""
        return changes(self.output.uri, self.storage, self.base, self.units)

    def settled(self) -> "Parts":
        """How things stand after a run: units that were given up go by the id of the record that says so.

        `pending` are then those that have neither.
        """
        if not self.pending:
            return self
        done = Ledger(self.output.uri, self.storage).ids()
        units = [_by_record(unit, done) for unit in self.units]
        given_up = tuple(new.key for new, old in zip(units, self.units, strict=True) if new.id != old.id)
        pending = [unit for unit in units if unit.id not in done]
        return replace(self, units=units, pending=pending, given_up=given_up)

    @property
    def told(self) -> list[str]:
        """What a person is told of damage and of units that were given up; nothing if there are none."""
        if not self.given_up:
            return list(self.damage)
        names = ", ".join(self.given_up[:NAMED]) + (", ..." if len(self.given_up) > NAMED else "")
        return [
            *self.damage,
            f"given up: {len(self.given_up)} units whose workers died each time ({names}); the same line tries again",
        ]

    def records(self) -> list[LedgerRecord]:
        """Ledger records of the units of this run, without the units: those are here."""
        ids = [unit.id for unit in self.units]
        return list(Ledger(self.output.uri, self.storage).done(ids, with_units=False).values())


def _by_record(unit: Unit, done: Collection[str]) -> Unit:
    """Return a unit with the id of the record that it has: its own, or that it was given up."""
    if unit.id in done or (given_up := given_up_id(unit.id)) not in done:
        return unit
    return replace(unit, id=given_up)


def assemble(
    config: JobConfig,
    stages: Sequence[Stage],
    columns: Sequence[Column],
    output: Place,
    salt: Mapping[str, Any],
    limit: int | None,
) -> Parts:
    """Check that the stages fit together, plan the release and see what is done already.

    Parameters
    ----------
    salt
        What changes results besides the files: it goes into the units' ids, with cuts and columns.
    limit
        Use only the first so many units.

    Raises
    ------
    SourceError
        If the release holds no unit.
    """
    assert config.release is not None
    source, kind = config.release.open(), config.release.source
    check(stages, source.columns)
    Storage(config.release.storage).check_readable(config.release.uri)
    ready = planned(source, kind, stages, columns, output, salt, limit)
    if not ready.units:
        raise SourceError(
            "the release is empty: no file that the source knows",
            config.release.uri,
            expected=f"files of source '{kind}'",
            hint="Check release.uri, release.source and the selection in [release.settings].",
        )
    return ready


def planned(
    source: Source,
    kind: str,
    stages: Sequence[Stage],
    columns: Sequence[Column],
    output: Place,
    salt: Mapping[str, Any],
    limit: int | None,
) -> Parts:
    """Plan a source that is open and see what is done already; `assemble` does it for a release.

    Parameters
    ----------
    kind
        What the source is called.
    """
    base = _current(output)  # before the release is listed: a version that comes later may know of more
    units = with_ids(islice(source.plan(), limit), _full_salt(kind, source, columns, salt))
    done = Ledger(output.uri, Storage(output.storage)).ids()
    pending = [unit for unit in units if unit.id not in done]
    return Parts(source, kind, tuple(stages), tuple(columns), output, units, pending, base)


def _current(output: Place) -> Manifest | None:
    storage = Storage(output.storage)
    version = current_version(output.uri, storage)
    return manifest_of(output.uri, storage, version) if version else None


def _full_salt(
    name: str, source: Source, columns: Sequence[Column], salt: Mapping[str, Any]
) -> dict[str, Any]:
    schema = [str(field) for field in arrow_schema(columns)]
    return {"source": name, "settings": source.salt, "columns": content_hash(schema), **salt}


def run(config: JobConfig, branches: Sequence[Parts], name: str) -> float:
    """Compute the pending units of one or several outputs of a release on Ray, reading each once.

    The ledgers say afterwards what is done.

    Returns
    -------
    float
        When the first worker began [s, Unix time]: before that Ray and the workers were starting.
    """
    first = time.time()
    pending = [part for part in branches if part.pending]
    if not pending:
        return first
    for part in pending:
        part.storage.check_writable(part.output.uri)
    starts: list[float] = []

    def tell(branch: int, record: LedgerRecord) -> None:
        if record.is_given_up:
            _log.warning("unit %s is given up: its workers died", record.unit_key)
        starts.append(time.time() - record.stats.get("worker_seconds", 0.0))
        recorder.counts[branch].add(record.rows, record.rejected_rows)
        line.advance(record.rows, record.rejected_rows)

    total = sum(len(part.pending) for part in pending)
    with _recorded(config, pending, name) as recorder, cluster.connect(config.cluster):
        cluster.preflight([stage for part in pending for stage in part.stages], config.cluster)
        made = [Branch(part.stages, part.sink) for part in pending]
        watch = Watch(recorder.folders, config.pipeline.heartbeat_s, log.current_format())
        with ProgressLine(name, total) as line:
            run_units(
                _work(pending), pending[0].source, made, config.pipeline, tell, watch, config.cluster.may_grow
            )
    return min(starts, default=first)


@contextmanager
def _recorded(config: JobConfig, pending: Sequence[Parts], name: str) -> Iterator[Recorder]:
    """Have the run told below each catalogue that it writes, from its beginning to its end."""
    run_name = new_run_name()
    folders = tuple(RunFolder(part.output.uri, part.storage, run_name) for part in pending)
    recorder = Recorder(name, folders, config.pipeline.heartbeat_s)
    with log.context(run=run_name):
        recorder.begin((len(part.units), part.pending) for part in pending)
        try:
            yield recorder
        except BaseException as error:
            recorder.end(error)
            raise
        recorder.end(None)


def _work(branches: Sequence[Parts]) -> list[Work]:
    """Units that a branch needs, in the order of the plan, each with its id in those that need it."""
    wanted = [{unit.id for unit in part.pending} for part in branches]
    work: list[Work] = []
    for units in zip(*(part.units for part in branches), strict=True):
        ids = tuple(unit.id if unit.id in ids else "" for unit, ids in zip(units, wanted, strict=True))
        work += [Work(units[0], ids)] if any(ids) else []
    return work


def plan(parts: Parts) -> JobResult:
    """Say what a run would do, for programs and for people: units, bytes, changes, stages and columns."""
    compared = parts.settled().changes()
    facts = _plan_summary(parts, compared)
    return JobResult(facts, [*_plan_lines(parts, facts, compared), *parts.damage])


def _plan_lines(parts: Parts, facts: Mapping[str, Any], compared: Changes) -> list[str]:
    num_bytes, todo, missing = facts["bytes"], facts["pending_bytes"], facts["missing"]
    lines = [
        f"release:    {parts.source.uri} ({parts.kind})",
        f"units:      {facts['units']} ({num_bytes / 1e9:.3g} GB of files), to do {facts['pending']} ({todo / 1e9:.3g} GB)",
        f"changes:    {compared}",
        f"output:     {parts.output.uri}",
        f"stages:     read -> {' -> '.join(stage.name for stage in parts.stages)} -> write",
        f"columns:    {', '.join(facts['columns'])}",
    ]
    return lines + ([f"missing:    {missing} files that an index names do not exist"] if missing else [])


def _plan_summary(parts: Parts, compared: Changes) -> dict[str, Any]:
    return {
        "units": len(parts.units),
        "pending": len(parts.pending),
        "bytes": sum(unit.num_bytes for unit in parts.units),
        "pending_bytes": sum(unit.num_bytes for unit in parts.pending),
        "missing": sum(len(unit.missing) for unit in parts.units),
        "changes": asdict(compared),
        "columns": [column.name for column in parts.columns],
    }
