"""Real survey files: every spectrum is a row or a rejection with a true reason."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.flags import LOW_COVERAGE, NO_REDSHIFT, decode
from engine.schema import matrix
from engine.sources import SOURCES
from engine.sources.base import Source
from engine.stage import UnitTable

pytestmark = pytest.mark.data

UNSUPPORTED = "unsupported_layout"


def read_all(source: Source) -> dict[str, UnitTable]:
    """Units by key, each with its sum checked."""
    tables = {unit.key: source.read(unit) for unit in source.plan()}
    for table in tables.values():
        objects = sum(row is not None for row in table.rejected["row"].to_pylist())
        assert table.rows_in == table.rows.num_rows + objects
    return tables


def outcome(table: UnitTable) -> tuple[int, dict[str, int]]:
    return table.rows.num_rows, dict(Counter(table.rejected["reason"].to_pylist()))


def test_fastspecfit_coadds_have_their_published_redshifts(shared_data: Path) -> None:
    tables = read_all(SOURCES["desi"](str(shared_data / "desi/fastspecfit")))
    assert {key: outcome(table) for key, table in tables.items()} == {
        "tile-80613-4-20210324": (1, {}),
        "special-dark-27247": (1, {}),
        "stack-LRG": (0, {UNSUPPORTED: 1}),
    }
    first, second = (
        tables[key].rows.to_pylist()[0] for key in ("tile-80613-4-20210324", "special-dark-27247")
    )
    assert (first["targetid"], first["survey"], first["program"]) == (39633345008634465, "sv1", "unknown")
    assert (first["tileid"], first["petal"], first["fiber"], first["num_exposures"]) == (80613, 4, 2233, 30)
    assert (first["z"], first["spectype"], first["zwarn"]) == (pytest.approx(0.36874, abs=1e-5), "GALAXY", 0)
    assert first["desi_target"] == 2**60
    assert (second["targetid"], second["survey"], second["program"]) == (39089837499744649, "special", "dark")
    assert second["z"] == pytest.approx(0.00727, abs=1e-5)
    assert first["flags"] == second["flags"] == 0


def test_specutils_coadds_with_bad_and_sky_fibres(shared_data: Path) -> None:
    tables = read_all(SOURCES["desi"](str(shared_data / "desi/specutils")))
    assert {key: outcome(table) for key, table in tables.items()} == {
        "tile-169-5-20210419": (1, {"negative_targetid": 3, "fiberstatus": 1}),
        "sv3-dark-26065": (2, {"negative_targetid": 2, "sky_fibre": 1}),
        "spectra-5-169-thru20210419": (0, {UNSUPPORTED: 5}),
        "spectra-sv3-dark-26065": (0, {UNSUPPORTED: 5}),
    }
    rows = tables["sv3-dark-26065"].rows
    assert rows["targetid"].to_pylist() == [39627866878511337, 39627866878514741]
    assert rows["num_good_pixels"].to_pylist() == [7746, 7781]
    assert rows["flags"].to_pylist() == [NO_REDSHIFT.value] * 2
    assert "exposures" in tables["spectra-sv3-dark-26065"].rejected["detail"][0].as_py()


@pytest.mark.parametrize(("folder", "objects"), [("timedomain", 6), ("desihigh", 26)])
def test_files_that_are_no_coadds_say_so(shared_data: Path, folder: str, objects: int) -> None:
    tables = read_all(SOURCES["desi"](str(shared_data / "desi" / folder)))
    assert sum(table.rows.num_rows for table in tables.values()) == 0
    assert sum(table.rows_in for table in tables.values()) == objects
    rejected = [row for table in tables.values() for row in table.rejected.to_pylist()]
    assert all("FIBERMAP" in row["detail"] for row in rejected)
    assert Counter(row["reason"] for row in rejected if row["row"] is not None) == {UNSUPPORTED: objects}


@pytest.mark.parametrize(("folder", "num", "poor"), [("squeze", 94, 0), ("coolgroup", 17, 2)])
def test_sdss_spectra_are_all_rows(shared_data: Path, folder: str, num: int, poor: int) -> None:
    """Two fibres of coolgroup have BADTRACE in and_mask throughout."""
    tables = read_all(SOURCES["sdss"](str(shared_data / "sdss" / folder)))
    rows = [row for table in tables.values() for row in table.rows.to_pylist()]
    assert len(rows) == num
    assert {row["spectype"] for row in rows} <= {"GALAXY", "QSO", "STAR"}
    assert len({row["targetid"] for row in rows}) == num
    assert Counter(name for row in rows for name in decode(row["flags"])) == Counter(
        {LOW_COVERAGE.name: poor}
    )


def test_sdss_flux_agrees_with_the_file(shared_data: Path) -> None:
    """Mean flux over 100 Angstrom, read by astropy, against the common grid."""
    from astropy.io import fits

    source = SOURCES["sdss"](str(shared_data / "sdss/coolgroup"))
    unit = next(unit for unit in source.plan() if unit.key == "plate-4055-55359")
    table = source.read(unit)
    with fits.open(unit.files[0].uri) as hdus:
        coadd = hdus["COADD"].data
        wave, flux, mask = 10 ** coadd["loglam"].astype(float), coadd["flux"], coadd["and_mask"]
    near = (wave > 6000) & (wave < 6100)
    assert not mask[near].any()
    ours = matrix(table.rows, "flux")[0][3000:3126]  # 6000 to 6100 Angstrom
    assert ours.mean() == pytest.approx(np.average(flux[near], weights=wave[near]), rel=2e-3)
