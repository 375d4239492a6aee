"""Neighbours in another HATS catalogue: all of them, across borders of partitions too, of the version that is asked for."""

import builtins
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky
from hats.io.validation import is_valid_catalog

from engine.partition import healpix_29
from engine.storage import Storage
from jobs.__main__ import main
from tests.catalogue import CatalogueMaker, make_rows

pytestmark = pytest.mark.filterwarnings("ignore")  # of lsdb 0.11 on pandas 3

RADIUS_ARCSEC = 3.0
FIXED_SEED = 11


def rows_at_a_border(num_rows: int, first: int, seed: int) -> pa.Table:
    """Rows of which twelve are half an arcsecond west of RA 180 at +60 deg, where pixels of all orders end."""
    rows = make_rows(num_rows, first, seed)
    ra, dec = (rows[name].to_numpy().copy() for name in ("ra", "dec"))
    dec[:12] = 60 + 0.001 * np.arange(12)
    ra[:12] = 180 - 0.5 / 3600 / np.cos(np.radians(dec[:12]))
    for name, values in (("ra", ra), ("dec", dec)):
        index = rows.column_names.index(name)
        rows = rows.set_column(index, rows.schema.field(name), pa.array(values))
    return rows


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> CatalogueMaker:
    maker = CatalogueMaker(str(tmp_path_factory.mktemp("ours") / "catalogue"), Storage())
    maker.publish((100, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.catalogue.make_rows", rows_at_a_border)
        maker.publish((100, 4))
    return maker


def rows_of(maker: CatalogueMaker, version: int) -> pd.DataFrame:
    """Rows of a version, read without the code under test."""
    record = json.loads(Path(maker.root, "versions", f"{version:06d}.json").read_text())
    manifest = json.loads(Path(maker.root, record["manifest"]).read_text())
    files = [f"{maker.root}/{file['path']}" for file in manifest["files"] if file["role"] == "data"]
    with duckdb.connect() as connection:
        return connection.read_parquet(files, hive_partitioning=False).df()


def write_hats(frame: pd.DataFrame, path: Path, **how: Any) -> Path:
    import lsdb

    lsdb.from_dataframe(frame, **how).write_catalog(path, catalog_name="other", progress_bar=False)
    return path


@pytest.fixture(scope="module")
def other(maker: CatalogueMaker, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Neighbours of ours at 0 to 6 arcsec in all directions, several partitions, and no margin.

    Those of the rows at the border are an arcsecond to the east of them: on the other side.
    """
    ours, rng = rows_of(maker, 2), np.random.default_rng(FIXED_SEED)
    chosen = pd.concat([ours[ours["dec"] > 59.9], ours.sample(60, random_state=FIXED_SEED, replace=True)])
    place = SkyCoord(chosen["ra"].to_numpy(), chosen["dec"].to_numpy(), unit="deg")
    angles, offsets = rng.uniform(0, 360, len(chosen)), rng.uniform(0, 6, len(chosen))
    angles[:12], offsets[:12] = 90, 1
    moved = place.directional_offset_by(angles * u.deg, offsets * u.arcsec)
    names = [f"star-{i}" for i in range(len(chosen))]
    frame = pd.DataFrame({"name": names, "ra": moved.ra.deg, "dec": moved.dec.deg, "g_mag": 20.0})
    path = tmp_path_factory.mktemp("other") / "hats"
    return frame, write_hats(frame, path, partition_rows=40, margin_threshold=None)


def expected_pairs(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[tuple[int, str], float]:
    """All pairs within the radius by astropy: our targetid and their name -> distance [arcsec]."""
    places = [SkyCoord(rows["ra"].to_numpy(), rows["dec"].to_numpy(), unit="deg") for rows in (ours, theirs)]
    first, second, distance, _ = search_around_sky(*places, RADIUS_ARCSEC * u.arcsec)
    ids, names = ours["targetid"].to_numpy()[first], theirs["name"].to_numpy()[second]
    return dict(zip(zip(ids.tolist(), names.tolist(), strict=True), distance.arcsec.tolist(), strict=True))


def crosses(ours: pd.DataFrame, theirs: pd.DataFrame, targetid: int, name: str) -> bool:
    """Whether the rows of a pair are in different pixels of order 0, so of all partitions."""
    one, other = ours[ours["targetid"] == targetid], theirs[theirs["name"] == name]
    pixels = [healpix_29(rows["ra"].to_numpy(), rows["dec"].to_numpy()) >> 58 for rows in (one, other)]
    return bool(pixels[0][0] != pixels[1][0])


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["crossmatch", *words, "--radius-arcsec", str(RADIUS_ARCSEC), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def found(path: str) -> pd.DataFrame:
    import lsdb

    return pd.DataFrame(lsdb.open_catalog(path).compute(progress_bar=False))


def test_all_pairs_of_the_current_version_are_found(maker, other, capsys, tmp_path: Path) -> None:
    frame, path = other
    summary = told(capsys, maker.root, str(path), "--neighbors", "9", "--out", str(tmp_path / "out"))
    ours = rows_of(maker, 2)
    expected = expected_pairs(ours, frame)
    assert len(expected) > 30
    sides = {(targetid, name) for targetid, name in expected if crosses(ours, frame, targetid, name)}
    assert len(sides) >= 12, "pairs on two sides of a border of partitions"
    rows = found(summary["crossmatch"])
    got = dict(zip(zip(rows["targetid"], rows["name_other"], strict=True), rows["dist_arcsec"], strict=True))
    assert set(got) == set(expected)
    np.testing.assert_allclose([got[pair] for pair in expected], list(expected.values()), atol=1e-6)
    assert (summary["version"], summary["looked_for"], summary["pairs"]) == (2, len(ours), len(expected))
    scores = ours.set_index("targetid")["anomaly_score"]
    np.testing.assert_array_equal(rows["anomaly_score"], scores[rows["targetid"].astype("int64")])
    assert is_valid_catalog(Path(summary["crossmatch"]))
    properties = next(Path(summary["crossmatch"]).glob("*_crossmatch/hats.properties")).read_text()
    assert "trawl_version=2" in properties.replace(" ", "")


def test_nearest_and_version_are_those_asked_for(maker, other, capsys) -> None:
    frame, path = other
    summary = told(capsys, maker.root, str(path), "--version", "1", "--columns", "name,ra,dec")
    assert summary["crossmatch"].startswith(f"{maker.root}/crossmatch/000001-")
    rows = found(summary["crossmatch"])
    nearest: dict[int, tuple[float, str]] = {}
    for (targetid, name), distance in expected_pairs(rows_of(maker, 1), frame).items():
        nearest[targetid] = min(nearest.get(targetid, (9.0, "")), (distance, name))
    assert dict(zip(rows["targetid"], rows["name_other"], strict=True)) == {
        targetid: name for targetid, (_, name) in nearest.items()
    }
    assert "g_mag_other" not in rows.columns
    assert main(["crossmatch", maker.root, str(path), "--version", "1", "--columns", "name,ra,dec",
                 "--radius-arcsec", "3.0"]) == 1  # fmt: skip
    assert "cannot be written" in capsys.readouterr().err, "a match is not written over"


def test_no_neighbour_at_all_is_told_and_nothing_is_written(maker, capsys, tmp_path: Path) -> None:
    far = pd.DataFrame({"name": ["a", "b"], "ra": [300.0, 301.0], "dec": [-60.0, -61.0]})
    path = write_hats(far, tmp_path / "hats", margin_threshold=None)
    summary = told(capsys, maker.root, str(path), "--out", str(tmp_path / "out"))
    assert (summary["matched"], summary["pairs"], summary["crossmatch"]) == (0, 0, None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("radius", ["0", "-1", "4000", "nan"])
def test_radius_must_be_one(maker, radius: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["crossmatch", maker.root, "x", "--radius-arcsec", radius])
    assert stopped.value.code == 2
    assert "must be above 0" in capsys.readouterr().err


def test_what_is_no_catalogue_is_told(maker, tmp_path: Path, capsys) -> None:
    assert main(["crossmatch", maker.root, str(tmp_path), "--radius-arcsec", "1"]) == 1
    assert "is no HATS catalogue that can be opened" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://me:hunter2@host/hats", "http://token-hunter2@host/hats"])
def test_url_with_a_password_is_refused_and_not_repeated(maker, url: str, capsys) -> None:
    assert main(["crossmatch", maker.root, url, "--radius-arcsec", "1"]) == 1
    said = capsys.readouterr().err
    assert "must not hold credentials" in said
    assert "hunter2" not in said


def test_signature_of_a_url_is_not_written_and_not_told(
    maker, other, capsys, tmp_path: Path, monkeypatch
) -> None:
    path, url = other[1], "https://host/hats?X-Amz-Signature=deadbeef"
    plain = Storage.upath
    monkeypatch.setattr(Storage, "upath", lambda self, uri: plain(self, str(path) if uri == url else uri))
    out = tmp_path / "out"
    assert told(capsys, maker.root, url, "--out", str(out))["pairs"] > 0
    written = [file.read_bytes() for file in out.rglob("*") if file.is_file()]
    assert any(b"trawl_other=https://host/hats\n" in data for data in written)
    assert not any(b"deadbeef" in data for data in written)

    def refuse(*_: Any) -> Any:
        raise PermissionError(f"403 of {url}")

    monkeypatch.setattr(Storage, "upath", refuse)
    assert main(["crossmatch", maker.root, url, "--radius-arcsec", "1"]) == 1
    said = capsys.readouterr().err
    assert "X-Amz-Signature=***" in said
    assert "deadbeef" not in said


def test_radius_that_takes_in_half_the_catalogue_is_refused(
    maker, capsys, tmp_path: Path, monkeypatch
) -> None:
    ours = rows_of(maker, 2)
    frame = pd.DataFrame({"name": ["a"], "ra": ours["ra"][:1], "dec": ours["dec"][:1]})
    path = write_hats(frame, tmp_path / "hats", margin_threshold=None)
    monkeypatch.setattr("catalogs.crossmatch.MAX_PAIRS", 1)
    assert main(["crossmatch", maker.root, str(path), "--radius-arcsec", "1"]) == 2
    assert "within the radius of one of theirs" in capsys.readouterr().err


def test_without_lsdb_the_command_that_installs_it_is_told(maker, capsys, monkeypatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "lsdb":
            raise ImportError("No module named 'lsdb'")
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["crossmatch", maker.root, "x", "--radius-arcsec", "1"]) == 2
    assert "uv pip install 'trawl[crossmatch]'" in capsys.readouterr().err
