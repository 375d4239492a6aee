"""S3 servers on loopback: moto always, Ceph RGW (a real one, checks signatures) where it is installed.

Both start once a session, on ports that were free, and are stopped by their process ids.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from benchmarks.faults import s3server
from benchmarks.faults.rgw import missing_tools, rgw
from benchmarks.faults.s3server import free_port as free_port
from engine.storage import StorageOptions

ACCESS_KEY, SECRET_KEY = "test", "testsecret"


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
        """Create a bucket and return its URI."""
        return s3server.make_bucket(self.endpoint_url, prefix)


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
    with s3server.moto() as endpoint:
        yield S3Server("moto", endpoint)


@pytest.fixture(scope="session")
def rgw_server(s3_environment: None) -> Iterator[S3Server]:
    """Start one monitor, one OSD in memory, and the RADOS gateway of Ceph."""
    if missing := missing_tools():
        pytest.skip(
            f"Ceph RGW is not installed ({', '.join(missing)}): apt-get install radosgw ceph-mon ceph-osd"
        )
    with rgw() as server:
        yield S3Server("rgw", server.endpoint)
