"""A small release, a small trained model and their catalogue, made once for all integration tests."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from benchmarks.small_model import make_checkpoint
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task, write_truth
from jobs.__main__ import main
from tests.inprocess import in_process


@dataclass(frozen=True)
class Site:
    """Folders of a test run and how to call a job on them."""

    folder: Path
    release: Path
    checkpoint: Path
    config: Path

    def arguments(self, job: str, output: str, *more: str) -> list[str]:
        return [job, str(self.config), "-o", f"output.uri={self.folder / output}", *more]

    def run(self, job: str, output: str, *more: str) -> int:
        """Run a job in this process, on the session's Ray."""
        return main(self.arguments(job, output, *more))

    def spawn(self, job: str, output: str, *more: str) -> subprocess.Popen[str]:
        """Start a job as a user does, in a process of its own, on the session's Ray."""
        command = [sys.executable, "-m", "jobs", *self.arguments(job, output, *more)]
        environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def make_release(folder: Path, num_files: int = 4, rows: int = 30, seed: int = 7) -> Path:
    """Write a small release; returns its root."""
    config = SynthesizeConfig(
        num_spectra=num_files * rows, spectra_per_file=rows, anomaly_fraction=0.1, seed=seed
    )
    truth = [write_task(config, index, str(folder), Storage()) for index in range(task_count(config))]
    write_truth(truth, str(folder), Storage())
    return folder


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """Take away the handlers that a job in this process has set: they write to a stream that is gone."""
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


@pytest.fixture
def here() -> Iterator[None]:
    """Jobs of the test compute in its own process."""
    with in_process():
        yield


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    config = folder / "desi.toml"
    release, checkpoint = make_release(folder / "release"), make_checkpoint(folder / "checkpoint")
    text = f"""
        [release]
        uri = "{release}"
        [staged]
        uri = "{folder / "staged"}"
        [checkpoint]
        uri = "{checkpoint}"
        [output]
        uri = "{folder / "output"}"
        [report]
        enabled = false
        gallery = 3
        [pipeline]
        workers = 1
        [cluster]
        num_cpus = 3
        object_store_memory_gib = 0.3
    """
    config.write_text(text)
    return Site(folder, release, checkpoint, config)


@pytest.fixture(scope="session")
def published(site: Site, ray_session: None) -> Path:
    """Catalogue of the whole small release, made without interruption by two workers; other runs have one."""
    assert site.run("reprocess", "published", "-o", "pipeline.workers=2") == 0
    return site.folder / "published"


def stored_and_spilled() -> tuple[int, int]:
    """Bytes that went into the object store of the session's Ray, and those that it wrote to disk for want of room."""
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    stats = get_memory_info_reply(state).store_stats
    return stats.cumulative_created_bytes, stats.spilled_bytes_total


def manifest_of(root: Path, version: int = 0) -> dict:
    """Manifest of a version of a catalogue, read without the code under test."""
    records = sorted((root / "versions").glob("*.json"))
    record = json.loads(records[version - 1].read_text())
    return json.loads((root / record["manifest"]).read_text())


def data_files(root: Path, version: int = 0) -> dict[str, bytes]:
    """Bytes of all data and rejected files of a version, by name below the version's folder."""
    manifest = manifest_of(root, version)
    files = [file["path"] for file in manifest["files"] if file["role"] in ("data", "rejected")]
    return {path.partition(manifest["path"])[2]: (root / path).read_bytes() for path in files}
