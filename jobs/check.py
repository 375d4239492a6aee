"""Prove that a catalogue is whole: every file, row, key and count as its manifest says."""

from catalogs.check import check_catalog
from jobs import catalogue
from jobs.job import JobResult, Options


def run(options: Options) -> JobResult:
    """Check one version; exit code 1 if anything is wrong."""
    place, _ = catalogue.load(options)
    report = check_catalog(place.uri, place.storage, options.version)
    return JobResult(report.to_dict(), report.lines(), 0 if report.ok else 1)
