"""Release + checkpoint -> fragments and ledger records; nothing is published yet."""

from catalogs import CATALOGS
from engine.checkpoint import Checkpoint
from engine.errors import ConfigError
from jobs import parts
from jobs.config import JobConfig, load_scorings
from jobs.faults import judge
from jobs.job import JobResult, Options
from jobs.parts import Parts


def run(options: Options) -> JobResult:
    """Compute the units that have no record."""
    configs = load_scorings(options)
    ready = [assemble(config, options)[0] for config in configs]
    if options.plan:
        return JobResult.joined([parts.plan(*pair) for pair in zip(configs, ready, strict=True)])
    parts.run(configs[0], ready, "infer")
    return JobResult.joined([_result(*pair) for pair in zip(configs, ready, strict=True)])


def _result(config: JobConfig, ready: Parts) -> JobResult:
    records = ready.records()
    verdict = judge(ready.units, records, config.max_rejected_fraction)
    summary = {
        "output": ready.output.uri,
        "units": len(ready.units),
        "computed": len(ready.pending),
        "rows": sum(record.rows for record in records),
        "fault_fraction": verdict.fraction,
    }
    lines = [f"{key}: {value}" for key, value in summary.items()]
    return JobResult(summary, [*lines, *verdict.lines], verdict.exit_code)


def assemble(config: JobConfig, options: Options) -> tuple[Parts, Checkpoint]:
    """Return the pipeline from the release to scores, and the checkpoint that it applies."""
    assert config.output is not None
    checkpoint, spec = parts.open_checkpoint(config)
    catalog = CATALOGS[config.catalog.name]
    if catalog.model != spec.name:
        fitting = ", ".join(name for name, other in CATALOGS.items() if other.model == spec.name)
        raise ConfigError(
            "catalogue is not one of this model's scores", "catalog.name", catalog.name,
            f"{fitting}, for model '{spec.name}'",
        )  # fmt: skip
    stages = parts.infer_stages(config, checkpoint, spec)
    columns = catalog.columns(stages[-1].provides)
    salt = {"checkpoint": checkpoint.id, "model": spec.name, "precision": config.infer.precision}
    return parts.assemble(config, stages, columns, config.output, salt, options.limit), checkpoint
