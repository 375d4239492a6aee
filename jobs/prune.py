"""Remove fragments that nobody reads and versions that are too old."""

from engine.commit import prune
from engine.storage import Storage
from jobs import catalogue
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Prune a catalogue; with `--plan` only say what would go."""
    place, given = catalogue.load(options)
    done = prune(
        place.uri,
        Storage(place.storage),
        options.keep or given.keep_versions,
        given.min_age_hours * 3600,
        dry_run=options.plan,
    )
    verb = "would remove" if options.plan else "removed"
    summary = {
        "removed": list(done.uris),
        "bytes": done.num_bytes,
        "retired": done.retired,
        "plan": options.plan,
    }
    lines = [*done.uris, f"{verb} {len(done.uris)} objects, {done.num_bytes / 1e6:.1f} MB"]
    if done.retired:
        lines.append(f"fragments of {done.retired} units that only old versions had go with a later pruning")
    return JobResult(summary, lines)
