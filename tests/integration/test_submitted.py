"""Jobs that go to a cluster by `ray job submit`: followed, stopped, taken up again, with their exit codes.

The cluster is a head of its own, started as an operator starts one, on loopback and on ports that were free.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.storage import Storage
from tests.integration.conftest import Site, make_release
from tests.servers import S3Server, free_port

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NUM_FILES = 30
"""Many small files: a job that is stopped at its first record has others to do."""


@dataclass(frozen=True)
class Head:
    """A running head and the line that every submission here begins with."""

    url: str
    environment: dict[str, str]
    config: str

    def submit(self, name: str, job: str, *more: str, wait: bool = True) -> subprocess.Popen[str]:
        """Start `ray job submit`; `wait` follows the job to its end."""
        variables = {"env_vars": {"AWS_ENDPOINT_URL": self.environment["AWS_ENDPOINT_URL"]}}
        command = [str(RAY), "job", "submit", "--address", self.url, "--submission-id", name,
                   "--working-dir", str(ROOT), "--runtime-env-json", json.dumps(variables),
                   *([] if wait else ["--no-wait"]),
                   "--", sys.executable, "-m", "jobs", job, self.config, *more]  # fmt: skip
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def post(self, name: str, like: str, words: Sequence[str]) -> None:
        """Submit a job with the environment, working directory included, of another."""
        entrypoint = shlex.join([sys.executable, "-m", "jobs", words[0], self.config, *words[1:]])
        body = {
            "submission_id": name,
            "entrypoint": entrypoint,
            "runtime_env": self.call(like)["runtime_env"],
        }
        self.call("", "POST", json.dumps(body).encode())

    def call(self, path: str, method: str = "GET", body: bytes | None = None) -> dict[str, Any]:
        """Ask the dashboard about jobs."""
        request = urllib.request.Request(f"{self.url}/api/jobs/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ended(self, name: str) -> dict[str, Any]:
        """Wait until a job has ended; what the dashboard knows of it."""
        return wait_for(lambda: (job := self.call(name))["status"] in ENDED and job)


def wait_for(condition: Any, seconds: float = 180) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"nothing in {seconds:g} s")


def said(submission: subprocess.Popen[str]) -> str:
    return submission.communicate(timeout=240)[0]


@pytest.fixture(scope="module")
def head(site: Site, moto_server: S3Server) -> Iterator[Head]:
    bucket = moto_server.make_bucket()
    config = site.config.read_text().replace(str(site.release), str(site.folder / "many-files"))
    Storage(moto_server.options).put(f"{bucket}/desi.toml", config.encode())
    port, dashboard, *others = (free_port() for _ in range(4))
    environment = {
        key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")
    }
    environment |= {"RAY_AUTH_MODE": "disabled", "AWS_ENDPOINT_URL": moto_server.endpoint_url}
    with tempfile.TemporaryDirectory(prefix="th", dir="/tmp") as folder:  # sockets: at most 107 bytes
        command = [str(RAY), "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port),
                   "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard),
                   "--ray-client-server-port", str(others[0]), "--dashboard-agent-listen-port", str(others[1]),
                   "--num-cpus", "4", "--object-store-memory", "200000000", "--temp-dir", folder,
                   "--disable-usage-stats"]  # fmt: skip
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        try:
            started = Head(f"http://127.0.0.1:{dashboard}", environment, f"{bucket}/desi.toml")
            wait_for(lambda: _answers(started, process))
            yield started
        finally:
            stop(process)


def _answers(head: Head, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the head ended while it started"
    with suppress(OSError):
        return isinstance(head.call(""), list)
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill a head and whatever it has started, by process ids: asked kindly, it waits for its drivers."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in family:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(20)
    psutil.wait_procs(family, timeout=20)


def test_submitted_job_is_stopped_and_taken_up_again_and_its_codes_are_told(site: Site, head: Head) -> None:
    release, output = make_release(site.folder / "many-files", NUM_FILES, 4), site.folder / "submitted"
    next(iter(sorted(release.rglob("coadd-*.fits")))).write_bytes(b"no FITS")
    line = ("-o", f"output.uri={output}", "-o", "pipeline.workers=1")

    first = head.submit("first", "reprocess", *line, wait=False)
    told = said(first)
    assert first.returncode == 0, told
    head.post("code-1", "first", ("publish", "-o", f"output.uri={site.folder / 'never'}"))
    head.post("code-2", "first", ("reprocess", *line, "-o", "pipeline.worker=1"))
    wait_for(lambda: list(output.glob("ledger/*.json")) or head.call("first")["status"] in ENDED)
    head.call("first/stop", "POST")
    assert head.ended("first")["status"] == "STOPPED", head.call("first/logs")["logs"]
    assert "the same line again" in head.call("first/logs")["logs"]
    done = {path: path.stat().st_mtime_ns for path in (output / "ledger").glob("*.json")}
    assert 1 <= len(done) < NUM_FILES
    assert not (output / "versions").exists()

    second = head.submit("second", "reprocess", *line, "-o", "max_rejected_fraction=0.001")
    told = said(second)
    assert second.returncode == 1, "what `ray job submit` makes of any failure"
    assert "published version 1: " in told
    assert f"catalogue: {output}" in told
    assert "failed with exit code 3" in told
    assert {path: path.stat().st_mtime_ns for path in done} == done, "a finished unit was computed again"

    head.post("code-0", "second", ("reprocess", *line))
    for code in range(3):
        job = head.ended(f"code-{code}")
        assert (job["status"], job["driver_exit_code"]) == ("FAILED" if code else "SUCCEEDED", code), job
    assert "nothing new: still version 1" in head.call("code-0/logs")["logs"]
    assert "did you mean 'workers'?" in head.call("code-2/logs")["logs"]
    assert head.call("second")["driver_exit_code"] == 3
