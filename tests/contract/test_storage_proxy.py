"""Storage behind a proxy that loses, delays and damages answers: right bytes or a clear error, within bounds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.proxy import FAULTS, FaultProxy, running
from engine.errors import StorageError
from engine.storage import Storage, StorageOptions
from tests.servers import S3Server

pytestmark = pytest.mark.s3

READ_TIMEOUT_S = 0.5


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[FaultProxy]:
    with running(FaultProxy(moto_server.endpoint_url, seed=3, stall_s=2.0)) as proxy:
        yield proxy


def through(proxy: FaultProxy, **options: object) -> Storage:
    settings = {"max_attempts": 8, "read_timeout_s": READ_TIMEOUT_S} | options
    return Storage(StorageOptions(endpoint_url=proxy.url, **settings))


@pytest.fixture
def root(moto_server: S3Server) -> str:
    return moto_server.make_bucket()


def use(storage: Storage, root: str, num: int) -> None:
    """Write, create, list and read objects; each must be what was written."""
    for number in range(num):
        data = bytes([number]) * (2000 + number)
        storage.put(f"{root}/put/{number:03d}", data)
        with storage.writing(f"{root}/streamed/{number:03d}") as local:
            Path(local).write_bytes(data)
        assert storage.put_if_absent(f"{root}/ledger/{number:03d}", data)
        assert not storage.put_if_absent(f"{root}/ledger/{number:03d}", b"another")
        assert storage.read(f"{root}/put/{number:03d}") == data
        assert storage.read(f"{root}/streamed/{number:03d}") == data
        assert storage.read(f"{root}/ledger/{number:03d}", 100, 1900) == data[100:2000]
        assert storage.info(f"{root}/put/{number:03d}").size == len(data)
    assert len(list(storage.list(f"{root}/put"))) == num


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_survived(proxy: FaultProxy, root: str, fault: str) -> None:
    waits = "stall" in fault
    proxy.rates = {fault: 0.1 if waits else 0.2}
    use(through(proxy), root, 4 if waits else 6)
    assert proxy.counts[fault] > 0


def test_all_faults_together_are_survived(proxy: FaultProxy, root: str) -> None:
    proxy.rates = {fault: 0.01 if "stall" in fault else 0.06 for fault in FAULTS}
    use(through(proxy), root, 8)
    assert sum(proxy.counts[fault] for fault in FAULTS) > 5


@pytest.mark.parametrize("fault", ["slow down", "reset", "truncated"])
def test_attempts_are_bounded_and_the_error_is_clear(proxy: FaultProxy, root: str, fault: str) -> None:
    Storage(StorageOptions(endpoint_url=f"http://{proxy.target}")).put(f"{root}/x", bytes(100))
    proxy.rates = {fault: 1.0}
    with pytest.raises(StorageError, match=rf"^{root}/x: "):
        through(proxy, max_attempts=3).read(f"{root}/x")
    assert 3 <= proxy.counts["requests"] <= 9, "botocore and we together"


@pytest.mark.timeout(60)
def test_a_stall_is_bounded_by_the_timeout(proxy: FaultProxy, root: str) -> None:
    """The server would answer in a day; each attempt waits for the timeout alone."""
    proxy.rates, proxy.stall_s = {"stall": 1.0}, 86_400.0
    with pytest.raises(StorageError, match="cannot be reached"):
        through(proxy, max_attempts=2).read(f"{root}/x")


def test_a_server_that_comes_back_is_used_again(proxy: FaultProxy, root: str) -> None:
    storage = through(proxy, max_attempts=2)
    storage.put(f"{root}/x", b"1")
    proxy.is_down = True
    with pytest.raises(StorageError):
        storage.read(f"{root}/x")
    proxy.is_down = False
    assert storage.read(f"{root}/x") == b"1"
