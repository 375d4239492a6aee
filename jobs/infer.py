"""Release + checkpoint -> fragments and ledger records; nothing is published yet."""

from catalogs import CATALOGS
from engine.errors import ConfigError
from jobs import applied, parts
from jobs.applied import Applied
from jobs.config import JobConfig, load_scorings
from jobs.faults import judge
from jobs.job import JobResult, Options
from jobs.parts import Parts


def run(options: Options) -> JobResult:
    """Compute the units that have no record."""
    configs = load_scorings(options)
    ready = [assemble(config, options)[0] for config in configs]
    if options.plan:
        return JobResult.joined([parts.plan(part) for part in ready])
    parts.run(configs[0], ready, "infer")
    return JobResult.joined([_result(*pair) for pair in zip(configs, ready, strict=True)])


def _result(config: JobConfig, ready: Parts) -> JobResult:
    computed, ready = len(ready.pending), ready.settled()
    records = ready.records()
    verdict = judge(ready.units, records, config.max_rejected_fraction)
    summary = {
        "output": ready.output.uri,
        "units": len(ready.units),
        "computed": computed,
        "given_up": list(ready.given_up),
        "rows": sum(record.rows for record in records),
        "fault_fraction": verdict.fraction,
    }
    lines = [f"{key}: {value}" for key, value in summary.items() if key != "given_up"]
    return JobResult(summary, [*lines, *ready.told, *verdict.lines], verdict.exit_code)


def assemble(config: JobConfig, options: Options) -> tuple[Parts, list[Applied]]:
    """Return the pipeline from the release to scores, and the checkpoints that it applies."""
    assert config.output is not None
    chain = applied.open_all(config)
    spec = chain[-1].spec
    catalog = CATALOGS[config.catalog.name]
    if not catalog.publishes(spec.name):
        fitting = ", ".join(name for name, other in CATALOGS.items() if other.publishes(spec.name))
        raise ConfigError(
            "catalogue is not one of this model's scores", "catalog.name", catalog.name,
            f"{fitting}, for model '{spec.name}'",
        )  # fmt: skip
    stages = applied.stages(config, chain)
    made = [column for stage in stages[1:] for column in stage.provides]
    columns = catalog.columns([column for column in made if config.infer.publish_images or not column.packed])
    salt = {"checkpoints": [one.checkpoint.id for one in chain], "model": spec.name,
            "precision": config.infer.precision}  # fmt: skip
    if config.morphology:
        salt["morphology"] = config.morphology.model_dump()
    return parts.assemble(config, stages, columns, config.output, salt, options.limit), chain
