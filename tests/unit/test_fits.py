"""Reading FITS by HDU: equal to astropy on sound files, a clear `SourceError` on any other."""

import gzip
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from engine.errors import SourceError
from engine.fits import FitsContents, read_hdus
from engine.storage import Storage, StorageError

ARMS = {"B": 2751, "R": 2326, "Z": 2881}
CAMERA_IMAGES = [f"{arm}_{name}" for arm in ARMS for name in ("WAVELENGTH", "FLUX", "IVAR", "MASK")]
FIBERMAP_COLUMNS = ["TARGETID", "TARGET_RA", "TARGET_DEC", "COADD_FIBERSTATUS", "OBJTYPE"]


def coadd_bytes(num_rows: int, num_diagonals: int = 11, is_tiled: bool = False) -> bytes:
    """Make a coadd with the HDUs, types and proportions of a DESI release; numbers are noise."""
    rng = np.random.default_rng(20240607)
    hdus = fits.HDUList([fits.PrimaryHDU(), _fibermap(num_rows)])
    for arm, num_pixels in ARMS.items():
        shape = (num_rows, num_pixels)
        mask = (rng.random(shape) < 0.01).astype(np.uint32) << 31
        make_mask = fits.CompImageHDU if is_tiled else fits.ImageHDU
        hdus += [
            fits.ImageHDU(np.linspace(3600, 9824, num_pixels), name=f"{arm}_WAVELENGTH"),
            fits.ImageHDU(rng.normal(size=shape).astype("f4"), name=f"{arm}_FLUX"),
            fits.ImageHDU(rng.random(shape).astype("f4"), name=f"{arm}_IVAR"),
            make_mask(mask, name=f"{arm}_MASK"),
            fits.ImageHDU(np.zeros((num_rows, num_diagonals, num_pixels), "f4"), name=f"{arm}_RESOLUTION"),
        ]
    hdus.append(
        fits.BinTableHDU.from_columns([fits.Column("TSNR2_LRG", "E", array=np.ones(num_rows))], name="SCORES")
    )
    return to_bytes(hdus)


def _fibermap(num_rows: int) -> fits.BinTableHDU:
    columns = [
        fits.Column("TARGETID", "K", array=39627600000000000 + np.arange(num_rows)),
        fits.Column("TARGET_RA", "D", array=np.linspace(0, 10, num_rows)),
        fits.Column("TARGET_DEC", "D", array=np.linspace(0, 10, num_rows)),
        fits.Column("COADD_FIBERSTATUS", "J", array=np.zeros(num_rows)),
        fits.Column("OBJTYPE", "3A", array=["TGT"] * num_rows),
        fits.Column("PLATE_FILLER", "200E", array=np.zeros((num_rows, 200))),
    ]
    return fits.BinTableHDU.from_columns(columns, name="FIBERMAP")


def to_bytes(hdus: fits.HDUList) -> bytes:
    out = io.BytesIO()
    hdus.writeto(out)
    return out.getvalue()


def image_file(data: np.ndarray, name: str = "X", **header) -> bytes:
    hdu = fits.ImageHDU(data, name=name)
    hdu.header.update(header)
    return to_bytes(fits.HDUList([fits.PrimaryHDU(), hdu]))


@pytest.fixture
def read(tmp_path):
    """Write bytes to a file and read HDUs of it."""

    def call(data: bytes, images=(), tables=None, size: int | None = None) -> FitsContents:
        path = tmp_path / "x.fits"
        path.write_bytes(data)
        return read_hdus(Storage(), str(path), len(data) if size is None else size, images, tables or {})

    return call


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
def test_coadd(read, is_tiled: bool):
    data = coadd_bytes(7, is_tiled=is_tiled)
    contents = read(data, CAMERA_IMAGES, {"fibermap": FIBERMAP_COLUMNS, "SCORES": ["TSNR2_LRG", "NOT_THERE"]})
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
    assert contents.headers["B_FLUX"]["NAXIS1"] == 2751


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


def test_stops_when_all_is_seen(read):
    assert read(coadd_bytes(2), ["B_FLUX"]).names == ["PRIMARY", "FIBERMAP", "B_WAVELENGTH", "B_FLUX"]


def test_missing_hdus_are_absent(read):
    contents = read(coadd_bytes(2), ["NOT_THERE", "FIBERMAP", "B_FLUX"], {"R_FLUX": ["X"], "NEITHER": ["X"]})
    assert set(contents.images) == {"B_FLUX"}  # FIBERMAP is there, but no image
    assert contents.tables == {}


def test_gzip(read):
    data = coadd_bytes(3)
    contents = read(gzip.compress(data), ["B_FLUX", "Z_MASK"], {"FIBERMAP": ["TARGETID"]})
    plain = read(data, ["B_FLUX", "Z_MASK"], {"FIBERMAP": ["TARGETID"]})
    np.testing.assert_array_equal(contents.images["B_FLUX"], plain.images["B_FLUX"])
    np.testing.assert_array_equal(contents.images["Z_MASK"], plain.images["Z_MASK"])


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_number_types(read, dtype: str):
    limits = np.finfo(dtype) if dtype[0] == "f" else np.iinfo(dtype)
    data = np.array([[limits.min, limits.max, 0], [1, 2, 3]], dtype)
    columns = [
        fits.Column("a", _tform(dtype), array=data[0], bzero=_bzero(dtype)),
        fits.Column("s", "5A", array=list("xyz")),
    ]
    hdus = fits.HDUList(
        [fits.PrimaryHDU(), fits.ImageHDU(data, name="X"), fits.BinTableHDU.from_columns(columns, name="T")]
    )
    contents = read(to_bytes(hdus), ["X"], {"T": ["A", "S"]})
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


def test_scaled_integers_and_blanks(read):
    data = image_file(np.array([1, 2, -99], np.int16), BSCALE=0.5, BZERO=10.0, BLANK=-99)
    np.testing.assert_array_equal(read(data, ["X"]).images["X"], np.array([10.5, 11.0, np.nan], "f4"))


def test_vector_logical_and_skipped_columns(read):
    columns = [
        fits.Column("bits", "9X", array=np.ones((2, 9), bool)),
        fits.Column("list", "PJ()", array=np.array([np.arange(2), np.arange(3)], object)),
        fits.Column("ok", "L", array=[True, False]),
        fits.Column("grid", "6E", dim="(3,2)", array=np.arange(12.0).reshape(2, 2, 3)),
        fits.Column("names", "6A", dim="(2,3)", array=np.array([["ab", "c", "d"], ["e", "f", "gh"]])),
        fits.Column("one", "1J", array=[7, 8]),
    ]
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="T")]))
    table = read(data, tables={"T": [column.name for column in columns]}).tables["T"]
    assert table["ok"].tolist() == [True, False]
    assert table["grid"].tolist() == np.arange(12.0).reshape(2, 2, 3).tolist()
    assert table["names"].tolist() == [["ab", "c", "d"], ["e", "f", "gh"]]
    assert table["one"].tolist() == [7, 8]
    assert set(table) == {"ok", "grid", "names", "one"}


def test_empty_table_and_image_without_data(read):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(name="NONE"), _fibermap(0)])
    contents = read(to_bytes(hdus), ["NONE"], {"FIBERMAP": ["TARGETID"]})
    assert contents.images == {}
    assert contents.tables["FIBERMAP"]["TARGETID"].shape == (0,)


def test_first_of_equal_names_counts(read):
    hdus = [fits.ImageHDU(np.full(3, value), name="X") for value in (1, 2)]
    assert read(to_bytes(fits.HDUList([fits.PrimaryHDU(), *hdus])), ["X"]).images["X"].tolist() == [1, 1, 1]


def test_hdus_without_names_have_numbers(read):
    hdus = fits.HDUList([fits.PrimaryHDU(np.arange(3)), fits.ImageHDU(np.arange(4))])
    contents = read(to_bytes(hdus), ["PRIMARY", "HDU1"])
    assert [len(contents.images[name]) for name in ("PRIMARY", "HDU1")] == [3, 4]


def test_filling_behind_the_last_hdu_is_allowed(read):
    assert set(read(coadd_bytes(1) + bytes(5000), ["B_FLUX", "LACKING"]).images) == {"B_FLUX"}


def test_long_header(read):
    """A header longer than the first guess, behind data that took a look-ahead along."""
    cards = {f"KEY{number}": number for number in range(2000)}
    big = fits.ImageHDU(np.zeros(200_000), name="BIG")
    late = fits.ImageHDU(np.arange(3), name="LATE")
    late.header.update(cards)
    contents = read(to_bytes(fits.HDUList([fits.PrimaryHDU(), big, late])), ["BIG", "LATE"])
    assert contents.images["LATE"].tolist() == [0, 1, 2]
    assert contents.headers["LATE"]["KEY1999"] == 1999


# --- damaged files --------------------------------------------------------------------------------


def assert_reason(call, reason: str, text: str | None = None) -> None:
    with pytest.raises(SourceError, match=text) as caught:
        call()
    assert caught.value.reason == reason
    assert caught.value.where


@pytest.mark.parametrize(
    "data", [b"not a fits file", b"\0" * 9000, b"SIMPLE", b"PAR1" + bytes(5000), b"<html>" * 999]
)
def test_not_fits(read, data: bytes):
    assert_reason(lambda: read(data, ["X"]), "not_fits", r"is not FITS; got b'.*expected SIMPLE")


def test_empty_file(read):
    assert_reason(lambda: read(b"", ["X"]), "truncated_file")


@pytest.mark.parametrize("keep", [100, 4000, 30_000, 600_000, -5000])
def test_truncated(read, keep: int):
    data = coadd_bytes(10)[:keep]
    assert_reason(
        lambda: read(data, CAMERA_IMAGES, {"SCORES": ["X"]}), "truncated_file", "shorter than it should"
    )


def test_file_shorter_than_listed(read):
    data = coadd_bytes(10)
    assert_reason(lambda: read(data[:700_000], ["Z_FLUX"], size=len(data)), "truncated_file")


def test_file_that_is_gone(tmp_path):
    assert_reason(lambda: read_hdus(Storage(), str(tmp_path / "gone.fits"), 9999, ["X"], {}), "not_found")


def test_storage_errors_stay_storage_errors(tmp_path):
    """The network is not a fault of the file: the unit must be tried again, not rejected."""
    (tmp_path / "x.fits").mkdir()
    with pytest.raises(StorageError):
        read_hdus(Storage(), str(tmp_path / "x.fits"), 9999, ["X"], {})


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"NAXIS1  =                   10", b"NAXIS1  =                  -10", "unreadable_file"),
        (b"NAXIS1  =                   10", b"NAXIS1  =  9999999999999999999", "truncated_file"),
        (b"NAXIS1  =                   10", b"NAXIS1  =                  3.5", "unreadable_file"),
        (b"NAXIS1  =                   10", b"NAXIS1  =                    T", "unreadable_file"),
        (b"NAXIS1  =                   10", b"NAXIS1  = 'ten'               ", "unreadable_file"),
        (b"NAXIS1  =                   10", b"COMMENT                       ", "unreadable_file"),
        (b"NAXIS   =                    1", b"NAXIS   =                 1000", "unreadable_file"),
        (b"BITPIX  =                  -32", b"BITPIX  =                   31", "unreadable_file"),
        (b"PCOUNT  =                    0", b"PCOUNT  =             99999999", "truncated_file"),
        (b"PCOUNT  =                    0", b"PCOUNT  =                   -1", "unreadable_file"),
        (b"XTENSION= 'IMAGE   '          ", b"XTENSIO?= 'IMAGE   '          ", "unreadable_file"),
        (b"END" + b" " * 77, b"HISTORY" + b" " * 73, "truncated_file"),
        (b"EXTNAME = 'X       '", b"\xff\xfe\x00NAME = 'X       '", ""),
    ],
)  # fmt: skip
def test_lying_headers(read, old: bytes, new: bytes, reason: str):
    head, tail = (data := image_file(np.arange(10, dtype="f4")))[:2880], data[2880:]
    assert old in tail
    damaged = head + tail.replace(old, new, 1)
    if reason:
        assert_reason(lambda: read(damaged, ["X"]), reason)
    else:
        assert read(damaged, ["X"]).images == {}


def test_too_few_rows_in_a_header_are_noticed(read):
    """NAXIS2 that is too small puts the next header into the data."""
    data = coadd_bytes(50).replace(b"NAXIS2  =                   50", b"NAXIS2  =                   10", 1)
    assert_reason(lambda: read(data, ["B_FLUX"]), "unreadable_file", "no header where the HDU before ends")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"TFORM1  = 'K       '", b"TFORM1  = '999K    '"),
        (b"TFORM1  = 'K       '", b"TFORM1  = '????    '"),
        (b"TFORM1  = 'K       '", b"TFORM1  = '99999999999999999999K'"),
        (b"TFIELDS =                    6", b"TFIELDS =                  999"),
        (b"TFIELDS =                    6", b"TFIELDS =                   -6"),
    ],
)
def test_lying_tables(read, old: bytes, new: bytes):
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), _fibermap(5)]))
    assert old in data
    padding = len(new) - len(old)
    at = data.index(old)
    damaged = data[:at] + new + data[at + len(old) + padding :]
    assert_reason(lambda: read(damaged, tables={"FIBERMAP": ["TARGETID"]}), "unreadable_file")


@pytest.mark.parametrize("key", [b"ZNAXIS1", b"ZNAXIS2"])
def test_tiled_image_that_would_fill_memory(read, key: bytes):
    hdu = fits.CompImageHDU(np.zeros((50, 50), np.int32), name="X")
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), hdu]))
    old = key + b" =                   50"
    assert old in data
    damaged = data.replace(old, key + b" =         500000000000")
    assert_reason(lambda: read(damaged, ["X"]), "unreadable_file", "unpacks to too much")


def test_damaged_gzip(read):
    packed = gzip.compress(coadd_bytes(3), 1)
    assert_reason(lambda: read(packed[: len(packed) // 2], ["B_FLUX"]), "truncated_file", "gzip")
    broken = packed[:2000] + bytes(200) + packed[2200:]
    assert_reason(lambda: read(broken, ["B_FLUX"]), "unreadable_file", "gzip")
    assert_reason(lambda: read(b"\x1f\x8b garbage", ["B_FLUX"]), "unreadable_file", "gzip")


def test_gzip_bomb(read, monkeypatch):
    monkeypatch.setattr("engine.fits.MAX_UNPACKED_BYTES", 1 << 20)
    assert_reason(
        lambda: read(gzip.compress(bytes(40 << 20)), ["X"]), "unreadable_file", "unpacks to too much"
    )


@pytest.mark.parametrize("is_tiled", [False, True])
def test_random_damage_never_escapes(read, is_tiled: bool):
    """Flipped bytes give numbers or a `SourceError`, nothing else."""
    rng = np.random.default_rng(5)
    sound = np.frombuffer(coadd_bytes(1, num_diagonals=1, is_tiled=is_tiled), np.uint8)
    headers = [at for at in range(0, len(sound), 2880) if bytes(sound[at : at + 3]) in (b"SIM", b"XTE")]
    tables = {"FIBERMAP": FIBERMAP_COLUMNS, "SCORES": ["TSNR2_LRG"]}
    num_rejected = 0
    for _ in range(150):
        damaged = sound.copy()
        where = rng.choice(headers) + rng.integers(0, 2880, 6)  # headers are where it matters
        damaged[where] = rng.integers(32, 127, 6)
        if rng.random() < 0.3:
            damaged[rng.integers(0, len(sound), 300)] = rng.integers(0, 256, 300)
        num_rejected += _reason(read, damaged.tobytes(), CAMERA_IMAGES, tables) is not None
    assert 0 < num_rejected < 150


def _reason(read, *args) -> str | None:
    try:
        read(*args)
    except SourceError as error:
        return error.reason
    return None
