"""Reading rows of images: equal to astropy's, and only their bytes are fetched."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from engine.errors import SourceError
from engine.fits import read_headers, read_rows
from engine.storage import Storage
from tests.fitsbytes import image_file, to_bytes

SHAPE = (500, 800)


def mosaic(dtype: str = "f4", tiled: bool = False) -> tuple[bytes, dict[str, np.ndarray]]:
    rng = np.random.default_rng(4)
    images = {name: (1000 * rng.normal(size=SHAPE)).astype(dtype) for name in ("SCI", "ERR", "CON", "WHT")}
    make = fits.CompImageHDU if tiled else fits.ImageHDU
    hdus = [make(image, name=name) for name, image in images.items()]
    hdus[0].header.update({f"LONG{i}": i for i in range(400)})  # JWST headers are long
    return to_bytes(fits.HDUList([fits.PrimaryHDU(), *hdus])), images


def put(tmp_path: Path, data: bytes) -> tuple[str, int]:
    path = tmp_path / "x.fits"
    path.write_bytes(data)
    return str(path), len(data)


@pytest.mark.parametrize("rows", [(0, 500), (0, 3), (123, 321), (490, 700), (600, 700)])
@pytest.mark.parametrize("packed", [False, True])
def test_rows_are_those_of_the_image(tmp_path: Path, rows: tuple[int, int], packed: bool) -> None:
    data, images = mosaic()
    uri, size = put(tmp_path, gzip.compress(data, 1) if packed else data)
    found = read_rows(Storage(), uri, size, ("SCI", "ERR", "WHT"), rows).images
    assert set(found) == {"SCI", "ERR", "WHT"}
    for name, image in found.items():
        np.testing.assert_array_equal(image, images[name][slice(*rows)])
        assert image.dtype.isnative


@pytest.mark.parametrize(("dtype", "tiled"), [("f8", False), ("i2", False), ("i2", True)])
def test_rows_of_other_encodings(tmp_path: Path, dtype: str, tiled: bool) -> None:
    data, images = mosaic(dtype, tiled)
    found = read_rows(Storage(), *put(tmp_path, data), ("sci", "WHT"), (100, 140)).images
    np.testing.assert_array_equal(found["SCI"], images["SCI"][100:140])
    np.testing.assert_array_equal(found["WHT"], images["WHT"][100:140])


def test_scale_and_zero_are_applied_to_rows(tmp_path: Path) -> None:
    image = np.arange(200, dtype=np.int16).reshape(20, 10)
    data = image_file(image, "SCI", BSCALE=0.5, BZERO=3.0)
    found = read_rows(Storage(), *put(tmp_path, data), ("SCI",), (5, 7)).images["SCI"]
    np.testing.assert_allclose(found, fits.HDUList.fromstring(data)["SCI"].data[5:7])


def test_only_bytes_of_the_rows_are_fetched(tmp_path: Path) -> None:
    data, _ = mosaic()
    storage = Storage()
    contents = read_rows(storage, *put(tmp_path, data), ("SCI", "ERR", "WHT"), (200, 220))
    wanted = 3 * 20 * SHAPE[1] * 4
    assert wanted < storage.bytes_fetched < wanted + 200_000 < len(data) / 10
    assert wanted < contents.bytes_used <= storage.bytes_fetched


def test_strips_together_fetch_the_data_once(tmp_path: Path) -> None:
    data, images = mosaic()
    storage = Storage()
    uri, size = put(tmp_path, data)
    parts = [read_rows(storage, uri, size, ("SCI",), (y, y + 100)).images["SCI"] for y in range(0, 500, 100)]
    np.testing.assert_array_equal(np.concatenate(parts), images["SCI"])
    assert storage.bytes_fetched < images["SCI"].nbytes + 5 * 80_000


def test_gzipped_file_is_not_read_behind_the_rows(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 2**31, (3000, 2000), dtype=np.int32)
    data = gzip.compress(to_bytes(fits.HDUList([fits.PrimaryHDU(image)])), 1)
    storage = Storage()
    found = read_rows(storage, *put(tmp_path, data), ("PRIMARY",), (10, 20)).images["PRIMARY"]
    np.testing.assert_array_equal(found, image[10:20])
    assert storage.bytes_fetched < len(data) / 2


@pytest.mark.parametrize("packed", [False, True])
def test_headers_come_without_data(tmp_path: Path, packed: bool) -> None:
    data, _ = mosaic()
    storage = Storage()
    uri, size = put(tmp_path, gzip.compress(data, 1) if packed else data)
    contents = read_headers(storage, uri, size, ("SCI",))
    assert contents.names == ["PRIMARY", "SCI"]
    assert contents.header("SCI")["LONG399"] == 399
    assert not contents.images
    assert packed or storage.bytes_fetched < 200_000


def test_truncated_file_is_told_before_its_data_are_read(tmp_path: Path) -> None:
    data, _ = mosaic()
    uri, size = put(tmp_path, data[: len(data) // 2])
    for call in (
        lambda: read_rows(Storage(), uri, size, ("SCI", "ERR", "WHT"), (0, 5)),
        lambda: read_headers(Storage(), uri, size, ("WHT",)),
    ):
        with pytest.raises(SourceError) as caught:
            call()
        assert caught.value.reason == "truncated_file"


@pytest.mark.parametrize("keep", [0.3, 0.999])
def test_truncated_gzip_stream_is_told(tmp_path: Path, keep: float) -> None:
    data = gzip.compress(mosaic()[0], 1)
    with pytest.raises(SourceError) as caught:
        read_rows(Storage(), *put(tmp_path, data[: int(keep * len(data))]), ("WHT",), (490, 500))
    assert caught.value.reason == "truncated_file"


def test_whole_gzip_of_a_truncated_file_is_told(tmp_path: Path) -> None:
    data = mosaic()[0]
    with pytest.raises(SourceError) as caught:
        read_rows(
            Storage(), *put(tmp_path, gzip.compress(data[: len(data) - 300_000], 1)), ("WHT",), (490, 500)
        )
    assert caught.value.reason == "truncated_file"


def test_damaged_gzip_stream_is_unreadable(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(mosaic()[0], 1))
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    with pytest.raises(SourceError) as caught:
        read_rows(Storage(), *put(tmp_path, bytes(data)), ("WHT",), (0, 500))
    assert caught.value.reason in ("unreadable_file", "truncated_file")


@pytest.mark.parametrize(("data", "reason"), [(b"", "truncated_file"), (b"no FITS" * 9000, "not_fits")])
def test_other_files_are_told(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_headers(Storage(), *put(tmp_path, data), ("SCI",))
    assert caught.value.reason == reason


def test_cubes_are_left_out(tmp_path: Path) -> None:
    data = image_file(np.zeros((3, 4, 5), "f4"), "SCI")
    assert read_rows(Storage(), *put(tmp_path, data), ("SCI",), (0, 2)).images == {}
