"""The main job through a storage that misbehaves all the while: the catalogue of an undisturbed run.

The whole matrix, with what is killed at random moments, is `make chaos`.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.faults.proxy import FAULTS, FaultProxy, running
from engine.commit.manifest import read_manifest, version_numbers
from engine.storage import Storage
from tests.integration.conftest import Site
from tests.servers import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def proxy(moto_server: S3Server) -> Iterator[FaultProxy]:
    rates = {fault: 0.004 if "stall" in fault else 0.05 for fault in FAULTS}
    with running(FaultProxy(moto_server.endpoint_url, rates, seed=11, stall_s=5.0)) as proxy:
        yield proxy


def rows(root: str, storage: Storage) -> list[str]:
    """Rows of the only version, in their order, without the URIs that they come from; NaN is equal to itself."""
    assert version_numbers(root, storage) == [1]
    paths = read_manifest(root, storage).paths("data")
    tables = [
        pq.read_table(pa.BufferReader(storage.read(f"{root}/{path}")), partitioning=None) for path in paths
    ]
    return [repr(row) for row in pa.concat_tables(tables).drop(["source_uri"]).to_pylist()]


def test_reprocess_through_a_storage_that_misbehaves(
    site: Site, published: Path, moto_server: S3Server, proxy: FaultProxy
) -> None:
    root, storage = moto_server.make_bucket(), Storage(moto_server.options)
    for path in site.release.rglob("*.fits"):
        storage.put(f"{root}/release/{path.relative_to(site.release)}", path.read_bytes())
    options = [
        *("release.uri=" + f"{root}/release", "output.uri=" + f"{root}/catalogue"),
        *(f"{part}.storage.{key}" for part in ("release", "output") for key in (
            f"endpoint_url={proxy.url}", "read_timeout_s=1", "max_attempts=10")),
    ]  # fmt: skip
    assert site.run("reprocess", "unused", *(word for option in options for word in ("-o", option))) == 0
    assert sum(proxy.counts[fault] for fault in FAULTS) > 5, proxy.counts
    assert rows(f"{root}/catalogue", storage) == rows(str(published), Storage())
