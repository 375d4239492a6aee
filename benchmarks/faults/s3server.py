"""S3 servers of our own on loopback: how one is started, and the emulator moto, which does not check signatures."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import botocore.session

START_S = 60.0


def set_keys() -> None:
    """Put keys into the environment unless there are some."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "testsecret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        os.environ.setdefault(name, value)


@contextmanager
def moto() -> Iterator[str]:
    """Yield the endpoint of a server that ends with the `with`."""
    with ExitStack() as stack:
        log, port = stack.enter_context(open(os.devnull, "wb")), free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process, endpoint = start(stack, command, log), f"http://127.0.0.1:{port}"
        wait_for(endpoint, [process], "moto said nothing for a minute; it is part of the extra 'dev'")
        yield endpoint


def make_bucket(endpoint: str, prefix: str = "trawl") -> str:
    """Create a bucket; return its URI. Without a region: a LocationConstraint is refused."""
    name = f"{prefix}-{uuid.uuid4().hex[:12]}"
    client = botocore.session.get_session().create_client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(stack: ExitStack, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a daemon that ends with the stack, and also when this process is killed."""
    with_parent = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    process = subprocess.Popen([*with_parent, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing of it is kept
    process.wait(timeout=30)


def wait_for(endpoint: str, processes: Sequence[subprocess.Popen[bytes]], silence: str) -> None:
    """Wait until a server answers, whatever it says.

    Raises
    ------
    RuntimeError
        If one of its processes has ended, or with the text `silence` after a minute.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if ended := [process.args for process in processes if process.poll() is not None]:
            raise RuntimeError(f"ended while starting: {ended}; {silence}")
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.2)
            continue
        return
    raise RuntimeError(silence)
