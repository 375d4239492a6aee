"""Fragments -> a new version of the catalogue, with its report; nothing new, nothing published."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from engine import cluster
from engine.commit import Manifest, RunAll, Version, current_version, publish, publish_id, run_each
from engine.errors import CommitError
from engine.flags import REASONS
from engine.ledger import LedgerRecord
from engine.pipeline import map_tasks
from jobs import infer, report
from jobs.applied import Applied
from jobs.config import JobConfig, load_scorings
from jobs.faults import Verdict, judge
from jobs.job import JobResult, Options
from jobs.parts import Parts
from jobs.provenance import provenance

ROWS_MERGED_HERE = 1_000_000
"""Up to so many rows the driver merges by itself: starting workers costs 6 s, merging 400,000 rows 1.5 s."""


def run(options: Options) -> JobResult:
    """Publish what `infer` has computed for this release and checkpoint."""
    return JobResult.joined([_publish_one(config, options) for config in load_scorings(options)])


def _publish_one(config: JobConfig, options: Options) -> JobResult:
    ready, chain = infer.assemble(config, options)
    if options.plan:
        return _plan(config, ready)
    if ready.pending:
        raise CommitError(
            f"{len(ready.pending)} of {len(ready.units)} units are not computed yet",
            ready.output.uri,
            hint="Run `infer` or `reprocess` with the same configuration.",
        )
    return publish_version(config, ready, chain)


def _plan(config: JobConfig, ready: Parts) -> JobResult:
    """Say what would be published."""
    current = current_version(ready.output.uri, ready.storage)
    unchanged = _holds(current, config, ready)
    number = (current.version if current else 0) + (not unchanged)
    summary = {
        "output": ready.output.uri,
        "version": number,
        "new": not unchanged,
        "units": len(ready.units),
        "pending": len(ready.pending),
        "rows": sum(record.rows for record in ready.records()),
    }
    state = "nothing new: still" if unchanged else "would publish"
    lines = [f"{state} version {number}: {summary['rows']} rows from {len(ready.units)} units"]
    lines += [f"{len(ready.pending)} units are not computed yet: run `infer` first"] if ready.pending else []
    return JobResult(summary, lines)


def _holds(current: Version | None, config: JobConfig, ready: Parts) -> bool:
    """Whether the current version is what would be published."""
    identity = publish_id([unit.id for unit in ready.units], ready.columns, config.catalog)
    return current is not None and current.publish_id == identity


def publish_version(config: JobConfig, ready: Parts, chain: Sequence[Applied]) -> JobResult:
    """Merge, publish, report; the last two lines name the report and the catalogue."""
    unchanged = _holds(current_version(ready.output.uri, ready.storage), config, ready)
    records = None if unchanged else ready.records()
    merge_here = sum(record.rows for record in records or ()) <= ROWS_MERGED_HERE
    with nullcontext() if merge_here else cluster.connect(config.cluster):
        manifest = _publish(config, ready, chain, run_each if merge_here else _run_tasks, records)
    verdict = judge(ready.units, [manifest], config.max_rejected_fraction)
    summary = _summary(manifest, unchanged) | {"fault_fraction": verdict.fraction}
    if config.report.enabled:
        summary["report"] = _report(config, ready, manifest, unchanged)
    summary["catalogue"] = ready.output.uri
    return JobResult(summary, _lines(summary, verdict), verdict.exit_code)


def _run_tasks(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(map_tasks(function, items))


def _report(config: JobConfig, ready: Parts, manifest: Manifest, unchanged: bool) -> str:
    """Path of the report, which is drawn anew unless nothing is new."""
    path = report.path_of(ready.output, manifest)
    if unchanged and Path(path).exists():
        return path
    return report.write(ready.output, manifest.version, config.report)


def _publish(
    config: JobConfig,
    ready: Parts,
    chain: Sequence[Applied],
    run_all: RunAll,
    records: list[LedgerRecord] | None,
) -> Manifest:
    facts = provenance(config, checkpoints={one.place.uri: one.checkpoint.id for one in chain})
    ids = [unit.id for unit in ready.units]
    place, columns = ready.output.uri, ready.columns
    return publish(place, ready.storage, ids, columns, config.catalog, facts, run_all, records)


def _summary(manifest: Manifest, unchanged: bool) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "new": not unchanged,
        "units": manifest.num_units,
        "rows_in": manifest.rows_in,
        "rows": manifest.rows,
        "rejected": dict(manifest.rejected),
    }


def _lines(summary: dict[str, Any], verdict: Verdict) -> list[str]:
    state = "published" if summary["new"] else "nothing new: still"
    lines = [f"{state} version {summary['version']}: {summary['rows']} rows from {summary['units']} units"]
    lines += [
        f"rejected {n}: {REASONS[r].description} ({REASONS[r].kind})" for r, n in summary["rejected"].items()
    ]
    return [*lines, *verdict.lines] + [
        f"{name}: {summary[name]}" for name in ("report", "catalogue") if name in summary
    ]
