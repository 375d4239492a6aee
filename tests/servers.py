"""S3 servers on loopback: moto always, Ceph RGW (a real one, checks signatures) where it is installed.

Both start once a session, on ports that were free, and are stopped by their process ids.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import botocore.session
import pytest

from engine.storage import StorageOptions

ACCESS_KEY, SECRET_KEY = "test", "testsecret"
RGW_TOOLS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool")

CEPH_CONF = """
[global]
fsid = {fsid}
mon host = [v2:{mon}]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
ms bind ipv6 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4G
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data avail warn = 1
mon data avail crit = 1
keyring = {folder}/keyring
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw enable usage log = false
rgw enable ops log = false
rgw thread pool size = 32
"""


@dataclass(frozen=True)
class S3Server:
    """A running server; its keys are in the environment."""

    name: str
    endpoint_url: str

    def bucket(self) -> str:
        """Return the URI of one bucket that all tests of the session may share."""
        return _shared_bucket(self)

    @property
    def options(self) -> StorageOptions:
        return StorageOptions(endpoint_url=self.endpoint_url, max_attempts=3)

    def make_bucket(self, prefix: str = "trawl") -> str:
        """Create a bucket and return its URI. Without a region: a LocationConstraint is refused."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        client = botocore.session.get_session().create_client("s3", endpoint_url=self.endpoint_url)
        client.create_bucket(Bucket=name)
        client.close()
        return f"s3://{name}"


@cache
def _shared_bucket(server: S3Server) -> str:
    return server.make_bucket("shared")


@pytest.fixture(scope="session", autouse=True)
def s3_environment() -> Iterator[None]:
    """Put the servers' keys into the environment before Ray starts, so that its workers have them."""
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(key, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session")
def moto_server(s3_environment: None) -> Iterator[S3Server]:
    """Start moto: an emulator that does not check signatures."""
    port = free_port()
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        process = _start(
            stack, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], log
        )
        server = S3Server("moto", f"http://127.0.0.1:{port}")
        _wait(server, [process], "moto said nothing for a minute")
        yield server


@pytest.fixture(scope="session")
def rgw_server(s3_environment: None) -> Iterator[S3Server]:
    """Start one monitor, one OSD in memory, and the RADOS gateway of Ceph."""
    missing = [tool for tool in RGW_TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(
            f"Ceph RGW is not installed ({', '.join(missing)}): apt-get install radosgw ceph-mon ceph-osd"
        )
    with ExitStack() as stack:
        # Sockets lie in it: a path under pytest's would be longer than the 107 bytes of AF_UNIX.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rgw", dir="/tmp")))
        yield _start_rgw(stack, folder)


def _start_rgw(stack: ExitStack, folder: Path) -> S3Server:
    port, mon = free_port(), f"127.0.0.1:{free_port()}"
    fsid = str(uuid.uuid4())
    conf, keyring, monmap = folder / "ceph.conf", str(folder / "keyring"), str(folder / "monmap")
    conf.write_text(CEPH_CONF.format(fsid=fsid, mon=mon, folder=folder, port=port))
    for name in ("mon", "osd"):
        (folder / name).mkdir()
    log = stack.enter_context(open(folder / "start.log", "wb"))  # noqa: SIM115 - the stack closes it

    def call(*command: str) -> None:
        result = subprocess.run(
            [*command, "--conf", str(conf)],
            check=False,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        if result.returncode:
            raise RuntimeError(f"{command} failed: {(folder / 'start.log').read_text()[-2000:]}")

    _make_keys(call, keyring)
    call("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v2:{mon}]", monmap)
    call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
    at = ["--conf", str(conf), "-f"]
    daemons = [_start(stack, ["ceph-mon", "-i", "a", "--public-addrv", f"[v2:{mon}]", *at], log)]
    osd = str(uuid.uuid4())
    call("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
    call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
    daemons += [_start(stack, ["ceph-osd", "-i", "0", *at], log)]
    daemons += [_start(stack, ["radosgw", "-n", "client.rgw", *at], log)]
    server = S3Server("rgw", f"http://127.0.0.1:{port}")
    _wait(server, daemons, f"no answer from radosgw: {folder}")
    user = ["--uid", "test", "--display-name", "test", "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    call("radosgw-admin", "-n", "client.rgw", "user", "create", *user)
    return server


def _make_keys(call, keyring: str) -> None:
    rights = {
        "mon.": ["--cap", "mon", "allow *"],
        "client.admin": ["--cap", "mon", "allow *", "--cap", "osd", "allow *"],
        "client.rgw": ["--cap", "mon", "allow rwx", "--cap", "osd", "allow rwx"],
        "osd.0": ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"],
    }
    call("ceph-authtool", "--create-keyring", keyring)
    for name, caps in rights.items():
        call("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(stack: ExitStack, command: list[str], log) -> subprocess.Popen:
    """Start a daemon that ends with the stack, and also when this process is killed."""
    with_parent = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    process = subprocess.Popen([*with_parent, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen) -> None:
    process.kill()  # nothing of it is kept
    process.wait(timeout=30)


def _wait(server: S3Server, processes: list[subprocess.Popen], what: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended = [process.args for process in processes if process.poll() is not None]
        if ended:
            raise RuntimeError(f"{server.name} ended while starting: {ended}")
        try:
            urllib.request.urlopen(server.endpoint_url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()  # an answer, whatever it says
            return
        except OSError:
            time.sleep(0.2)
            continue
        return
    raise RuntimeError(what)
