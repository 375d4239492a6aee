"""Prove that a published version is what its manifest says: files, rows, columns, keys, counts, layout."""

import itertools
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalogs.check_files import (
    Finding,
    check_bytes,
    check_footer,
    check_rejected,
    check_rows,
)
from catalogs.diff import diff_uris
from catalogs.query import connect_release
from catalogs.release import Release, load_release, version_facts
from engine.commit.manifest import DataFile, read_version, version_numbers
from engine.locations import is_object
from engine.stage import REJECTED
from engine.storage import Storage, StorageOptions

MAX_SHOWN = 20
"""Findings of one check that are told; the rest are counted."""


@dataclass(frozen=True)
class CheckReport:
    """What `check_catalog` found.

    Parameters
    ----------
    uri, version
        What was checked.
    checks
        Names of the checks that were made.
    num_files, num_rows, num_bytes
        How much was looked at.
    findings
        In the order of the checks; empty if all is well.
    """

    uri: str
    version: int
    checks: tuple[str, ...]
    num_files: int
    num_rows: int
    num_bytes: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return all(finding.severity != "error" for finding in self.findings)

    def lines(self) -> list[str]:
        """Return findings and a verdict, for people."""
        shown = [f"{f.severity}: {f.check}: {f.where}: {f.text}" for f in self.findings]
        num_errors = sum(finding.severity == "error" for finding in self.findings)
        size = f"{self.num_files} files, {self.num_rows} rows, {self.num_bytes / 1e6:.3g} MB"
        verdict = "is whole and consistent" if self.ok else f"has {num_errors} errors"
        return [*shown, f"checked: {', '.join(self.checks)}", f"version {self.version} {verdict} ({size})"]

    def to_dict(self) -> dict[str, Any]:
        """Return the same for programs."""
        return asdict(self) | {"ok": self.ok}


def check_catalog(
    uri: str, storage_options: StorageOptions | None = None, version: int | None = None
) -> CheckReport:
    """Check one version of a catalogue, every byte of it.

    Parameters
    ----------
    uri
        Root of the catalogue.
    storage_options
        How to reach object storage.
    version
        Number of the version; the newest if None.

    Returns
    -------
    CheckReport
        Damage becomes findings, never an exception.

    Raises
    ------
    CommitError
        If there is no manifest to check against.
    """
    storage = Storage(storage_options or StorageOptions())
    release = load_release(uri, storage, version)
    findings: dict[str, list[Finding]] = {"versions": list(_check_versions(release, version, storage))}
    findings["files"] = list(_check_files(release, storage))
    findings["counts"] = list(_check_counts(release))
    is_readable = all(f.severity != "error" or f.check not in ("files", "columns") for f in findings["files"])
    if is_readable:
        findings["keys"] = list(_check_keys(release, storage))
        findings["hats"] = list(_check_hats(release, storage))
    else:
        text = "not made: files are missing or damaged"
        findings["keys"] = [Finding("info", "keys and hats", release.root, text)]
    return CheckReport(
        uri=release.root,
        version=release.version,
        checks=tuple(findings),
        num_files=len(release.manifest.files),
        num_rows=release.manifest.rows,
        num_bytes=sum(file.num_bytes for file in release.manifest.files),
        findings=tuple(itertools.chain.from_iterable(_shortened(found) for found in findings.values())),
    )


def _shortened(findings: list[Finding]) -> list[Finding]:
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        by_check.setdefault(finding.check, []).append(finding)
    shown: list[Finding] = []
    for check, found in by_check.items():
        shown += found[:MAX_SHOWN]
        if len(found) > MAX_SHOWN:
            worst = "error" if any(f.severity == "error" for f in found) else "warning"
            shown.append(Finding(worst, check, "", f"and {len(found) - MAX_SHOWN} more"))
    return shown


def _check_versions(release: Release, version: int | None, storage: Storage) -> Iterator[Finding]:
    """Numbers without a gap, each naming the one before, and the record of ours as its manifest."""
    numbers = version_numbers(release.root, storage)
    if numbers != list(range(numbers[0], numbers[-1] + 1)):
        yield Finding("error", "versions", "versions/", f"there is a gap in {', '.join(map(str, numbers))}")
    number = numbers[-1] if version is None else version
    record, manifest = read_version(release.root, storage, number), release.manifest
    where = f"versions/{number:06d}.json"
    if (record.version, record.previous) != (number, number - 1):
        text = f"says version {record.version} after {record.previous}"
        yield Finding("error", "versions", where, f"{text}, expected {number} after {number - 1}")
    got = (record.publish_id, record.rows, record.rejected)
    expected = (manifest.publish_id, manifest.rows, sum(manifest.rejected.values()))
    if got != expected:
        yield Finding("error", "versions", where, f"says {got}, its manifest {expected}")


def _check_files(release: Release, storage: Storage) -> Iterator[Finding]:
    for file in release.manifest.files:
        data, found = check_bytes(storage, release.uri(file), file)
        yield from found
        if not found and file.role in ("data", "rejected"):
            yield from _check_parquet(release, file, data)
    listed = {release.uri(file) for file in release.manifest.files}
    folder = Storage.join(release.root, release.manifest.path)
    listed |= {Storage.join(folder, "manifest.json"), *diff_uris(release, storage)}
    for info in storage.list(folder):
        if info.uri not in listed:
            text = "is not in the manifest; readers of the folder would see it"
            yield Finding("warning", "files", info.uri.removeprefix(f"{release.root}/"), text)


def _check_parquet(release: Release, file: DataFile, data: bytes) -> Iterator[Finding]:
    columns = release.columns if file.role == "data" else REJECTED
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as parquet:
            found = list(check_footer(parquet.metadata, file, columns))
            table = None if found else parquet.read()
    except (pa.ArrowException, OSError) as error:
        found, table = [Finding("error", "files", file.path, f"is not readable Parquet: {error}")], None
    yield from found
    if table is not None and file.role == "data":
        yield from check_rows(table, file, columns, release.spec)
    elif table is not None:
        yield from check_rejected(table, file)


def _check_counts(release: Release) -> Iterator[Finding]:
    """Nothing lost, nothing twice: what came in is what went out and what was rejected."""
    manifest = release.manifest
    num_rejected = sum(manifest.rejected.values())
    sums = Counter({"data": 0, "rejected": 0, "units": 0})
    for file in manifest.files:
        sums[file.role] += file.rows
    equalities = (
        ("rows of the data files", sums["data"], "rows", manifest.rows),
        ("rows of the rejected files", sums["rejected"], "rejections", num_rejected),
        ("rows of the table of units", sums["units"], "units", manifest.num_units),
        (
            "rows + rejected objects",
            manifest.rows + num_rejected - manifest.rejected_files,
            "objects read",
            manifest.rows_in,
        ),
    )
    for left, got, right, expected in equalities:
        if got != expected:
            yield Finding("error", "counts", "manifest", f"{left}: {got}, but {right}: {expected}")


def _check_keys(release: Release, storage: Storage) -> Iterator[Finding]:
    """Key unique over all files, and rejections by reason as the manifest counts them."""
    with connect_release(release, version_facts(release.root, storage), storage) as con:
        if release.spec is not None:
            key = ", ".join(release.spec.key)
            sql = f"SELECT {key}, count(*) AS num FROM catalog GROUP BY {key} HAVING num > 1 ORDER BY {key}"  # noqa: S608
            twice = con.sql(sql).fetchall()
            if twice:
                text = f"{len(twice)} keys occur more than once, the first {twice[0]}"
                yield Finding("error", "keys", f"({key})", text)
        found = dict(con.sql("SELECT reason, count(*) FROM rejected GROUP BY reason").fetchall())
    if found != dict(release.manifest.rejected):
        yield Finding("error", "counts", "rejected", _difference(found, release.manifest.rejected))


def _difference(found: Mapping[str, int], expected: Mapping[str, int]) -> str:
    odd = sorted(code for code in {*found, *expected} if found.get(code) != expected.get(code))
    return "; ".join(f"{code}: {found.get(code, 0)} rows, expected {expected.get(code, 0)}" for code in odd)


def _check_hats(release: Release, storage: Storage) -> Iterator[Finding]:
    """Ask the `hats` package, which knows the layout best."""
    if release.manifest.kind != "hats" or not release.manifest.rows:
        text = "layout is not HATS" if release.manifest.kind != "hats" else "there is no partition"
        yield Finding("info", "hats", release.manifest.path, f"not made: {text}")
        return
    is_valid, messages = _validate_hats(Storage.join(release.root, release.manifest.path), storage)
    if not is_valid:
        yield Finding("error", "hats", release.manifest.path, "is not a valid HATS catalogue")
    for message in messages:
        yield Finding("warning", "hats", release.manifest.path, message)


def _validate_hats(folder: str, storage: Storage) -> tuple[bool, list[str]]:
    """Verdict of hats and what it said; it speaks through the root logger and through warnings."""
    from hats.io.validation import is_valid_catalog  # 6 s of import that only this needs
    from upath import UPath

    options = storage.filesystem(folder).storage_options if is_object(folder) else {}
    root, listener = logging.getLogger(), _Listener(logging.WARNING)
    kept, root.handlers[:] = list(root.handlers), [listener]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            is_valid = bool(is_valid_catalog(UPath(folder, **options), strict=True))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        return False, [f"hats failed: {error}"]
    finally:
        root.handlers[:] = kept
    texts = [str(item.message) for item in caught if not issubclass(item.category, DeprecationWarning)]
    return is_valid, list(_unique([*listener.messages, *texts]))


def _unique(texts: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(texts)


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
