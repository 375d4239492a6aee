"""A small release, its model, and how the main job is run on it and its catalogue compared with an undisturbed one."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.small_model import make_checkpoint
from engine.commit.manifest import Manifest, read_manifest, version_numbers
from engine.storage import Storage, StorageOptions
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task

KEY = ("survey", "program", "targetid")
ROWS_A_FILE = 30
CONFIG = """
[release]
uri = "{root}/release"
storage = {storage}
[checkpoint]
uri = "{folder}/checkpoint"
[output]
uri = "{root}/plain"
storage = {storage}
[report]
enabled = false
[pipeline]
workers = 2
[cluster]
address = "{address}"
num_cpus = 3
object_store_memory_gib = 0.2
"""


@dataclass(frozen=True)
class Site:
    """Where everything is.

    Attributes
    ----------
    folder
        For logs, configurations, checkpoint.
    root
        URI that release and catalogues lie below; the folder, or a bucket.
    endpoint
        S3 server of `root`; empty for local files.
    address
        Ray to use: local is one that the job starts.
    environment
        Variables of jobs beside our own.
    """

    folder: Path
    root: str
    endpoint: str = ""
    address: str = "local"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def storage(self) -> Storage:
        """Storage of `root`, not through any proxy."""
        return Storage(StorageOptions(endpoint_url=self.endpoint or None))

    def uri(self, name: str) -> str:
        """Root of a catalogue."""
        return f"{self.root}/{name}"

    def prepare(self, num_files: int) -> "Site":
        """Write a release and a model."""
        wanted = SynthesizeConfig(num_spectra=ROWS_A_FILE * num_files, spectra_per_file=ROWS_A_FILE, seed=7)
        for index in range(task_count(wanted)):
            write_task(wanted, index, f"{self.root}/release", self.storage)
        make_checkpoint(self.folder / "checkpoint")
        return self

    def start(
        self, name: str, *overrides: str, endpoint: str = "", **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start the main job with a catalogue of this name; `endpoint` is that of a proxy."""
        config, at = self.folder / f"{name}.toml", endpoint or self.endpoint
        storage = f'{{endpoint_url = "{at}", read_timeout_s = 2, max_attempts = 8}}' if at else "{}"
        text = CONFIG.format(root=self.root, folder=self.folder, address=self.address, storage=storage)
        config.write_text(text)
        options = [
            part for override in (f"output.uri={self.uri(name)}", *overrides) for part in ("-o", override)
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs", "reprocess", str(config), *options],
                stdout=log, stderr=log, start_new_session=True, env={**os.environ, **self.environment, **environment},
            )  # fmt: skip

    def log(self, name: str) -> str:
        """Return what jobs with this catalogue have said so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def check(self, name: str) -> bool:
        """Run `check` on a catalogue."""
        options = ["-o", f"storage.endpoint_url={self.endpoint}"] if self.endpoint else []
        command = [sys.executable, "-m", "jobs", "check", self.uri(name), *options]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0

    def manifest(self, name: str) -> Manifest | None:
        """Manifest of the newest version; None if there is none."""
        if not version_numbers(self.uri(name), self.storage):
            return None
        return read_manifest(self.uri(name), self.storage)

    def rows(self, name: str) -> pa.Table:
        """All rows of the newest version, in the order of its files."""
        manifest = self.manifest(name)
        assert manifest is not None
        return pa.concat_tables(self._read(name, path) for path in manifest.paths("data"))

    def _read(self, name: str, path: str) -> pa.Table:
        return pq.read_table(
            pa.BufferReader(self.storage.read(f"{self.uri(name)}/{path}")), partitioning=None
        )


@dataclass(frozen=True)
class Comparison:
    """How a catalogue differs from the undisturbed one; `wrong` rows have a key of it and other values."""

    lost: int
    doubled: int
    wrong: int
    is_balanced: bool
    is_checked: bool

    @property
    def ok(self) -> bool:
        """Whether it does not."""
        return not (self.lost or self.doubled or self.wrong) and self.is_balanced and self.is_checked


def compare(site: Site, name: str, plain: str = "plain") -> Comparison:
    """Set a catalogue beside the undisturbed one."""
    expected = site.rows(plain)
    manifest = site.manifest(name)
    if manifest is None:
        return Comparison(expected.num_rows, 0, 0, False, False)
    ours = site.rows(name)
    found, wanted = by_key(ours), by_key(expected)
    wrong = sum(row != wanted.get(key) for key, row in found.items())
    if found.keys() == wanted.keys() and list(found) != list(wanted):
        wrong = max(wrong, 1)  # the same rows in another order
    rejected = sum(manifest.rejected.values()) - manifest.rejected_files
    return Comparison(
        lost=len(wanted.keys() - found.keys()),
        doubled=ours.num_rows - len(found),
        wrong=wrong,
        is_balanced=manifest.rows_in == ours.num_rows + rejected and manifest.version == 1,
        is_checked=site.check(name),
    )


def by_key(rows: pa.Table) -> dict[tuple[object, ...], str]:
    """Rows as text by their key; NaN is equal to itself there."""
    keys = zip(*(rows[name].to_pylist() for name in KEY), strict=True)
    return {key: repr(row) for key, row in zip(keys, rows.to_pylist(), strict=True)}
