"""From nothing to a catalogue: synthesize, ingest, train, reprocess, and the ten strangest objects."""

import logging
import time
from dataclasses import replace

from engine import cluster
from engine.errors import ConfigError
from jobs import ingest, query, reprocess, synthesize, train
from jobs.config import load
from jobs.job import JobResult, Options

_logger = logging.getLogger(__name__)

TOP_TEN = (
    "SELECT anomaly_rank AS rank, targetid, spectype, round(z, 4) AS z, round(anomaly_score, 2) AS score, "
    "round(worst_wave_min) AS wave_min, round(worst_wave_max) AS wave_max, flag_names(flags) AS flags FROM top(10)"
)


def run(options: Options) -> JobResult:
    """Run all jobs of one configuration in one process, on one Ray."""
    config = load(options, "synthesize", "release", "staged", "checkpoint", "output")
    if options.json:
        raise ConfigError("demo prints for people", "--json", hint="Run the jobs one by one.")
    steps = (synthesize.write, ingest.stage, train.fit, reprocess.reprocess)
    lines: list[str] = []
    with cluster.connect(config.cluster):
        for step in steps:
            started = time.monotonic()
            result = step(config, options)
            name = step.__module__.removeprefix("jobs.")
            _logger.info("%s: done in %.0f s", name, time.monotonic() - started)
            lines += result.lines if options.plan else []
    if options.plan:
        return JobResult({}, lines)
    assert config.output is not None
    top = query.run(replace(options, target=config.output.uri, overrides=(), sql=TOP_TEN, limit=None))
    return JobResult(result.summary, [*top.lines, *result.lines], result.exit_code)
