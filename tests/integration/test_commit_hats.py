"""Published catalogues as other people's tools see them, on local files and on an S3 server."""

import io
import threading
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from hats.io.validation import is_valid_catalog
from upath import UPath

from engine.commit import CatalogConfig, FragmentSink, Manifest, prune, publish, read_manifest, versions
from engine.ledger import Ledger
from engine.storage import Storage, StorageOptions
from tests.servers import S3Server
from tests.toy import COLUMNS, TOY_KEY, ToySource, toy_units, write_all

SOURCE = ToySource(num_units=8, rows=60)
CONFIG = CatalogConfig(
    name="toy", key=TOY_KEY, max_rows_per_partition=40, default_columns=("targetid", "ra", "dec", "score")
)


@dataclass(frozen=True)
class Place:
    """Where a catalogue lies and how to get there."""

    root: str
    options: StorageOptions

    @property
    def storage(self) -> Storage:
        return Storage(self.options)

    def upath(self, path: str) -> UPath:
        if not self.root.startswith("s3://"):
            return UPath(self.root) / path
        return UPath(self.root, endpoint_url=self.options.endpoint_url, use_listings_cache=False) / path

    def write(self, source: ToySource = SOURCE) -> list[str]:
        units = toy_units(source)
        write_all(FragmentSink(self.root, self.options, COLUMNS), source, units)
        return [unit.id for unit in units]

    def publish(self, ids: list[str], config: CatalogConfig = CONFIG) -> Manifest:
        return publish(self.root, self.storage, ids, COLUMNS, config)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(str(tmp_path), StorageOptions())
    server: S3Server = request.getfixturevalue("moto_server")
    return Place(f"{server.make_bucket()}/a/catalogue", server.options)


def test_catalogue_is_valid_hats(place):
    manifest = place.publish(place.write())
    assert len(manifest.paths("data")) > 8
    assert is_valid_catalog(place.upath(manifest.path), strict=True)


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # lsdb 0.11 on pandas 3.1
def test_lsdb_finds_in_a_cone_what_is_there(place):
    import lsdb

    manifest = place.publish(place.write())
    catalogue = lsdb.open_catalog(place.upath(manifest.path))
    assert list(catalogue.columns) == ["targetid", "ra", "dec", "score"]
    found = catalogue.cone_search(ra=0.5, dec=-29.7, radius_arcsec=900).compute()
    rows = duckdb_rows(place, manifest, "targetid, ra, dec")
    near = SkyCoord(rows["ra"], rows["dec"], unit="deg").separation(SkyCoord(0.5, -29.7, unit="deg"))
    expected = set(rows["targetid"][near.arcsec < 900].tolist())
    assert 5 < len(expected) < manifest.rows
    assert set(found["targetid"].tolist()) == expected


def duckdb_rows(place: Place, manifest: Manifest, columns: str) -> dict[str, np.ndarray]:
    connection = duckdb.connect()
    if place.root.startswith("s3://"):
        connection.register_filesystem(place.storage.filesystem(place.root))
    files = [place.storage.join(place.root, path) for path in manifest.paths("data")]
    query = f"SELECT {columns} FROM read_parquet(?, hive_partitioning=false) ORDER BY targetid"
    return connection.execute(query, [files]).fetchnumpy()


def test_duckdb_reads_all_rows_once_and_files_say_what_columns_mean(place):
    manifest = place.publish(place.write())
    rows = duckdb_rows(place, manifest, "targetid, latent, z")
    assert len(rows["targetid"]) == len(set(rows["targetid"].tolist())) == manifest.rows
    assert rows["targetid"].dtype == np.int64
    data = place.storage.read(place.storage.join(place.root, manifest.paths("data")[0]))
    schema = pq.read_schema(io.BytesIO(data))
    assert schema.field("score").metadata == {
        b"description": b"Sum of sky coordinates",
        b"unit": b"deg",
        b"ucd": b"stat.value",
    }
    assert schema.metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"


def test_content_does_not_depend_on_where_it_lies(place, tmp_path):
    here = place.publish(place.write())
    other = Place(str(tmp_path / "other"), StorageOptions())
    there = other.publish(other.write()[::-1])
    assert here.publish_id == there.publish_id
    sums = [
        {f.path.removeprefix(m.path): f.sha256 for f in m.files if f.role != "metadata"}
        for m in (here, there)
    ]
    assert sums[0] == sums[1]


def test_empty_catalogue_is_valid_hats(place):
    manifest = place.publish([])
    assert manifest.rows == 0
    assert is_valid_catalog(place.upath(manifest.path), strict=True)


def test_race_of_publishers_on_one_number(place):
    ids = place.write(ToySource(num_units=4))
    counts = [1, 2, 3, 4, 4]
    results: list[Manifest] = []
    barrier = threading.Barrier(len(counts))

    def run(count: int) -> None:
        barrier.wait()
        results.append(place.publish(ids[:count]))

    threads = [threading.Thread(target=run, args=(count,)) for count in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = versions(place.root, place.storage)
    assert [version.version for version in found] == list(range(1, len(found) + 1))
    for manifest in results:
        assert read_manifest(place.root, place.storage, manifest.version) == manifest


def test_prune_leaves_a_readable_catalogue(place):
    ids = place.write(ToySource(num_units=4))
    for count in (2, 3, 4):
        place.publish(ids[:count])
    place.storage.put(place.storage.join(place.root, "fragments", "orphan-1.parquet"), b"x")
    pruned = prune(place.root, place.storage, keep_versions=1, min_age_s=0)
    assert sum("/versions/" in uri for uri in pruned.uris) == 2
    assert any(uri.endswith("orphan-1.parquet") for uri in pruned.uris)
    manifest = read_manifest(place.root, place.storage)
    assert manifest.version == 3
    assert is_valid_catalog(place.upath(manifest.path), strict=True)
    assert len(duckdb_rows(place, manifest, "targetid")["targetid"]) == manifest.rows
    assert len(Ledger(place.root, place.storage).done(ids)) == 4
