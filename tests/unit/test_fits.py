"""Reading sound FITS by HDU: equal to astropy, and little else is fetched than what is wanted."""

import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from engine.fits import read_hdus
from engine.storage import Storage
from tests.fitsbytes import CAMERA_IMAGES, FIBERMAP_COLUMNS, coadd_bytes, fibermap, image_file, to_bytes


@pytest.mark.data
def test_equal_to_astropy_on_real_files(shared_data: Path):
    """Every image and column of every real file, among them tile-compressed masks."""
    paths = sorted(
        path for folder in ("desi", "psf", "templates") for path in (shared_data / folder).rglob("*.fits*")
    )
    paths += sorted((shared_data / "sdss").rglob("*.fits"))[:8]
    num_tiled = num_compared = 0
    for path in paths:
        images, tables, tiled = _read_with_astropy(path)
        contents = read_hdus(Storage(), str(path), path.stat().st_size, list(images), tables)
        assert (set(contents.images), set(contents.tables)) == (set(images), set(tables)), path
        for name, image in images.items():
            _assert_same(contents.images[name], image, f"{path}[{name}]")
        for name, table in tables.items():
            assert set(contents.tables[name]) == set(table), path
            for column, values in table.items():
                _assert_same(contents.tables[name][column], values, f"{path}[{name}].{column}")
                num_compared += 1
        num_tiled += tiled
    assert num_compared > 1000
    assert num_tiled > 0


def _read_with_astropy(path: Path) -> tuple[dict, dict, int]:
    images, tables, num_tiled = {}, {}, 0
    with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
        warnings.simplefilter("ignore")  # odd headers of real files
        for index, hdu in enumerate(hdus):
            name = (hdu.name or (f"HDU{index}" if index else "PRIMARY")).upper()
            if name in images or name in tables:
                continue
            if isinstance(hdu, fits.BinTableHDU):
                wanted = [column.name for column in hdu.columns if not set("XPQ") & set(column.format)]
                tables[name] = {column: np.array(hdu.data[column]) for column in wanted}
            elif hdu.data is not None:
                images[name] = np.array(hdu.data)
                num_tiled += isinstance(hdu, fits.CompImageHDU)
    return images, tables, num_tiled


def _assert_same(ours: np.ndarray, theirs: np.ndarray, where: str) -> None:
    if theirs.dtype.kind in "SU":
        theirs = np.strings.strip(theirs.astype(str))
        assert ours.tolist() == theirs.tolist(), where
        return
    assert ours.dtype == theirs.dtype.newbyteorder("="), where
    np.testing.assert_array_equal(ours, theirs, err_msg=where)


@pytest.mark.parametrize("is_tiled", [False, True])
def test_coadd(read_fits, is_tiled: bool):
    data = coadd_bytes(7, is_tiled=is_tiled)
    contents = read_fits(
        data, CAMERA_IMAGES, {"fibermap": FIBERMAP_COLUMNS, "SCORES": ["TSNR2_LRG", "NOT_THERE"]}
    )
    with fits.open(io.BytesIO(data)) as hdus:
        for name in CAMERA_IMAGES:
            np.testing.assert_array_equal(contents.images[name], hdus[name].data)
            assert contents.images[name].dtype.isnative
    assert contents.images["Z_MASK"].dtype == np.uint32
    assert contents.images["Z_MASK"].max() == 1 << 31
    fibermap = contents.tables["FIBERMAP"]
    assert fibermap["TARGETID"].tolist() == [39627600000000000 + row for row in range(7)]
    assert fibermap["OBJTYPE"].tolist() == ["TGT"] * 7
    assert set(contents.tables["SCORES"]) == {"TSNR2_LRG"}
    assert contents.names[:4] == ["PRIMARY", "FIBERMAP", "B_WAVELENGTH", "B_FLUX"]
    assert contents.header("B_FLUX")["NAXIS1"] == 2751


def test_resolution_is_not_fetched(tmp_path):
    """Four fifths of a coadd are not wanted; little else than what is wanted is fetched."""
    path = tmp_path / "coadd.fits"
    path.write_bytes(coadd_bytes(120))
    storage = Storage()
    contents = read_hdus(
        storage, str(path), path.stat().st_size, CAMERA_IMAGES, {"FIBERMAP": FIBERMAP_COLUMNS}
    )
    assert "R_RESOLUTION" in contents.names
    assert contents.bytes_used <= storage.bytes_fetched <= 1.1 * contents.bytes_used
    assert storage.bytes_fetched < 0.3 * path.stat().st_size
    assert storage.num_requests <= 2 * len(contents.names)


def test_stops_when_all_is_seen(read_fits):
    assert read_fits(coadd_bytes(2), ["B_FLUX"]).names == ["PRIMARY", "FIBERMAP", "B_WAVELENGTH", "B_FLUX"]


def test_missing_hdus_are_absent(read_fits):
    contents = read_fits(
        coadd_bytes(2), ["NOT_THERE", "FIBERMAP", "B_FLUX"], {"R_FLUX": ["X"], "NEITHER": ["X"]}
    )
    assert set(contents.images) == {"B_FLUX"}  # FIBERMAP is there, but no image
    assert contents.tables == {}


def test_gzip(read_fits):
    data = coadd_bytes(3)
    contents = read_fits(gzip.compress(data), ["B_FLUX", "Z_MASK"], {"FIBERMAP": ["TARGETID"]})
    plain = read_fits(data, ["B_FLUX", "Z_MASK"], {"FIBERMAP": ["TARGETID"]})
    np.testing.assert_array_equal(contents.images["B_FLUX"], plain.images["B_FLUX"])
    np.testing.assert_array_equal(contents.images["Z_MASK"], plain.images["Z_MASK"])


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_number_types(read_fits, dtype: str):
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    data = np.array([[limits.min, limits.max, 0], [1, 2, 3]], dtype)
    columns = [
        fits.Column("a", _tform(dtype), array=data[0], bzero=_bzero(dtype)),
        fits.Column("s", "5A", array=list("xyz")),
    ]
    hdus = fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(data, name="X"), fits.BinTableHDU.from_columns(columns, name="T")]
    )
    contents = read_fits(to_bytes(hdus), ["X"], {"T": ["A", "S"]})
    assert contents.images["X"].dtype == contents.tables["T"]["A"].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(contents.images["X"], data)
    np.testing.assert_array_equal(contents.tables["T"]["A"], data[0])
    assert contents.tables["T"]["S"].tolist() == ["x", "y", "z"]


def _tform(dtype: str) -> str:
    return (
        {"1": "B", "2": "I", "4": "J", "8": "K"}[dtype[1]]
        if dtype[0] in "iu"
        else {"4": "E", "8": "D"}[dtype[1]]
    )


def _bzero(dtype: str) -> int | None:
    return {"i1": -128, "u2": 1 << 15, "u4": 1 << 31, "u8": 1 << 63}.get(dtype)


def test_scaled_integers_and_blanks(read_fits):
    data = image_file(np.array([1, 2, -99], np.int16), BSCALE=0.5, BZERO=10.0, BLANK=-99)
    np.testing.assert_array_equal(read_fits(data, ["X"]).images["X"], np.array([10.5, 11.0, np.nan], "f4"))


def test_vector_logical_and_skipped_columns(read_fits):
    columns = [
        fits.Column("bits", "9X", array=np.ones((2, 9), bool)),
        fits.Column("list", "PJ()", array=np.array([np.arange(2), np.arange(3)], object)),
        fits.Column("ok", "L", array=[True, False]),
        fits.Column("grid", "6E", dim="(3,2)", array=np.arange(12.0).reshape(2, 2, 3)),
        fits.Column("names", "6A", dim="(2,3)", array=np.array([["ab", "c", "d"], ["e", "f", "gh"]])),
        fits.Column("one", "1J", array=[7, 8]),
    ]
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="T")]))
    table = read_fits(data, tables={"T": [column.name for column in columns]}).tables["T"]
    assert table["ok"].tolist() == [True, False]
    assert table["grid"].tolist() == np.arange(12.0).reshape(2, 2, 3).tolist()
    assert table["names"].tolist() == [["ab", "c", "d"], ["e", "f", "gh"]]
    assert table["one"].tolist() == [7, 8]
    assert set(table) == {"ok", "grid", "names", "one"}


def test_empty_table_and_image_without_data(read_fits):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(name="NONE"), fibermap(0)])
    contents = read_fits(to_bytes(hdus), ["NONE"], {"FIBERMAP": ["TARGETID"]})
    assert contents.images == {}
    assert contents.tables["FIBERMAP"]["TARGETID"].shape == (0,)


def test_first_of_equal_names_counts(read_fits):
    hdus = [fits.ImageHDU(np.full(3, value), name="X") for value in (1, 2)]
    assert read_fits(to_bytes(fits.HDUList([fits.PrimaryHDU(), *hdus])), ["X"]).images["X"].tolist() == [
        1,
        1,
        1,
    ]


def test_hdus_without_names_have_numbers(read_fits):
    hdus = fits.HDUList([fits.PrimaryHDU(np.arange(3)), fits.ImageHDU(np.arange(4))])
    contents = read_fits(to_bytes(hdus), ["PRIMARY", "HDU1"])
    assert [len(contents.images[name]) for name in ("PRIMARY", "HDU1")] == [3, 4]


def test_filling_behind_the_last_hdu_is_allowed(read_fits):
    assert set(read_fits(coadd_bytes(1) + bytes(5000), ["B_FLUX", "LACKING"]).images) == {"B_FLUX"}


def test_long_header(read_fits):
    """A header longer than the first guess, behind data that took a look-ahead along."""
    cards = {f"KEY{number}": number for number in range(2000)}
    big = fits.ImageHDU(np.zeros(200_000), name="BIG")
    late = fits.ImageHDU(np.arange(3), name="LATE")
    late.header.update(cards)
    contents = read_fits(to_bytes(fits.HDUList([fits.PrimaryHDU(), big, late])), ["BIG", "LATE"])
    assert contents.images["LATE"].tolist() == [0, 1, 2]
    assert contents.header("LATE")["KEY1999"] == 1999
