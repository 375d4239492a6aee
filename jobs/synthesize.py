"""Write a synthetic release in the real file layout, in parallel, with a truth table beside it."""

from collections.abc import Iterable, Iterator
from functools import partial

import pyarrow as pa

from engine import cluster
from engine.log import ProgressLine
from engine.pipeline import map_tasks
from engine.storage import Storage
from engine.synthetic.desi import file_count, write_file, write_truth
from engine.synthetic.release import MAX_FILES
from jobs.config import JobConfig, load
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Write the release of `[synthesize]` to `release.uri`."""
    return write(load(options, "synthesize", "release"), options)


def write(config: JobConfig, options: Options) -> JobResult:
    """Write the files that are asked for, one task each, and the truth table as they come."""
    assert config.synthesize is not None
    assert config.release is not None
    wanted, place = config.synthesize, config.release
    files = min(file_count(wanted), options.limit or MAX_FILES)
    spectra = min(wanted.num_spectra, files * wanted.spectra_per_file)
    summary = {"release": place.uri, "files": files, "spectra": spectra}
    if options.plan:
        return JobResult(summary, [f"{key}: {value}" for key, value in summary.items()])
    storage = Storage(place.storage)
    storage.check_writable(place.uri)
    task = partial(write_file, wanted, uri=place.uri, storage=storage)
    with cluster.connect(config.cluster), ProgressLine("synthesize", files) as line:
        write_truth(_counted(map_tasks(task, range(files)), line), place.uri, storage)
    return JobResult(summary, [f"release: {place.uri}"])


def _counted(truth: Iterable[pa.Table], line: ProgressLine) -> Iterator[pa.Table]:
    for rows in truth:
        line.advance(rows.num_rows)
        yield rows
