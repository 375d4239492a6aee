"""The main job: compute the units of a release that have no record, then publish a version of all of them.

Run it again after an interruption and it goes on; run it on an unchanged release and it publishes nothing. `--repair`
looks for what is damaged first.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from engine import cluster
from jobs import infer, parts, publish
from jobs.config import JobConfig, load_scorings
from jobs.job import JobResult, Options
from jobs.repair import repairing


def run(options: Options) -> JobResult:
    """Do what `[release]`, `[checkpoint]` and `[output]` say, or `models` instead of the last two."""
    return reprocess(load_scorings(options), options)


def reprocess(configs: Sequence[JobConfig], options: Options) -> JobResult:
    """`infer`, then `publish`: one configuration for each model; all score the release in one pass."""
    assembled = [infer.assemble(config, options) for config in configs]
    if options.repair:
        assembled = [(repairing(pipeline, options.plan), chain) for pipeline, chain in assembled]
    ready = [pipeline for pipeline, _ in assembled]
    if options.plan:
        return JobResult.joined([parts.plan(part) for part in ready])
    with cluster.connect(configs[0].cluster) if any(part.pending for part in ready) else nullcontext():
        began, computed = parts.run(configs[0], ready, "reprocess"), time.time()
        published = [
            publish.publish_version(config, part.settled(), chain)
            for config, (part, chain) in zip(configs, assembled, strict=True)
        ]
        seconds = {"work_s": computed - began, "publish_s": time.time() - computed}
        return JobResult.joined([replace(done, summary=done.summary | seconds) for done in published])
