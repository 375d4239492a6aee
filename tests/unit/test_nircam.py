"""Mosaics to cutouts: nothing is lost or cut twice, wherever the strips' borders are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits

from engine.flags import ERROR_ESTIMATED, MISSING_BAND, PARTIAL_BAND
from engine.images.bands import BANDS
from engine.partition import healpix_29
from engine.schema import matrix
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import CatalogueConfig, PsfConfig
from tests.mosaics import (
    NJY,
    SIZE,
    Field,
    config,
    cubes,
    dja,
    grid,
    positions,
    psfs,
    read,
    write_catalogue,
)


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return Field(tmp_path / "mosaics").write()


def expected_cutout(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """NaN-padded, by other means than the source's."""
    padded = np.pad(image, SIZE, constant_values=np.nan)
    column, row = (int(np.floor(v + 0.5)) + SIZE - SIZE // 2 for v in (x, y))
    return padded[row : row + SIZE, column : column + SIZE]


def test_every_source_is_cut_once_also_on_borders_and_in_corners(field: Field) -> None:
    edges = [-0.49, 0, 74, 74.49, 74.5, 74.51, 75, 149.4999, 149.5, 149.5001, 150, 225, 299, 299.49]
    y = np.array([*edges, *np.random.default_rng(1).uniform(-0.5, 299.5, 60)])
    x = np.random.default_rng(2).uniform(-0.5, 399.5, y.size)
    x[:4] = [-0.49, 399.49, 0, 399]
    x, y = np.append(x, [0, 399, 0, 399]), np.append(y, [0, 0, 299, 299])
    settings = config(positions(x, y, field))
    assert len(list(NircamSource(str(field.folder), config=settings).plan())) == 4
    table = read(field, settings)
    assert sorted(table.rows["object_id"].to_pylist()) == list(range(1000, 1000 + x.size))
    science, mask = cubes(table, "science"), cubes(table, "mask")
    for i, key in enumerate(table.rows["source_row"].to_pylist()):
        for b, band in enumerate(BANDS):
            wanted = expected_cutout(field.images[band], x[key], y[key]) * NJY
            np.testing.assert_allclose(np.where(mask[i, b], np.nan, science[i, b]), wanted, rtol=1e-5)
        at = [table.rows[name][i].as_py() + np.floor(v + 0.5) for name, v in (("dx", x[key]), ("dy", y[key]))]
        assert at == pytest.approx([x[key], y[key]], abs=1e-4)
    assert not science[mask].any()
    assert np.unique(cubes(table, "error")[~mask]) == pytest.approx(NJY, rel=1e-6)


@pytest.mark.parametrize("strip_pixels", [400 * 26, 400 * 100, 10**8])
def test_rows_do_not_depend_on_the_strips(field: Field, strip_pixels: int) -> None:
    x, y = np.random.default_rng(3).uniform(0, [[399], [299]], (2, 30))
    uri = positions(x, y, field)
    tables = [
        read(field, config(uri, strip_pixels=n)).rows.sort_by("object_id") for n in (400 * 70, strip_pixels)
    ]
    assert tables[0].combine_chunks().equals(tables[1].combine_chunks())


def test_wcs_of_a_cutout_gives_the_position_of_its_source(field: Field) -> None:
    from astropy.wcs import WCS

    table = read(field, config(positions(np.array([30.3, 200.8]), np.array([20.6, 150.1]), field)))
    for row in table.rows.drop_columns(["science", "error", "mask"]).to_pylist():
        cd = row["wcs_cd"]
        wcs = WCS(fits.Header({
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": row["wcs_crpix"][0], "CRPIX2": row["wcs_crpix"][1],
            "CRVAL1": row["wcs_crval"][0], "CRVAL2": row["wcs_crval"][1],
            "CD1_1": cd[0], "CD1_2": cd[1], "CD2_1": cd[2], "CD2_2": cd[3],
        }))  # fmt: skip
        ra, dec = wcs.wcs_pix2world(SIZE // 2 + row["dx"], SIZE // 2 + row["dy"], 0)
        assert (ra, dec) == pytest.approx((row["ra"], row["dec"]), abs=1e-9)
        assert row["resampling"] == [0] * 6
        assert row["field"] == "nircam1"
        assert row["source_uri"].endswith("_f444w_dr0.5_i2d.fits")
        assert row["flags"] == (PARTIAL_BAND.value if min(row["coverage"]) < 1 else 0)


def test_sources_off_the_mosaic_are_rejected_once(field: Field) -> None:
    x = np.array([100, -0.6, 399.6, 100, 100, 1e5, 50])
    y = np.array([100, 50, 50, -0.6, 299.6, 1e5, 50])
    ra, dec = field.grid.to_sky(x, y)
    ra, dec = np.append(ra, [34.9, np.nan, 10.0]), np.append(dec, [-52.8, 10.0, 91.0])
    table = read(field, config(write_catalogue(field.folder / "cat.fits", ra, dec)))
    assert table.rows["source_row"].to_pylist() == [6, 0]
    found = dict(zip(table.rejected["row"].to_pylist(), table.rejected["reason"].to_pylist(), strict=True))
    assert len(found) == table.rejected.num_rows
    assert found == dict.fromkeys([1, 2, 3, 4, 5, 7], "off_mosaic") | {8: "bad_position", 9: "bad_position"}
    assert table.rejected["object_id"].to_pylist()[0] in range(1000, 1010)


def test_source_without_data_is_rejected_and_partial_cover_is_flagged(field: Field) -> None:
    for band in BANDS:
        field.images[band][:, :100] = np.nan
    field.images["f277w"][:, 300:] = np.nan
    field.write()
    table = read(field, config(positions(np.array([40, 99, 200, 350]), np.full(4, 150.0), field)))
    assert table.rejected["reason"].to_pylist() == ["no_usable_pixel"]
    flags = dict(zip(table.rows["source_row"].to_pylist(), table.rows["flags"].to_pylist(), strict=True))
    assert flags == {1: PARTIAL_BAND.value, 2: 0, 3: MISSING_BAND.value}
    row = table.rows["source_row"].to_pylist().index(3)
    assert matrix(table.rows, "coverage")[row].tolist() == [1, 1, 1, 0, 1, 1]
    assert matrix(table.rows, "resampling")[row].tolist() == [0] * 6


def test_mosaic_without_error_map_has_its_noise_estimated(field: Field) -> None:
    for band in BANDS:
        with fits.open(field.path(band)) as hdus:
            fits.HDUList([hdus[0].copy(), hdus["SCI"].copy()]).writeto(field.path(band), overwrite=True)
    table = read(field, config(positions(np.array([200.0]), np.array([150.0]), field)))
    assert table.rows["flags"].to_pylist() == [ERROR_ESTIMATED.value]
    np.testing.assert_allclose(cubes(table, "error"), NJY, rtol=0.25)


@pytest.mark.parametrize("packed", [False, True])
def test_dja_layout_is_binned_to_the_coarse_grid(field: Field, packed: bool) -> None:
    dja(field, packed)
    x, y = np.array([5.2, 200, 399.3]), np.array([299.2, 74.6, 0])
    table = read(field, config(positions(x, y, field)))
    assert table.rows.num_rows == 3
    assert table.rows["field"].to_pylist() == ["ceers-v7.2"] * 3
    assert matrix(table.rows, "resampling")[0].tolist() == [2, 2, 2, 0, 0, 0]
    assert (matrix(table.rows, "unit_factor") == 10).all()
    assert table.rows["pixel_scale"].to_numpy() == pytest.approx(0.04)
    science, mask, error = (cubes(table, name) for name in ("science", "mask", "error"))
    for i, key in enumerate(table.rows["source_row"].to_pylist()):
        for b, band in enumerate(BANDS):
            image = field.images[band]
            image = image.reshape(300, 2, 400, 2).sum(axis=(1, 3)) if b < 3 else image
            wanted = 10 * expected_cutout(image, x[key], y[key])
            np.testing.assert_allclose(
                np.where(mask[i, b], np.nan, science[i, b]), wanted, rtol=1e-4, atol=1e-5
            )
            assert np.unique(error[i, b][~mask[i, b]]) == pytest.approx([10.0 if b < 3 else 5.0])


def test_band_on_another_grid_is_reprojected(field: Field) -> None:
    turned = grid((500, 500), angle=50.0)
    smooth = np.fromfunction(
        lambda y, x: np.exp(-((x - 249.5) ** 2 + (y - 249.5) ** 2) / (2 * 4.0**2)), (500, 500)
    )
    field.grid, flat = turned, field.grid
    field.images["f200w"] = (100 * smooth / smooth.sum()).astype("f4")
    field.write(("f200w",))
    field.grid = flat
    table = read(field, config(positions(np.array([199.5]), np.array([149.5]), field)))
    assert matrix(table.rows, "resampling")[0].tolist() == [0, 0, -1, 0, 0, 0]
    assert not cubes(table, "mask").any()
    assert cubes(table, "science")[0, 2].sum() == pytest.approx(100 * NJY, rel=0.01)


def test_reprojected_band_does_not_depend_on_the_strips(field: Field) -> None:
    field.grid, flat = grid((500, 500), angle=50.0), field.grid
    field.images["f200w"] = np.random.default_rng(4).normal(size=(500, 500)).astype("f4")
    field.write(("f200w",))
    field.grid = flat
    x, y = np.random.default_rng(3).uniform(0, [[399], [299]], (2, 20))
    uri = positions(x, y, field)
    one, other = (read(field, config(uri, strip_pixels=n)) for n in (400 * 70, 10**8))
    order = [np.argsort(table.rows["object_id"].to_numpy()) for table in (one, other)]
    for name in ("mask", "science", "error"):
        values = [cubes(table, name)[index, 2] for table, index in zip((one, other), order, strict=True)]
        np.testing.assert_allclose(*values, atol=1e-3)
    assert cubes(one, "mask")[:, 2].mean() < 0.2


def blobs(field: Field, num: int = 40) -> np.ndarray:
    """Gaussians of 40 sigma in F150W; positions [2, num], some on the strips' borders."""
    places = np.random.default_rng(5).uniform(6, [[393], [293]], (2, num))
    places[1, :4] = [74.5, 149.5, 149.49, 225]
    y, x = np.indices(field.grid.shape)
    for px, py in places.T:
        field.images["f150w"] += 40 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 2.0**2))
    field.write(("f150w",))
    return places


def test_detection_finds_each_source_once_whatever_the_strips(field: Field) -> None:
    places = blobs(field)
    tables = [read(field, config(strip_pixels=n)).rows for n in (400 * 70, 10**8)]
    ids = [sorted(table["object_id"].to_pylist()) for table in tables]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])
    x, y = field.grid.to_pixel(tables[0]["ra"].to_numpy(), tables[0]["dec"].to_numpy())
    distance = np.hypot(x[:, None] - places[0], y[:, None] - places[1]).min(axis=0)
    assert (distance < 1.5).sum() > 35
    assert ids[0] == sorted(healpix_29(tables[0]["ra"].to_numpy(), tables[0]["dec"].to_numpy()).tolist())
    assert set(tables[0]["z"].to_pylist()) == {None}


def test_detection_on_a_stack_and_without_its_band(field: Field) -> None:
    blobs(field)
    assert read(field, config(detection_bands=("f150w", "f200w"))).rows.num_rows > 30
    field.path("f150w").unlink()
    table = read(field, config())
    assert set(table.rejected["reason"].to_pylist()) == {"missing_band"}
    assert table.rejected["row"].to_pylist() == [None] * 4


def test_point_sources_of_all_bands_look_alike_after_matching(field: Field, tmp_path: Path) -> None:
    y, x = np.indices(field.grid.shape)
    for i, band in enumerate(BANDS):
        sigma = 1.5 + 0.2 * i
        star = np.exp(-((x - 200) ** 2 + (y - 150) ** 2) / (2 * sigma**2))
        field.images[band] = (star / star.sum()).astype("f4")
    field.write()
    matched = config(
        positions(np.array([200.0]), np.array([150.0]), field),
        psf=PsfConfig(uri=psfs(tmp_path / "psf"), kernel_size=31),
    )
    science, error = (cubes(read(field, matched), name)[0] for name in ("science", "error"))
    for b in range(5):
        np.testing.assert_allclose(science[b], science[5], atol=0.02 * science[5].max())
        assert science[b].sum() == pytest.approx(NJY, rel=5e-3)
        assert error[b].max() < 0.6 * NJY
    assert error[5] == pytest.approx(NJY)


@pytest.mark.parametrize("ending", ["parquet", "fits", "ecsv", "csv"])
def test_catalogues_of_all_formats_give_the_same(field: Field, ending: str) -> None:
    from astropy.table import Table

    ra, dec = field.grid.to_sky(np.array([50.0, 60]), np.array([50.0, 250]))
    path = field.folder / f"cat.{ending}"
    table = Table({"NUMBER": [7, 8], "RA": ra, "DEC": dec, "Z": [1.5, np.nan]})
    if ending == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.table({name: np.array(table[name]) for name in table.colnames}), path)
    else:
        table.write(path)
    settings = CatalogueConfig(
        uri=str(path), id="NUMBER", ra="RA", dec="DEC", z="Z", quantities={"snr": "Z", "number": "NUMBER"}
    )
    rows = read(field, config(catalogue=settings)).rows
    assert rows["object_id"].to_pylist() == [7, 8]
    assert rows["z"].to_pylist() == rows["snr"].to_pylist() == [1.5, None]
    assert rows["number"].to_pylist() == [7.0, 8.0]
    np.testing.assert_allclose(rows["ra"].to_numpy(), ra, rtol=0, atol=1e-12)


def test_catalogue_without_ids_gets_healpix_and_with_fields_is_divided(field: Field) -> None:
    ra, dec = field.grid.to_sky(np.array([50.0, 60]), np.array([50.0, 250]))
    path = write_catalogue(field.folder / "cat.fits", ra, dec, FIELD=["nircam1", "nircam2"])
    settings = CatalogueConfig(uri=path, ra="RA", dec="DEC", field="FIELD")
    table = read(field, config(catalogue=settings))
    assert table.rows["object_id"].to_pylist() == healpix_29(ra[:1], dec[:1]).tolist()
    assert table.rows["source_row"].to_pylist() == [0]
    assert table.rejected.num_rows == 0


def test_strips_fetch_little_more_than_what_they_use(field: Field) -> None:
    x, y = np.random.default_rng(3).uniform(0, [[399], [299]], (2, 200))
    source = NircamSource(str(field.folder), config=config(positions(x, y, field), strip_pixels=400 * 100))
    units = list(source.plan())
    stats = [source.read(unit).stats for unit in units]
    data = 6 * 3 * 4 * 300 * 400
    overlap = (len(units) - 1) * (SIZE - 1) * 400 * 4 * 6 * 3
    headers = len(units) * 6 * 80_000
    assert sum(s["bytes_used"] for s in stats) <= data + overlap + headers
    assert sum(s["bytes_fetched"] for s in stats) <= data + overlap + 2 * headers
    assert sum(s["bytes_used"] for s in stats) > 0.8 * data


def test_salt_and_units_change_with_what_changes_rows(field: Field) -> None:
    uri = positions(np.array([50.0]), np.array([50.0]), field)
    one, other = (NircamSource(str(field.folder), config=config(uri, size=s)) for s in (24, 32))
    assert one.salt != other.salt
    assert "quantities" not in one.salt["catalogue"], "units from before there were any keep their ids"
    snr = CatalogueConfig(uri=uri, id="NUMBER", ra="RA", dec="DEC", quantities={"snr": "RA"})
    assert NircamSource(str(field.folder), config=config(catalogue=snr, size=24)).salt != one.salt
    (first, *_), files = one.plan(), [file.role for file in next(one.plan()).files]
    assert first.key == "nircam1-y00000-00075"
    assert files == [*BANDS, "catalogue"]
