"""From nothing to a catalogue: synthesize, ingest, train, reprocess, and the ten strangest objects.

A configuration without [output] ends with the trained checkpoint, for another one to apply as `upstream`; one with
[augment] with samples of the generator instead of scores.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from catalogs import CATALOGS
from engine import cluster
from engine.errors import CheckpointError, CommitError, SourceError, StorageError
from jobs import augment, ingest, query, reprocess, synthesize, train
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options

_logger = logging.getLogger(__name__)

Step = Callable[[JobConfig, Options], JobResult]

STEPS: dict[str, Step] = {
    "synthesize": synthesize.write,
    "ingest": ingest.stage,
    "train": train.fit,
    "reprocess": lambda config, options: reprocess.reprocess([config], options),
    "augment": augment.sample,
}


def run(options: Options) -> JobResult:
    """Run all jobs of one configuration in one process, on one Ray."""
    config = load(options, "synthesize", "release", "staged", "checkpoint")
    last = "augment" if config.augment else "reprocess" if config.output else "train"
    steps = {name: step for name, step in STEPS.items() if name in ("synthesize", "ingest", "train", last)}
    if options.plan:
        return _plan(config, options, steps)
    results: dict[str, JobResult] = {}
    with cluster.connect(config.cluster):
        for name, step in steps.items():
            started = time.monotonic()
            results[name] = step(config, options)
            _logger.info("%s: done in %.0f s", name, time.monotonic() - started)
    lines = results[last].lines
    if last == "reprocess" and config.output:
        top_ten = CATALOGS[config.catalog.name].examples[0][1]
        lines = [query.table(config.output, top_ten), *results["reprocess"].lines]
    return JobResult(_summaries(results), lines, max(result.exit_code for result in results.values()))


def _plan(config: JobConfig, options: Options, steps: Mapping[str, Step]) -> JobResult:
    """Plan each step; all but the first need what the one before it writes."""
    results: dict[str, JobResult] = {}
    for name, step in steps.items():
        try:
            results[name] = step(config, options)
        except (SourceError, StorageError, CommitError, CheckpointError) as error:
            results[name] = JobResult({"waits_for": str(error)}, [f"not to be planned yet: {error}"])
    lines = [f"{name}: {line}" for name, result in results.items() for line in result.lines]
    return JobResult(_summaries(results), lines)


def _summaries(results: dict[str, JobResult]) -> dict[str, Any]:
    return {name: result.summary for name, result in results.items()}
