"""Sources of single galaxies: what is read from each layout, and why an object is rejected."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from engine.config import Config
from engine.images.own_size import size_channel, skirt_pixels
from engine.schema import matrix
from engine.sources import SOURCES
from engine.sources.galaxies import GalaxySource
from engine.stage import UnitTable, run_local
from engine.synthetic.sersic import write_cube
from tests.galaxies import noise, write_broadband, write_real_galaxies, write_shera_stamps


def read_all(name: str, root: Path, **settings) -> list[UnitTable]:
    kind = SOURCES[name]
    source = kind(str(root), config=kind.config_class(**settings))
    return [source.read(unit) for unit in source.plan()]


def read_one(name: str, root: Path, **settings) -> UnitTable:
    (table,) = read_all(name, root, **settings)
    return table


def reasons(table: UnitTable) -> list[tuple[int | None, str]]:
    found = table.rejected.select(["row", "reason"]).to_pylist()
    return [(one["row"], one["reason"]) for one in found]


def cube(path: Path, images: np.ndarray, columns: dict[str, np.ndarray] | None = None) -> None:
    columns = {"object_id": np.arange(len(images))} if columns is None else columns
    write_cube(path, images.shape, images, columns, {"PIXSCALE": 0.04})


def test_cube_gives_pixels_and_parameters_and_null_where_nothing_is_known(tmp_path: Path) -> None:
    images = noise(3, 8, 8)
    cube(
        tmp_path / "a.fits",
        images,
        {"object_id": np.array([7, 8, 9]), "sersic_n": np.array([1.0, np.nan, 3.0])},
    )
    table = read_one("sersic", tmp_path, size=8, field="mine")
    assert table.rows["object_id"].to_pylist() == [7, 8, 9]
    assert table.rows["sersic_n"].to_pylist() == [1.0, None, 3.0]
    assert table.rows["ra"].null_count == table.rows["magnitude"].null_count == 3
    assert table.rows["field"].to_pylist() == ["mine"] * 3
    assert table.rows["pixel_scale"].to_pylist() == pytest.approx([0.04] * 3)
    assert np.array_equal(matrix(table.rows, "image"), images.reshape(3, 64))


def test_cube_without_identifiers_gets_some_that_stay_and_differ(tmp_path: Path) -> None:
    for name in ("set-1.fits", "set-2.fits"):
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise(2, 8, 8), name="IMAGES")]).writeto(
            tmp_path / name
        )
    ids = [i for table in read_all("sersic", tmp_path, size=8) for i in table.rows["object_id"].to_pylist()]
    assert len(set(ids)) == 4
    assert ids == [i for t in read_all("sersic", tmp_path, size=8) for i in t.rows["object_id"].to_pylist()]


def test_channels_come_first(tmp_path: Path) -> None:
    images = noise(2, 3, 8, 8)
    cube(tmp_path / "a.fits", images)
    table = read_one("sersic", tmp_path, size=8, channels=3)
    assert np.array_equal(matrix(table.rows, "image"), images.reshape(2, 192))


def test_nan_and_constant_images_are_rejected_with_their_row(tmp_path: Path) -> None:
    images = noise(5, 8, 8)
    images[1, 3, 3], images[2, 0, 0], images[3] = np.nan, np.inf, 4.0
    cube(tmp_path / "a.fits", images)
    table = read_one("sersic", tmp_path, size=8)
    assert reasons(table) == [(1, "not_finite"), (2, "not_finite"), (3, "constant_image")]
    assert table.rejected["object_id"].to_pylist() == [1, 2, 3]
    assert "1 of 64" in table.rejected["detail"][0].as_py()
    assert table.rows["object_id"].to_pylist() == [0, 4]
    assert table.rows_in == 5


def test_images_of_another_size_are_rejected_one_by_one(tmp_path: Path) -> None:
    cube(tmp_path / "a.fits", noise(2, 8, 8))
    cube(tmp_path / "b.fits", noise(2, 10, 8))
    good, bad = read_all("sersic", tmp_path, size=8)
    assert good.rows.num_rows == 2
    assert reasons(bad) == [(0, "wrong_size"), (1, "wrong_size")]
    assert "(1, 10, 8)" in bad.rejected["detail"][0].as_py()


@pytest.mark.parametrize("what", ["no cube", "two axes", "lengths", "not fits"])
def test_files_of_another_layout_are_rejected_whole(what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    if what == "no cube":
        fits.PrimaryHDU(noise(8, 8)).writeto(path)
    elif what == "two axes":
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise(8, 8), name="IMAGES")]).writeto(path)
    elif what == "lengths":
        cube(path, noise(2, 8, 8), {"object_id": np.arange(3)})
    else:
        path.write_bytes(b"nothing of the kind" * 200)
    table = read_one("sersic", tmp_path, size=8)
    assert reasons(table) == [(None, "not_fits" if what == "not fits" else "unsupported_layout")]
    assert table.rows_in == 0


def test_cosmos_stamps_are_cropped_to_their_middle_with_what_the_catalogues_say(tmp_path: Path) -> None:
    stamps = write_real_galaxies(tmp_path, [12, 9, 8, 7])
    table = read_one("cosmos", tmp_path, size=8)
    assert reasons(table) == [(3, "too_small")]
    assert table.rows["object_id"].to_pylist() == [100, 101, 102]
    for row, (stamp, start) in enumerate(zip(stamps, (2, 0, 0), strict=False)):
        expected = stamp[start : start + 8, start : start + 8].reshape(-1)
        assert np.array_equal(matrix(table.rows, "image")[row], expected)
    last = table.rows.slice(2).to_pylist()[0]
    assert (last["ra"], last["magnitude"]) == (152.0, 22.5)
    assert last["half_light_radius_arcsec"] == pytest.approx(0.03 * 10 * 0.5), "circularised"
    assert last["position_angle_deg"] == pytest.approx(150)
    assert (last["sersic_n"], last["axis_ratio"], last["z"]) == (2.0, 0.25, 0.5)
    assert table.rows["sersic_n"][0].as_py() is None, "a fit that is not viable is none"


def test_cosmos_row_without_its_file_is_rejected(tmp_path: Path) -> None:
    write_real_galaxies(tmp_path, [8, 8, 8, 8])
    (tmp_path / "real_galaxy_images_1.fits").unlink()
    table = read_one("cosmos", tmp_path, size=8)
    assert reasons(table) == [(2, "not_found"), (3, "not_found")]
    assert table.rows.num_rows == 2


def test_cosmos_table_without_images_is_rejected_whole(tmp_path: Path) -> None:
    column = fits.Column("IDENT", "J", array=[1, 2])
    fits.BinTableHDU.from_columns([column]).writeto(tmp_path / "real_galaxy_catalog.fits")
    table = read_one("cosmos", tmp_path, size=8)
    assert reasons(table) == [(None, "unsupported_layout")]
    assert "lacks GAL_FILENAME, GAL_HDU, PIXEL_SCALE" in table.rejected["detail"][0].as_py()


def test_cosmos_catalogue_that_is_no_fits_stops_nothing(tmp_path: Path) -> None:
    write_real_galaxies(tmp_path, [8, 8])
    (tmp_path / "real_galaxy_catalog_y.fits").write_bytes(b"nothing")
    good, bad = read_all("cosmos", tmp_path, size=8)
    assert good.rows.num_rows == 2
    assert reasons(bad) == [(None, "not_fits")]


def test_cosmos_file_that_is_cut_short_rejects_its_galaxies(tmp_path: Path) -> None:
    write_real_galaxies(tmp_path, [8, 8, 8, 8])
    path = tmp_path / "real_galaxy_images_0.fits"
    path.write_bytes(path.read_bytes()[:3000])
    table = read_one("cosmos", tmp_path, size=8)
    assert reasons(table) == [(0, "truncated_file"), (1, "truncated_file")]
    assert table.rows["object_id"].to_pylist() == [102, 103]


def test_shera_stamps_keep_the_middle_of_those_that_are_large_enough(tmp_path: Path) -> None:
    write_shera_stamps(tmp_path, [20, 16, 15])
    table = read_one("shera", tmp_path, size=16)
    assert table.rows["object_id"].to_pylist() == [1, 2]
    assert np.array_equal(matrix(table.rows, "image")[0], noise(20, 20, seed=1)[2:18, 2:18].reshape(-1))
    assert reasons(table) == [(0, "too_small")]
    assert table.rejected["kind"].to_pylist() == ["cut"]


def test_skirt_images_are_halved_resized_and_say_their_size(tmp_path: Path) -> None:
    write_broadband(tmp_path, [64, 128, 63])
    table = read_one("skirt", tmp_path, size=32)
    images = matrix(table.rows, "image").reshape(2, 5, 32, 32)
    assert np.allclose(images[0, :4], noise(7, 64, 64, seed=1)[:4, 16:48, 16:48], atol=1e-6)
    assert np.allclose(images[:, 4].mean(axis=(1, 2)), [size_channel(64), size_channel(128)])
    assert np.allclose(
        images[1, :4].mean((1, 2)), noise(7, 128, 128, seed=2)[:4, 32:96, 32:96].mean((1, 2)), rtol=5e-3
    )
    assert reasons(table) == [(0, "too_small")]


def test_size_channel_is_undone_to_the_size_of_the_crop() -> None:
    assert (size_channel(2), size_channel(2516)) == (0, 1)
    assert skirt_pixels(np.array([size_channel(300.5), 0.0])).tolist() == [150, 2]


def test_skirt_file_with_too_few_bands_is_rejected(tmp_path: Path) -> None:
    fits.PrimaryHDU(noise(3, 70, 70)).writeto(tmp_path / "broadband_5.fits")
    assert reasons(read_one("skirt", tmp_path, size=32)) == [(0, "unsupported_layout")]


@pytest.mark.parametrize(("what", "reason"), [("nan", "not_finite"), ("wide", "wrong_size")])
def test_skirt_images_are_checked_before_they_are_resized(what: str, reason: str, tmp_path: Path) -> None:
    image = noise(4, 70, 70 if what == "nan" else 72)
    image[0, 3, 3] = np.nan if what == "nan" else 1
    fits.PrimaryHDU(image).writeto(tmp_path / "broadband_5.fits")
    assert reasons(read_one("skirt", tmp_path, size=32)) == [(0, reason)]


def test_prepared_rows_are_those_of_the_source(tmp_path: Path) -> None:
    cube(tmp_path / "a.fits", noise(2, 8, 8))
    table = read_one("sersic", tmp_path, size=8)
    assert issubclass(SOURCES["sersic"], GalaxySource)
    stage = SOURCES["sersic"].prepare_class.model_validate({"size": 8}).stage
    assert isinstance(stage.config, Config)
    assert run_local([stage], table).rows.equals(table.rows)


def test_real_stamps_are_all_there(shared_data: Path) -> None:
    tables = read_all("cosmos", shared_data / "cosmos_f814w", size=32)
    rows = [row for table in tables for row in table.rows.select(["object_id", "magnitude", "z"]).to_pylist()]
    assert len(rows) > 80, "of the catalogue whose images are there"
    assert all(20 < row["magnitude"] < 26 for row in rows)
    assert {reason for table in tables for _, reason in reasons(table)} <= {"not_found", "too_small"}
