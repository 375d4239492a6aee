"""Fragments -> a new version of the catalogue, with what it changed and its report; nothing new, nothing published.

Of several jobs that publish at once one does, and the others say so: a version is created at most once, only as
the successor of the one that was current when the job looked at the release. There is no lock to be left behind.
"""

import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalogs.diff import Diff, write_diff
from engine import cluster
from engine.commit import Manifest, publish, publish_id, read_manifest, run_each
from engine.errors import CommitError, SupersededError
from engine.flags import REASONS
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

STATES = {
    "new": "published",
    "unchanged": "nothing new: still",
    "shared": "another job published the same meanwhile:",
}
"""How it came that the version holds what was to be published."""


def run(options: Options) -> JobResult:
    """Publish what `infer` has computed for this release and checkpoint."""
    return JobResult.joined([_publish_one(config, options) for config in load_scorings(options)])


def _publish_one(config: JobConfig, options: Options) -> JobResult:
    ready, chain = infer.assemble(config, options)
    ready = ready.settled()
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
    unchanged = _is_current(config, ready)
    number = (ready.base.version if ready.base else 0) + (not unchanged)
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


def _is_current(config: JobConfig, ready: Parts) -> bool:
    """Whether the version that was current is what would be published, and nothing is known to be damaged in it."""
    identity = publish_id([unit.id for unit in ready.units], ready.columns, config.catalog)
    return ready.base is not None and ready.base.publish_id == identity and not ready.damaged_version


def publish_version(config: JobConfig, ready: Parts, chain: Sequence[Applied]) -> JobResult:
    """Merge, publish, compare, report; the last two lines name the report and the catalogue."""
    if ready.base is not None and _is_current(config, ready):
        return _published(config, ready, ready.base, "unchanged")
    run = secrets.token_hex(8)
    try:
        manifest = _publish(config, ready, chain, run)
    except SupersededError as error:
        current = read_manifest(ready.output.uri, ready.storage)
        summary = {"version": current.version, "new": False, "state": "superseded"}
        return JobResult(
            summary | {"catalogue": ready.output.uri}, [str(error), f"catalogue: {ready.output.uri}"]
        )
    return _published(config, ready, manifest, "new" if manifest.provenance.get("run") == run else "shared")


def _published(config: JobConfig, ready: Parts, manifest: Manifest, state: str) -> JobResult:
    """Tell of a version that holds what was to be published, whoever published it."""
    verdict = judge(ready.units, [manifest], config.max_rejected_fraction)
    compared = ready.changes()
    summary = _summary(manifest, state) | {"fault_fraction": verdict.fraction, "changes": asdict(compared)}
    summary["given_up"] = list(ready.given_up)
    diff = _diff(config, ready, manifest)
    summary["diff"] = asdict(diff) if diff else None
    if config.report.enabled:
        summary["report"] = _report(config, ready, manifest, state != "new")
    summary["catalogue"] = ready.output.uri
    told = [f"release: {compared}", *([f"rows: {diff}"] if diff else []), *ready.told]
    return JobResult(summary, _lines(summary, told, verdict), verdict.exit_code)


def _diff(config: JobConfig, ready: Parts, manifest: Manifest) -> Diff | None:
    """Return what the version changed; it is worked out now if no job has done so."""
    if not (config.diff.enabled and manifest.previous):
        return None
    return write_diff(ready.output.uri, ready.storage, manifest.version, config.diff)


def _run_tasks(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(map_tasks(function, items))


def _report(config: JobConfig, ready: Parts, manifest: Manifest, unchanged: bool) -> str:
    """Path of the report, which is drawn anew unless nothing is new."""
    path = report.path_of(ready.output, manifest)
    if unchanged and Path(path).exists():
        return path
    return report.write(ready.output, manifest.version, config.report)


def _publish(config: JobConfig, ready: Parts, chain: Sequence[Applied], run: str) -> Manifest:
    """Publish here or, if it is much, on Ray; `run` tells our manifest from another job's."""
    records = ready.records()
    merge_here = sum(record.rows for record in records) <= ROWS_MERGED_HERE
    facts = provenance(config, run=run, checkpoints={one.place.uri: one.checkpoint.id for one in chain})
    with nullcontext() if merge_here else cluster.connect(config.cluster):
        return publish(
            ready.output.uri,
            ready.storage,
            [unit.id for unit in ready.units],
            ready.columns,
            config.catalog,
            facts,
            run_each if merge_here else _run_tasks,
            records,
            base=ready.base.version if ready.base else 0,
            damaged=ready.damaged_version,
            units=ready.units,
        )


def _summary(manifest: Manifest, state: str) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "new": state == "new",
        "state": state,
        "units": manifest.num_units,
        "rows_in": manifest.rows_in,
        "rows": manifest.rows,
        "rejected": dict(manifest.rejected),
    }


def _lines(summary: dict[str, Any], told: Sequence[str], verdict: Verdict) -> list[str]:
    lines = [
        f"{STATES[summary['state']]} version {summary['version']}: {summary['rows']} rows from {summary['units']} units",
        *told,
    ]
    lines += [
        f"rejected {n}: {REASONS[r].description} ({REASONS[r].kind})" for r, n in summary["rejected"].items()
    ]
    return [*lines, *verdict.lines] + [
        f"{name}: {summary[name]}" for name in ("report", "catalogue") if name in summary
    ]
