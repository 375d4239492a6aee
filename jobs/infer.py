"""Release + checkpoint -> fragments and ledger records; nothing is published yet."""

from catalogs import spectral_anomaly
from engine.checkpoint import Checkpoint
from jobs import parts
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options
from jobs.parts import Parts


def run(options: Options) -> JobResult:
    """Compute the units that have no record."""
    config = load(options, "release", "checkpoint", "output")
    ready, _ = assemble(config, options)
    if options.plan:
        return JobResult(parts.plan_summary(ready), parts.plan_lines(config, ready))
    parts.run(config, ready, "infer")
    rows = sum(record.rows for record in ready.records())
    summary = {
        "output": ready.output.uri,
        "units": len(ready.units),
        "computed": len(ready.pending),
        "rows": rows,
    }
    return JobResult(summary, [f"{key}: {value}" for key, value in summary.items()])


def assemble(config: JobConfig, options: Options) -> tuple[Parts, Checkpoint]:
    """Return the pipeline from the release to scores, and the checkpoint that it applies."""
    assert config.output is not None
    checkpoint, spec, stages = parts.infer_stages(config)
    columns = spectral_anomaly.columns(stages[-1].provides)
    salt = {"checkpoint": checkpoint.id, "model": spec.name, "precision": config.infer.precision}
    return parts.assemble(config, stages, columns, config.output, salt, options.limit), checkpoint
