"""Planning the public release's layout on an S3 server: what is listed, what is found, what is missing."""

import json
from pathlib import Path

import pytest

from engine.sources.desi import DesiConfig, DesiSource
from engine.sources.desi_layout import coadd_path
from engine.storage import Storage
from jobs.__main__ import main
from tests.coadds import make_coadd
from tests.servers import S3Server

pytestmark = pytest.mark.s3

PIXELS = {("main", "dark"): (100, 10000, 10016), ("main", "bright"): (10000,), ("sv3", "dark"): (26065,)}
BESIDE = ("redrock", "rrdetails", "spectra", "zmtl", "hpixexp", "emlinefit", "qso_mgii")


@pytest.fixture(scope="module")
def release(moto_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """DR1 as it lies in the public bucket, with one coadd that holds something."""
    root = f"{moto_server.make_bucket('desidata')}/public/dr1/spectro/redux/iron"
    storage = Storage(moto_server.options)
    for (survey, program), pixels in PIXELS.items():
        for pixel in pixels:
            path = f"{root}/{coadd_path('healpix', survey, program, pixel)}"
            storage.put(path, b"x")
            folder, _, name = path.rpartition("/")
            for kind in BESIDE:
                storage.put(f"{folder}/{name.replace('coadd', kind)}", b"x")
            storage.put(f"{folder}/logs/{name}.log", b"x")
    storage.put(f"{root}/healpix/tilepix.fits", b"x")
    storage.put(f"{root}/exposures/20210405/00083715/frame-b0-00083715.fits.gz", b"x")
    folder: Path = tmp_path_factory.mktemp("coadd")
    path = make_coadd(num=30, resolution=True).write(folder / "coadd-sv3-dark-26065.fits")
    for local in (path, path.with_name("redrock-sv3-dark-26065.fits")):
        storage.put(f"{root}/healpix/sv3/dark/260/26065/{local.name}", local.read_bytes())
    return root


def make_source(server: S3Server, uri: str, **config: object) -> DesiSource:
    return DesiSource(uri, server.options, DesiConfig.model_validate(config))


def test_release_is_planned_in_order(moto_server: S3Server, release: str) -> None:
    units = list(make_source(moto_server, release).plan())
    assert [unit.key for unit in units] == [
        "main-bright-10000", "main-dark-100", "main-dark-10000", "main-dark-10016", "sv3-dark-26065",
    ]  # fmt: skip
    assert [file.role for unit in units for file in unit.files] == ["coadd", "redrock"] * 5
    assert all(file.uri.startswith(release) and file.fingerprint for unit in units for file in unit.files)
    assert list(make_source(moto_server, release).plan()) == units


def test_selection_lists_only_what_it_needs(moto_server: S3Server, release: str) -> None:
    units = make_source(moto_server, release, surveys=["main"], programs=["dark"], pixels=[10016]).plan()
    assert [unit.key for unit in units] == ["main-dark-10016"]


def test_index_names_a_coadd_that_was_never_released(moto_server: S3Server, release: str) -> None:
    index = f"{release}/index.txt"
    names = [coadd_path("healpix", "main", "dark", pixel) for pixel in (100, 10001)]
    Storage(moto_server.options).put(index, "\n".join(names).encode())
    source = make_source(moto_server, release, index_uri=index)
    found, missing = source.plan()
    assert (found.key, missing.key) == ("main-dark-100", "main-dark-10001")
    assert source.read(missing).rejected["reason"].to_pylist() == ["not_found"]


def test_coadd_is_read_by_ranges(moto_server: S3Server, release: str) -> None:
    source = make_source(moto_server, release, surveys=["sv3"])
    (unit,) = source.plan()
    table = source.read(unit)
    assert (table.rows.num_rows, table.rejected.num_rows) == (30, 0)
    assert table.stats["bytes_fetched"] / table.stats["bytes_used"] < 1.1
    assert table.stats["bytes_fetched"] < 0.4 * unit.num_bytes


def test_config_of_the_public_release_plans_it(
    moto_server: S3Server, release: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {
        "release.uri": release,
        "release.storage.endpoint_url": moto_server.endpoint_url,
        "output.uri": tmp_path / "catalogue",
    }
    overrides = [part for key, value in where.items() for part in ("-o", f"{key}={value}")]
    assert main(["reprocess", "jobs/configs/desi_dr1.toml", "--plan", "--json", *overrides]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["units"], plan["pending"]) == (1, 1), "main, bright"
    assert "anomaly_score" in plan["columns"]
    assert not (tmp_path / "catalogue").exists()
