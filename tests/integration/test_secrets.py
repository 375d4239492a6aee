"""A secret is in the environment and nowhere else: not in what is written, logged, shown, or on a command line."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.small_model import make_checkpoint
from engine.storage import Storage, StorageOptions
from engine.synthetic.desi import SynthesizeConfig, write_task
from tests.servers import S3Server, free_port

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(400)]

CANARY = "canary-3f9c51-of-the-secret"
TOKEN = "canary-77ab02-of-the-token"
CONFIG = """
[release]
uri = "{root}/release"
storage = {{endpoint_url = "{endpoint}"}}
[checkpoint]
uri = "{root}/checkpoint"
storage = {{endpoint_url = "{endpoint}"}}
[output]
uri = "{root}/catalogue"
storage = {{endpoint_url = "{endpoint}"}}
[report]
gallery = 2
options = {{umap = false}}
[pipeline]
workers = 1
[cluster]
address = "local"
num_cpus = 3
object_store_memory_gib = 0.2
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Folder for Ray's files, whose sockets' names must be short."""
    with tempfile.TemporaryDirectory(prefix="trawl-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


def reprocess(folder: Path, scratch: Path) -> tuple[int, bytes, set[str]]:
    """Run the main job; return exit code, all that it printed, and command lines seen meanwhile."""
    environment = {
        **os.environ,
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_SESSION_TOKEN": TOKEN,
        "RAY_TMPDIR": str(scratch),
        "RAY_ADDRESS": "",
    }
    command = [sys.executable, "-m", "jobs", "reprocess", str(folder / "job.toml"), "--verbose"]
    seen: set[str] = set()
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=folder)
        while process.poll() is None:
            seen |= command_lines(process.pid)
            time.sleep(0.5)
    return process.returncode, (folder / "out").read_bytes(), seen


def command_lines(pid: int) -> set[str]:
    """Return what `ps` shows of a process and all below it."""
    lines = set()
    with suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                lines.add(" ".join(process.cmdline()))
    return lines


def leaks(parts: dict[str, bytes]) -> list[str]:
    """Name the parts that hold a secret."""
    return [name for name, data in parts.items() if CANARY.encode() in data or TOKEN.encode() in data]


def test_secrets_are_nowhere(moto_server: S3Server, tmp_path: Path, scratch: Path) -> None:
    root, storage = moto_server.make_bucket(), Storage(moto_server.options)
    write_task(SynthesizeConfig(num_spectra=30, spectra_per_file=30), 0, f"{root}/release", storage)
    for path in make_checkpoint(tmp_path / "checkpoint").iterdir():
        storage.put(f"{root}/checkpoint/{path.name}", path.read_bytes())
    (tmp_path / "job.toml").write_text(CONFIG.format(root=root, endpoint=moto_server.endpoint_url))
    code, said, seen = reprocess(tmp_path, scratch)
    assert code == 0, said.decode()
    objects = {file.uri: storage.read(file.uri) for file in storage.list(root)}
    assert any("/versions/" in uri for uri in objects)
    logs = {str(path): path.read_bytes() for path in scratch.rglob("*") if path.is_file()}
    assert any("raylet" in path for path in logs)
    assert any("ray::" in line or "raylet" in line for line in seen)
    written = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.endswith(".html") for path in written)
    shown = {line: line.encode() for line in seen}
    assert leaks({"what it said": said, **objects, **logs, **written, **shown}) == []


def test_secrets_are_in_no_error(tmp_path: Path, scratch: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "job.toml").write_text(CONFIG.format(root="s3://bucket", endpoint=endpoint))
    code, said, seen = reprocess(tmp_path, scratch)
    assert code == 1
    assert b"cannot be reached" in said
    assert leaks({"what it said": said, "seen": " ".join(seen).encode()}) == []


def test_the_search_finds_a_secret() -> None:
    assert leaks({"a": b"x", "b": f"--key={CANARY}".encode(), "c": TOKEN.encode()}) == ["b", "c"]
    assert StorageOptions.model_fields.keys().isdisjoint({"key", "secret", "token"})
