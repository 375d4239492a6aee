"""Write a synthetic release in the real file layout, in parallel, with a truth table beside it."""

import importlib
from collections.abc import Iterable, Iterator
from functools import partial

import pyarrow as pa

from engine import cluster
from engine.log import ProgressLine
from engine.pipeline import map_tasks
from engine.storage import Storage
from engine.synthetic.kinds import SYNTHETIC
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Write the release of `[synthesize]` to `release.uri`."""
    return write(load(options, "release", "synthesize"), options)


def write(config: JobConfig, options: Options) -> JobResult:
    """Write what is asked for, one task after the other on all CPUs, and the truth table as they come."""
    assert config.synthesize is not None
    assert config.release is not None
    place, kind = config.release, config.release.source
    wanted = SYNTHETIC[kind].model_validate(config.synthesize)
    module = importlib.import_module(f"engine.synthetic.{kind}")
    tasks = module.task_count(wanted)
    tasks = tasks if options.limit is None else min(tasks, options.limit)
    summary = {"release": place.uri, **module.describe(wanted, tasks)}
    if options.plan:
        return JobResult(summary, [f"{key}: {value}" for key, value in summary.items()])
    storage = Storage(place.storage)
    storage.check_writable(place.uri)
    task = partial(module.write_task, wanted, uri=place.uri, storage=storage)
    with cluster.connect(config.cluster), ProgressLine("synthesize", tasks) as line:
        module.write_truth(_counted(map_tasks(task, range(tasks)), line), place.uri, storage)
    return JobResult(summary, [f"release: {place.uri}"])


def _counted(truth: Iterable[pa.Table], line: ProgressLine) -> Iterator[pa.Table]:
    for rows in truth:
        line.advance(rows.num_rows)
        yield rows
