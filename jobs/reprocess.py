"""The main job: compute the units of a release that have no record, then publish a version of all of them.

Run it again after an interruption and it goes on; run it on an unchanged release and it publishes nothing.
"""

import time
from contextlib import nullcontext
from dataclasses import replace

from engine import cluster
from jobs import infer, parts, publish
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Do what `[release]`, `[checkpoint]` and `[output]` say."""
    return reprocess(load(options, "release", "checkpoint", "output"), options)


def reprocess(config: JobConfig, options: Options) -> JobResult:
    """`infer`, then `publish`."""
    ready, checkpoint = infer.assemble(config, options)
    if options.plan:
        return JobResult(parts.plan_summary(ready), parts.plan_lines(config, ready))
    with cluster.connect(config.cluster) if ready.pending else nullcontext():
        began = parts.run(config, ready, "reprocess")
        result = publish.publish_version(config, ready, checkpoint)
        return replace(result, summary=result.summary | {"work_s": time.time() - began})
