from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from pydantic import ValidationError

from engine.errors import ConfigError
from engine.flags import ERROR_ESTIMATED, MISSING_BAND, PARTIAL_BAND
from engine.images.bands import BANDS
from engine.schema import matrix
from engine.sources.images import ImageSource
from engine.sources.nircam import NircamSource
from engine.sources.stamps import StampsConfig, StampsSource
from engine.stage import UnitTable
from engine.units import Unit
from tests.mosaics import NJY, grid, header

GRID = grid((100, 100))
CONFIG = StampsConfig(size=64, unit_rows=3, unit="MJy/sr", z="z")


class Folder:
    """Five objects at pixel (50, 50) of stamps, index beside them."""

    def __init__(self, path: Path) -> None:
        self.path = path / "stamps"
        rng = np.random.default_rng(1)
        ra, dec = GRID.to_sky([50.2], [49.9])
        lines = ["id,ra,dec,z", *(f"{i},{ra[0]},{dec[0]},{'' if i == 13 else 1.5}" for i in range(10, 15))]
        self.path.mkdir()
        (self.path / "index.csv").write_text("\n".join(lines))
        self.images = {(band, i): rng.normal(size=(100, 100)) for band in BANDS for i in range(10, 15)}

    def file(self, band: str, i: int) -> Path:
        return self.path / band / f"ceers_{band}_{i}.fits"

    def write(self) -> "Folder":
        for (band, i), image in self.images.items():
            self.file(band, i).parent.mkdir(exist_ok=True)
            fits.PrimaryHDU(image, header(GRID)).writeto(self.file(band, i), overwrite=True)
        return self


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path).write()


def read(folder: Folder | Path, config: StampsConfig = CONFIG) -> UnitTable:
    """Read all units, and check that nothing is lost."""
    path = folder.path if isinstance(folder, Folder) else folder
    source = StampsSource(str(path), config=config)
    tables = [source.read(unit) for unit in source.plan()]
    for table in tables:
        assert table.rows_in == table.rows.num_rows + table.rejected.num_rows
        assert table.rows.schema.names == [column.name for column in source.columns]
    rows, rejected = (pa.concat_tables([getattr(t, name) for t in tables]) for name in ("rows", "rejected"))
    return UnitTable(rows, rejected, sum(t.rows_in for t in tables))


def cubes(table: UnitTable, name: str, size: int = 64) -> np.ndarray:
    return matrix(table.rows, name).reshape(-1, 6, size, size)


def test_stamps_are_cropped_around_the_source(folder: Folder) -> None:
    table = read(folder)
    assert table.rows["object_id"].to_pylist() == [10, 11, 12, 13, 14]
    assert table.rows["z"].to_pylist() == [1.5, 1.5, 1.5, None, 1.5]
    science = cubes(table, "science")
    for band in range(6):
        expected = folder.images[BANDS[band], 12][50 - 32 : 50 + 32, 50 - 32 : 50 + 32] * NJY
        np.testing.assert_allclose(science[2, band], expected, rtol=1e-5)
    assert not cubes(table, "mask").any()
    np.testing.assert_allclose(
        [table.rows["dx"][0].as_py(), table.rows["dy"][0].as_py()], [0.2, -0.1], atol=1e-5
    )
    np.testing.assert_allclose(table.rows["pixel_scale"].to_numpy(), 0.03, rtol=1e-6)
    np.testing.assert_allclose(matrix(table.rows, "unit_factor"), NJY, rtol=1e-9)
    assert not matrix(table.rows, "resampling").any()


def test_noise_is_estimated_and_flagged(folder: Folder) -> None:
    table = read(folder)
    assert table.rows["flags"].to_pylist() == [ERROR_ESTIMATED.value] * 5
    np.testing.assert_allclose(cubes(table, "error"), NJY, rtol=0.08)


def test_units_are_groups_of_rows(folder: Folder) -> None:
    units = list(StampsSource(str(folder.path), config=CONFIG).plan())
    assert [(unit.key, len(unit.files)) for unit in units] == [
        ("stamps-r0000000-0000003", 19),
        ("stamps-r0000003-0000005", 13),
    ]


def test_padding_and_empty_corners_are_masked_never_zero_as_data(folder: Folder) -> None:
    folder.images["f200w", 11][:, 60:] = 0
    folder.images["f277w", 11][:60] = np.nan
    folder.images["f356w", 11][:] = np.nan
    table = read(folder.write(), CONFIG.model_copy(update={"size": 120}))
    mask, science, error = (cubes(table, name, 120)[1] for name in ("mask", "science", "error"))
    inside = np.s_[10:110, 10:110]
    assert mask[0].sum() == 120 * 120 - 100 * 100
    assert not mask[0][inside].any()
    assert mask[2][inside][:, 60:].all()
    assert not mask[2][inside][:, :60].any()
    assert mask[3][inside][:60].all()
    assert mask[4].all()
    assert not science[mask].any()
    assert not error[mask].any()
    assert (error[~mask] > 0).all()
    assert table.rows["flags"].to_pylist()[1] == (
        MISSING_BAND.value | PARTIAL_BAND.value | ERROR_ESTIMATED.value
    )
    np.testing.assert_allclose(
        matrix(table.rows, "coverage")[1],
        [1e4 / 14400, 1e4 / 14400, 6e3 / 14400, 4e3 / 14400, 0, 1e4 / 14400],
    )


def test_missing_file_is_a_flag_or_a_rejection(folder: Folder) -> None:
    folder.file("f444w", 10).unlink()
    folder.file("f115w", 14).unlink()
    table = read(folder)
    assert [bool(f & MISSING_BAND.value) for f in table.rows["flags"].to_pylist()] == [
        True,
        *[False] * 3,
        True,
    ]
    assert matrix(table.rows, "resampling")[0].tolist() == [0, 0, 0, 0, 0, -9]
    assert np.isnan(matrix(table.rows, "unit_factor")[0]).tolist() == [False] * 5 + [True]
    assert cubes(table, "mask")[0, 5].all()
    assert "f356w" in table.rows["source_uri"][0].as_py()
    strict = read(folder, CONFIG.model_copy(update={"require_all_bands": True}))
    assert strict.rows["object_id"].to_pylist() == [11, 12, 13]
    assert strict.rejected["reason"].to_pylist() == ["missing_band"] * 2
    assert strict.rejected["object_id"].to_pylist() == [10, 14]


def _no_files(folder: Folder) -> None:
    for band in BANDS:
        folder.file(band, 12).unlink()


def _truncated(folder: Folder) -> None:
    path = folder.file("f277w", 12)
    path.write_bytes(path.read_bytes()[:50_000])


def _not_fits(folder: Folder) -> None:
    folder.file("f277w", 12).write_text("<html>" * 100)


def _without_wcs(folder: Folder) -> None:
    fits.PrimaryHDU(np.ones((100, 100))).writeto(folder.file("f277w", 12), overwrite=True)


def _elsewhere(folder: Folder) -> None:
    fits.PrimaryHDU(np.ones((100, 100)), header(GRID, CRVAL1=10.0)).writeto(
        folder.file("f277w", 12), overwrite=True
    )


def _unknown_unit(folder: Folder) -> None:
    fits.PrimaryHDU(np.ones((100, 100)), header(GRID, BUNIT="furlong")).writeto(
        folder.file("f277w", 12), overwrite=True
    )


def _table_only(folder: Folder) -> None:
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])]).writeto(
        folder.file("f277w", 12), overwrite=True
    )


def _all_nan(folder: Folder) -> None:
    for band in BANDS:
        folder.images[band, 12][:] = np.nan
    folder.write()


def _off(folder: Folder) -> None:
    path = folder.path / "index.csv"
    lines = path.read_text().split("\n")
    lines[3] = "12,214.8,52.8,1.0"
    path.write_text("\n".join(lines))


def _no_position(folder: Folder) -> None:
    path = folder.path / "index.csv"
    lines = path.read_text().split("\n")
    lines[3] = "12,,52.8,1.0"
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_no_files, "not_found"),
        (_truncated, "truncated_file"),
        (_not_fits, "not_fits"),
        (_without_wcs, "bad_wcs"),
        (_elsewhere, "bad_wcs"),
        (_unknown_unit, "bad_unit"),
        (_table_only, "unsupported_layout"),
        (_all_nan, "no_usable_pixel"),
        (_off, "off_mosaic"),
        (_no_position, "bad_position"),
    ],
)
def test_a_fault_rejects_its_object_only(folder: Folder, spoil, reason: str) -> None:
    spoil(folder)
    table = read(folder)
    assert table.rows["object_id"].to_pylist() == [10, 11, 13, 14]
    (row,) = table.rejected.to_pylist()
    assert (row["reason"], row["object_id"], row["field"], row["row"]) == (reason, 12, "stamps", 2)


def test_unit_must_be_said_where_files_do_not(folder: Folder) -> None:
    table = read(folder, CONFIG.model_copy(update={"unit": ""}))
    assert set(table.rejected["reason"].to_pylist()) == {"bad_unit"}
    assert "settings" in table.rejected["detail"][0].as_py()


def test_stamps_of_different_units_come_out_in_one(folder: Folder) -> None:
    fits.PrimaryHDU(folder.images["f150w", 10], header(GRID, BUNIT="nJy")).writeto(
        folder.file("f150w", 10), overwrite=True
    )
    table = read(folder)
    assert matrix(table.rows, "unit_factor")[0].tolist() == pytest.approx([NJY, 1, *[NJY] * 4])
    wanted = folder.images["f150w", 10][18:82, 18:82]
    np.testing.assert_allclose(cubes(table, "science")[0, 1], wanted, rtol=1e-6)


def test_stamp_of_nan_is_a_band_without_data(folder: Folder) -> None:
    folder.images["f356w", 11][:] = np.nan
    folder.write()
    table = read(folder)
    assert [bool(f & MISSING_BAND.value) for f in table.rows["flags"].to_pylist()] == [
        False,
        True,
        *[False] * 3,
    ]
    assert matrix(table.rows, "coverage")[1].tolist() == [1, 1, 1, 1, 0, 1]
    assert cubes(table, "mask")[1, 4].all()
    assert not cubes(table, "error")[1, 4].any()


def test_folder_without_index_is_told_and_an_empty_one_has_no_unit(tmp_path: Path, folder: Folder) -> None:
    (folder.path / "index.csv").unlink()
    with pytest.raises(ConfigError, match="no index"):
        list(StampsSource(str(folder.path)).plan())
    assert list(StampsSource(str(tmp_path / "nothing")).plan()) == []


@pytest.mark.parametrize("source", [StampsSource("/nowhere"), NircamSource("/nowhere")])
def test_unit_of_missing_files_only_is_rejected(source: ImageSource) -> None:
    table = source.read(Unit("x", (), missing=("/nowhere/a.fits",)))
    assert (table.rows.num_rows, table.rows_in) == (0, 0)
    assert table.rows.schema.names == [column.name for column in source.columns]
    assert table.rejected["reason"].to_pylist() == ["not_found"]


def test_index_without_positions_names_its_columns(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"ra = .alpha.*got id, ra, dec, z"):
        read(folder, CONFIG.model_copy(update={"ra": "alpha"}))


def test_numbers_of_the_index_are_staged_and_null_where_it_has_none(folder: Folder) -> None:
    found = read(folder, CONFIG.model_copy(update={"quantities": {"snr": "z"}})).rows
    assert found["snr"].to_pylist() == found["z"].to_pylist() == [1.5, 1.5, 1.5, None, 1.5]
    with pytest.raises(ConfigError, match=r"quantities.snr = 'SNR'.*got id, ra, dec, z"):
        read(folder, CONFIG.model_copy(update={"quantities": {"snr": "SNR"}}))


@pytest.mark.parametrize("name", ["label", "science", "Snr", "a b", ""])
def test_numbers_cannot_take_the_name_of_another_column(name: str) -> None:
    with pytest.raises(ValidationError, match="must be lower case letters"):
        StampsConfig(quantities={name: "z"})


def test_error_and_weight_in_the_file_are_used(folder: Folder) -> None:
    for band in BANDS:
        image = folder.images[band, 10]
        weight = np.ones(image.shape)
        weight[50, 50] = 0
        fits.HDUList(
            [fits.PrimaryHDU(), fits.ImageHDU(image, header(GRID, BUNIT="nJy"), name="SCI"),
             fits.ImageHDU(np.full(image.shape, 3.0), name="ERR"), fits.ImageHDU(weight, name="WHT")]
        ).writeto(folder.file(band, 10), overwrite=True)  # fmt: skip
    table = read(folder)
    assert table.rows["flags"].to_pylist()[0] == PARTIAL_BAND.value
    assert cubes(table, "mask")[0].sum() == 6
    assert np.unique(cubes(table, "error")[0]).tolist() == [0.0, 3.0]


def test_finer_stamps_are_binned_and_turned_ones_reprojected(folder: Folder) -> None:
    rng = np.random.default_rng(3)
    fine = grid((200, 200), step=0.015 / 3600)
    fits.PrimaryHDU(2 + 1e-4 * rng.normal(size=(200, 200)), header(fine, BUNIT="nJy")).writeto(
        folder.file("f115w", 10), overwrite=True
    )
    turned = grid((150, 150), angle=40.0)
    fits.PrimaryHDU(5 + 1e-4 * rng.normal(size=(150, 150)), header(turned, BUNIT="nJy")).writeto(
        folder.file("f150w", 10), overwrite=True
    )
    table = read(folder)
    assert matrix(table.rows, "resampling")[0].tolist() == [2, -1, 0, 0, 0, 0]
    science, mask = cubes(table, "science")[0], cubes(table, "mask")[0]
    assert not mask[:2].any()
    np.testing.assert_allclose(science[0], 8.0, rtol=2e-4)
    np.testing.assert_allclose(science[1], 5.0, rtol=1e-3)


@pytest.fixture
def real(shared_data: Path) -> Path:
    return shared_data / "jwst" / "ceers"


@pytest.mark.data
def test_real_ceers_cutouts_come_out_whole_or_flagged(real: Path) -> None:
    config = StampsConfig(unit="MJy/sr", z="redshift", unit_rows=80)
    table = read(real, config)
    assert table.rows.num_rows == 74
    complete = [line.endswith("True") for line in (real / "index.csv").read_text().splitlines()[1:]]
    partial = np.array(
        [bool(f & (PARTIAL_BAND.value | MISSING_BAND.value)) for f in table.rows["flags"].to_pylist()]
    )
    # two stamps that the index calls complete have a few empty pixels in f444w
    assert partial[~np.array(complete)].all()
    assert partial.sum() - (~np.array(complete)).sum() <= 2
    mask, science = cubes(table, "mask", 96), cubes(table, "science", 96)
    assert not science[mask].any()
    assert (science[~mask] != 0).all()
    for i in (0, 1, 40):
        path = real / "f200w" / f"ceers_f200w_{table.rows['object_id'][i].as_py()}.fits"
        with fits.open(path) as hdus:
            image, wcs = hdus[0].data, WCS(hdus[0].header, fix=False)
        place = wcs.wcs_world2pix(table.rows["ra"][i].as_py(), table.rows["dec"][i].as_py(), 0)
        x0, y0 = (int(np.floor(p + 0.5)) - 48 for p in place)
        area = np.radians(0.03 / 3600) ** 2
        np.testing.assert_allclose(science[i, 2], image[y0 : y0 + 96, x0 : x0 + 96] * 1e15 * area, rtol=1e-4)
        crpix = matrix(table.rows, "wcs_crpix")[i]
        np.testing.assert_allclose(crpix, wcs.wcs.crpix - (x0, y0), atol=1e-6)
