"""DESI files that are broken in one way each: every object ends as a row or as a rejection."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StorageError
from engine.flags import LOW_COVERAGE, MISSING_R, NO_REDSHIFT
from engine.schema import matrix
from engine.sources.desi import DesiConfig, DesiCuts, DesiSource
from engine.spectra.coadd import merge_arms
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.grid import NUM_PIXELS
from engine.stage import UnitTable
from engine.storage import StorageOptions
from engine.units import Unit
from tests.coadds import BIG_ID, Coadd, make_coadd, write_redshifts, write_release


def read(root: Path, **cuts: object) -> UnitTable:
    """Read the only unit of a folder, and check the sum that must always hold."""
    source = DesiSource(str(root), config=DesiConfig(cuts=DesiCuts.model_validate(cuts)))
    (unit,) = source.plan()
    table = pickle.loads(pickle.dumps(source)).read(unit)
    assert table.rows_in == table.rows.num_rows + sum(
        row is not None for row in table.rejected["row"].to_pylist()
    )
    assert tuple(table.rows.column_names) == tuple(column.name for column in SPECTRUM_COLUMNS)
    return table


def reasons(table: UnitTable) -> dict[int | None, str]:
    rejected = table.rejected.to_pydict()
    return dict(zip(rejected["row"], rejected["reason"], strict=True))


def test_good_coadd_has_a_row_an_object(tmp_path: Path) -> None:
    (path,) = write_release(tmp_path, [23040])
    table = read(tmp_path)
    assert (table.rows_in, table.rejected.num_rows) == (4, 0)
    rows = table.rows.to_pydict()
    assert rows["targetid"] == [BIG_ID + i for i in range(4)]
    assert (set(rows["survey"]), set(rows["program"])) == ({"main"}, {"dark"})
    assert set(rows["source_uri"]) == {str(path)}
    assert rows["num_good_pixels"] == [NUM_PIXELS] * 4
    assert rows["flags"] == [0] * 4
    coadd = make_coadd(seed=23040)
    arms = ({c: coadd.images[f"{c.upper()}_{q}"] for c in "brz"} for q in ("FLUX", "IVAR", "MASK"))
    flux, ivar = merge_arms(*arms)
    np.testing.assert_array_equal(matrix(table.rows, "flux"), flux)
    np.testing.assert_array_equal(matrix(table.rows, "ivar"), ivar)
    assert rows["snr"] == pytest.approx(np.median(flux * np.sqrt(ivar), axis=1).tolist(), rel=0.05)
    assert 0 < table.stats["bytes_used"] <= table.stats["bytes_fetched"]


def test_resolution_is_never_fetched(tmp_path: Path) -> None:
    coadd = make_coadd(num=40, resolution=True)
    path = coadd.write(tmp_path / "coadd-main-dark-1.fits")
    table = read(tmp_path)
    assert table.rows.num_rows == 40
    assert table.stats["bytes_fetched"] < 0.35 * path.stat().st_size
    assert table.stats["bytes_fetched"] / table.stats["bytes_used"] < 1.1


def drop(*names: str) -> Callable[[Coadd], None]:
    def change(coadd: Coadd) -> None:
        for name in names:
            del coadd.images[name]

    return change


def set_image(name: str, rows: object, value: float) -> Callable[[Coadd], None]:
    def change(coadd: Coadd) -> None:
        coadd.images[name][rows] = value

    return change


def set_fibermap(name: str, row: int, value: object) -> Callable[[Coadd], None]:
    def change(coadd: Coadd) -> None:
        coadd.fibermap[name][row] = value

    return change


def test_missing_camera_is_a_flag(tmp_path: Path) -> None:
    write_release(tmp_path, [1], drop("R_WAVELENGTH", "R_FLUX", "R_IVAR", "R_MASK"))
    table = read(tmp_path)
    assert table.rows["flags"].to_pylist() == [MISSING_R.value] * 4
    assert table.rows["num_good_pixels"].to_pylist() == [NUM_PIXELS - 2149] * 4


def test_dead_camera_of_one_fibre_is_a_flag_of_one_row(tmp_path: Path) -> None:
    write_release(tmp_path, [1], set_image("R_IVAR", 2, 0))
    assert read(tmp_path).rows["flags"].to_pylist() == [0, 0, MISSING_R.value, 0]


def test_mostly_masked_spectrum_is_flagged(tmp_path: Path) -> None:
    def change(coadd: Coadd) -> None:
        coadd.images["B_MASK"][1] = coadd.images["R_MASK"][1] = 1
        coadd.images["B_MASK"][1, :100] = coadd.images["R_MASK"][1, 1000:1010] = 0

    write_release(tmp_path, [1], change)
    rows = read(tmp_path).rows
    assert rows["flags"].to_pylist() == [0, LOW_COVERAGE.value, 0, 0]
    assert rows["num_good_pixels"][1].as_py() == 2881 + 110


@pytest.mark.parametrize(
    ("change", "bad", "reason"),
    [
        (set_fibermap("TARGETID", 1, -7), 1, "negative_targetid"),
        (set_fibermap("OBJTYPE", 2, "SKY"), 2, "sky_fibre"),
        (set_fibermap("COADD_FIBERSTATUS", 0, 8), 0, "fiberstatus"),
        (set_fibermap("COADD_NUMEXP", 3, 0), 3, "min_exposures"),
        (set_fibermap("TARGET_RA", 0, np.nan), 0, "bad_position"),
        (set_fibermap("TARGET_DEC", 1, 91.0), 1, "bad_position"),
    ],
)
def test_object_is_rejected_with_its_reason(
    tmp_path: Path, change: Callable[[Coadd], None], bad: int, reason: str
) -> None:
    write_release(tmp_path, [1], change)
    table = read(tmp_path)
    assert reasons(table) == {bad: reason}
    assert table.rows["source_row"].to_pylist() == [row for row in range(4) if row != bad]
    np.testing.assert_array_equal(  # the right spectra are left
        matrix(table.rows, "flux")[:, :2700], np.delete(make_coadd(seed=1).images["B_FLUX"], bad, 0)[:, :2700]
    )


@pytest.mark.parametrize(
    ("change", "cuts"),
    [
        (set_fibermap("TARGETID", 1, -7), {"keep_negative_targetid": True}),
        (set_fibermap("OBJTYPE", 2, "SKY"), {"targets_only": False}),
        (set_fibermap("COADD_FIBERSTATUS", 0, 8), {"allowed_fiberstatus": 8}),
        (set_fibermap("COADD_NUMEXP", 3, 0), {"min_exposures": 0}),
    ],
)
def test_cuts_can_be_switched_off(
    tmp_path: Path, change: Callable[[Coadd], None], cuts: dict[str, object]
) -> None:
    write_release(tmp_path, [1], change)
    assert read(tmp_path, **cuts).rows.num_rows == 4


def test_zwarn_cut_is_a_choice_and_leaves_objects_without_redshift(tmp_path: Path) -> None:
    def change(coadd: Coadd) -> None:
        coadd.redshifts["ZWARN"][:2] = 4, 64  # of the last two targets
        coadd.redshifts["TARGETID"][2] = 1  # of the second

    write_release(tmp_path, [1], change)
    assert read(tmp_path).rows.num_rows == 4
    assert reasons(read(tmp_path, good_redshift_only=True)) == {3: "zwarn", 2: "zwarn"}
    assert reasons(read(tmp_path, good_redshift_only=True, allowed_zwarn=4)) == {2: "zwarn"}


@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_spectrum_without_a_usable_pixel_is_rejected(tmp_path: Path, value: float) -> None:
    def change(coadd: Coadd) -> None:
        for camera in "BRZ":
            coadd.images[f"{camera}_IVAR"][1] = value

    write_release(tmp_path, [1], change)
    assert reasons(read(tmp_path)) == {1: "no_usable_pixel"}


def test_nan_everywhere_is_rejected_object_by_object(tmp_path: Path) -> None:
    def change(coadd: Coadd) -> None:
        for camera in "BRZ":
            coadd.images[f"{camera}_FLUX"][:] = np.nan

    write_release(tmp_path, [1], change)
    table = read(tmp_path)
    assert (table.rows.num_rows, reasons(table)) == (0, dict.fromkeys(range(4), "no_usable_pixel"))


def shift_wave(coadd: Coadd) -> None:
    coadd.images["Z_WAVELENGTH"] = coadd.images["Z_WAVELENGTH"] + 0.4


def cut_rows(coadd: Coadd) -> None:
    coadd.images["R_IVAR"] = coadd.images["R_IVAR"][:3]


def per_exposure(coadd: Coadd) -> None:
    coadd.fibermap["FIBERSTATUS"] = coadd.fibermap.pop("COADD_FIBERSTATUS")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shift_wave, "wrong_wavelength_grid"),
        (cut_rows, "unsupported_layout"),
        (per_exposure, "unsupported_layout"),
        (drop("Z_IVAR"), "unsupported_layout"),
        (drop("Z_WAVELENGTH"), "unsupported_layout"),
        (drop("B_FLUX", "R_FLUX", "Z_FLUX"), "no_camera"),
    ],
)
def test_unusable_file_rejects_each_of_its_objects(
    tmp_path: Path, change: Callable[[Coadd], None], reason: str
) -> None:
    write_release(tmp_path, [1], change)
    table = read(tmp_path)
    assert reasons(table) == dict.fromkeys(range(4), reason)
    assert table.rejected["targetid"].to_pylist() == [BIG_ID + i for i in range(4)]
    assert set(table.rejected["survey"].to_pylist()) == {"main"}


def test_truncated_coadd_rejects_the_objects_that_its_fibermap_names(tmp_path: Path) -> None:
    (path,) = write_release(tmp_path, [1])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    table = read(tmp_path)
    assert reasons(table) == dict.fromkeys(range(4), "truncated_file")
    assert table.rejected["targetid"].to_pylist() == [BIG_ID + i for i in range(4)]


def test_file_without_fibermap_rejects_the_objects_that_its_redshifts_name(tmp_path: Path) -> None:
    (path,) = write_release(tmp_path, [1])
    path.write_bytes(b"<html>no such key</html>")
    table = read(tmp_path)
    assert reasons(table) == dict.fromkeys(range(4), "not_fits")
    assert sorted(table.rejected["targetid"].to_pylist()) == [BIG_ID + i for i in range(4)]


def test_file_of_which_nothing_is_known_is_one_rejection(tmp_path: Path) -> None:
    (tmp_path / "coadd-main-dark-1.fits").write_bytes(b"")
    table = read(tmp_path)
    assert reasons(table) == {None: "truncated_file"}
    assert table.rows_in == 0


def test_missing_redshift_file_leaves_rows_without_redshift(tmp_path: Path) -> None:
    make_coadd().write(tmp_path / "coadd-main-dark-1.fits", with_redshifts=False)
    table = read(tmp_path)
    assert table.rows["flags"].to_pylist() == [NO_REDSHIFT.value] * 4
    assert table.rejected.num_rows == 0


def test_broken_redshift_file_is_rejected_and_the_spectra_stay(tmp_path: Path) -> None:
    (path,) = write_release(tmp_path, [1])
    path.with_name("redrock-main-dark-1.fits").write_bytes(b"SIMPLE  =")
    table = read(tmp_path)
    assert table.rows["flags"].to_pylist() == [NO_REDSHIFT.value] * 4
    assert reasons(table) == {None: "truncated_file"}
    assert "redrock" in table.rejected["uri"].to_pylist()[0]


def test_old_redshift_files_are_read(tmp_path: Path) -> None:
    coadd = make_coadd()
    coadd.write(tmp_path / "coadd-0-68000-20200315.fits", with_redshifts=False)
    write_redshifts(tmp_path / "zbest-0-68000-20200315.fits", coadd.redshifts, "ZBEST")
    rows = read(tmp_path).rows
    assert rows["z"].to_pylist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("name", "header", "column", "expected"),
    [
        ("coadd-sv3-dark-1.fits", {}, "", ("sv3", "dark")),
        ("coadd-sv3-dark-1.fits", {"SURVEY": "main", "PROGRAM": "bright"}, "", ("main", "bright")),
        ("coadd-0-1-thru20210101.fits", {}, "SV1_DESI_TARGET", ("sv1", "unknown")),
        ("mine.fits", {}, "", ("unknown", "unknown")),
        ("healpix/cmx/other/0/1/coadd-cmx-other-1.fits", {"SURVEY": "main"}, "", ("cmx", "other")),
    ],
)
def test_where_survey_and_program_come_from(
    tmp_path: Path, name: str, header: dict[str, object], column: str, expected: tuple[str, str]
) -> None:
    coadd = make_coadd()
    coadd.header = header
    if column:
        coadd.fibermap[column] = coadd.fibermap["DESI_TARGET"]
    coadd.write(tmp_path / name, with_redshifts=False)
    rows = read(tmp_path).rows
    assert (rows["survey"][0].as_py(), rows["program"][0].as_py()) == expected


def test_file_that_vanished_since_it_was_listed_is_rejected(tmp_path: Path) -> None:
    (path,) = write_release(tmp_path, [1])
    source = DesiSource(str(tmp_path))
    (unit,) = source.plan()
    path.unlink()
    table = source.read(unit)
    assert set(table.rejected["reason"].to_pylist()) == {"not_found"}


def test_missing_files_of_a_unit_are_rejected() -> None:
    table = DesiSource("/nowhere").read(Unit("main-dark-9", (), missing=("/nowhere/coadd-main-dark-9.fits",)))
    assert (table.rows_in, reasons(table)) == (0, {None: "not_found"})


def test_storage_that_cannot_be_reached_is_an_error_not_a_rejection(tmp_path: Path) -> None:
    write_release(tmp_path, [1])
    (unit,) = DesiSource(str(tmp_path)).plan()
    text = unit.to_json().replace(str(tmp_path), "s3://bucket")
    options = StorageOptions(
        endpoint_url="http://127.0.0.1:9", anonymous=True, connect_timeout_s=0.2, max_attempts=1
    )
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        DesiSource("s3://bucket", options).read(Unit.from_json(text))


def test_reading_twice_gives_the_same(tmp_path: Path) -> None:
    write_release(tmp_path, [1])
    first, second = read(tmp_path), read(tmp_path)
    assert first.rows.equals(second.rows)
    assert first.stats == second.stats
