"""The only place where parts meet: one module a job, `python -m jobs <job> ...`.

`JOBS` names the module of each job; it is imported when the job is run, so that `--help` is quick.
"""

from typing import NamedTuple


class JobEntry(NamedTuple):
    """Where a job is, what it takes on the command line, and what it is for."""

    module: str
    takes: str
    summary: str


JOBS: dict[str, JobEntry] = {
    "synthesize": JobEntry("jobs.synthesize", "config", "write a synthetic release in the real file layout"),
    "ingest": JobEntry("jobs.ingest", "config", "release -> staged Parquet for training"),
    "train": JobEntry("jobs.train", "config", "staged Parquet -> checkpoint"),
    "tune": JobEntry(
        "jobs.tune", "config", "staged Parquet -> the best of many settings, as a file for train"
    ),
    "infer": JobEntry("jobs.infer", "config", "release + checkpoint -> fragments, not yet published"),
    "publish": JobEntry("jobs.publish", "config", "fragments -> a new version of the catalogue"),
    "reprocess": JobEntry("jobs.reprocess", "config", "the main job: infer what is new, then publish"),
    "augment": JobEntry("jobs.augment", "config", "checkpoint of a generator -> catalogue of samples"),
    "demo": JobEntry("jobs.demo", "config", "all of the above on a synthetic release, from nothing"),
    "status": JobEntry("jobs.status", "catalogue", "how far the runs of a catalogue or configuration are"),
    "query": JobEntry("jobs.query", "catalogue", "SQL on a catalogue: views catalog, rejected, versions"),
    "check": JobEntry("jobs.check", "catalogue", "prove that a catalogue is whole and consistent"),
    "crossmatch": JobEntry("jobs.crossmatch", "catalogue", "neighbours in another HATS catalogue, by LSDB"),
    "report": JobEntry("jobs.report", "catalogue", "one HTML file about a catalogue"),
    "labels": JobEntry("jobs.labels", "catalogue", "what people said of objects: CSV in and out"),
    "rerank": JobEntry("jobs.rerank", "catalogue", "labels -> new ranks beside a catalogue"),
    "prune": JobEntry("jobs.prune", "catalogue", "remove orphans and old versions"),
}
