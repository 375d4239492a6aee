"""Ceph's RADOS gateway on loopback: a real S3 server, which checks signatures, can be killed, and keeps what it has.

One monitor, one OSD with its objects in memory, and the gateway. The gateway alone is killed: the objects are the OSD's.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.faults.s3server import free_port, start, wait_for

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


class Rgw:
    """A running server, whose user has the keys of the environment (`AWS_*`).

    Parameters
    ----------
    stack
        Ends all its processes.
    folder
        For sockets, logs and configuration; its path may not be longer than some 80 bytes (AF_UNIX).
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._log = stack.enter_context(open(folder / "start.log", "wb"))  # noqa: SIM115 - the stack closes it
        port, mon, fsid = free_port(), f"127.0.0.1:{free_port()}", str(uuid.uuid4())
        self.endpoint = f"http://127.0.0.1:{port}"
        self._conf = folder / "ceph.conf"
        self._conf.write_text(CEPH_CONF.format(fsid=fsid, mon=mon, folder=folder, port=port))
        self._others = self._start_storage(mon, fsid)
        self.restart()
        self._make_user()

    def kill(self) -> None:
        """Kill the gateway by SIGKILL; what it has answered is in the OSD."""
        self._gateway.kill()
        self._gateway.wait(timeout=30)

    def restart(self) -> None:
        """Start the gateway and wait until it answers."""
        self._gateway = self._daemon("radosgw", "-n", "client.rgw")
        wait_for(self.endpoint, [*self._others, self._gateway], f"no answer from radosgw: {self._folder}")

    def _start_storage(self, mon: str, fsid: str) -> list[subprocess.Popen[bytes]]:
        for name in ("mon", "osd"):
            (self._folder / name).mkdir()
        keyring, monmap = str(self._folder / "keyring"), str(self._folder / "monmap")
        self._make_keys(keyring)
        self._call(
            "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", f"[v2:{mon}]", monmap
        )
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        monitor = self._daemon("ceph-mon", "-i", "a", "--public-addrv", f"[v2:{mon}]")
        osd = str(uuid.uuid4())
        self._call("ceph", "--connect-timeout", "30", "osd", "new", osd, "0")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        return [monitor, self._daemon("ceph-osd", "-i", "0")]

    def _make_keys(self, keyring: str) -> None:
        rights = {
            "mon.": ["--cap", "mon", "allow *"],
            "client.admin": ["--cap", "mon", "allow *", "--cap", "osd", "allow *"],
            "client.rgw": ["--cap", "mon", "allow rwx", "--cap", "osd", "allow rwx"],
            "osd.0": ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"],
        }
        self._call("ceph-authtool", "--create-keyring", keyring)
        for name, caps in rights.items():
            self._call("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)

    def _make_user(self) -> None:
        keys = [
            "--access-key", os.environ["AWS_ACCESS_KEY_ID"], "--secret-key", os.environ["AWS_SECRET_ACCESS_KEY"],
        ]  # fmt: skip
        user = ["--uid", "test", "--display-name", "test", *keys]
        self._call("radosgw-admin", "-n", "client.rgw", "user", "create", *user)

    def _call(self, *command: str) -> None:
        result = subprocess.run(
            [*command, "--conf", str(self._conf)],
            check=False, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        if result.returncode:
            said = (self._folder / "start.log").read_text()[-2000:]
            raise RuntimeError(f"{command[0]} failed: {said}")

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        return start(self._stack, [*command, "--conf", str(self._conf), "-f"], self._log)


def missing_tools() -> list[str]:
    """Return what of Ceph is not installed here; empty where `rgw` works."""
    return [tool for tool in RGW_TOOLS if shutil.which(tool) is None]


@contextmanager
def rgw() -> Iterator[Rgw]:
    """Yield a server that ends with the `with`."""
    with ExitStack() as stack:
        # Not below a folder of ours: a socket's path has at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rgw", dir="/tmp")))
        yield Rgw(stack, folder)
