"""Write a synthetic release in the real file layout, in parallel, with a truth table beside it."""

from functools import partial

import pyarrow as pa

from engine import cluster
from engine.log import ProgressLine
from engine.pipeline import map_tasks
from engine.storage import Storage
from engine.synthetic.desi import file_count, write_file, write_truth
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Write the release of `[synthesize]` to `release.uri`."""
    return write(load(options, "synthesize", "release"), options)


def write(config: JobConfig, options: Options) -> JobResult:
    """Write the files that are asked for, one task each, then the truth table."""
    assert config.synthesize is not None
    assert config.release is not None
    files = min(file_count(config.synthesize), options.limit or 1 << 62)
    place = config.release
    summary = {"release": place.uri, "files": files, "spectra": config.synthesize.num_spectra}
    lines = [f"{key}: {value}" for key, value in summary.items()]
    if options.plan:
        return JobResult(summary, lines)
    storage = Storage(place.storage)
    task = partial(_write_one, config, storage)
    with cluster.connect(config.cluster), ProgressLine("synthesize", files) as line:
        truth = map_tasks(task, list(range(files)), on_result=lambda rows: line.advance(rows.num_rows))
    write_truth(truth, place.uri, storage)
    return JobResult(summary, [f"release: {place.uri}"])


def _write_one(config: JobConfig, storage: Storage, index: int) -> pa.Table:
    assert config.synthesize is not None
    assert config.release is not None
    return write_file(config.synthesize, index, config.release.uri, storage)
