"""Reading damaged FITS: a clear `SourceError` that names the reason, and nothing else."""

import gzip
import struct

import numpy as np
import pytest
from astropy.io import fits

from engine.errors import SourceError
from engine.fits import read_hdus
from engine.storage import Storage, StorageError
from tests.fitsbytes import CAMERA_IMAGES, FIBERMAP_COLUMNS, coadd_bytes, fibermap, image_file, to_bytes


def assert_reason(call, reason: str, text: str | None = None) -> None:
    with pytest.raises(SourceError, match=text) as caught:
        call()
    assert caught.value.reason == reason
    assert caught.value.where


@pytest.mark.parametrize(
    "data", [b"not a fits file", b"\0" * 9000, b"SIMPLE", b"PAR1" + bytes(5000), b"<html>" * 999]
)
def test_not_fits(read_fits, data: bytes):
    assert_reason(lambda: read_fits(data, ["X"]), "not_fits", r"is not FITS; got b'.*expected SIMPLE")


def test_empty_file(read_fits):
    assert_reason(lambda: read_fits(b"", ["X"]), "truncated_file")


@pytest.mark.parametrize("keep", [100, 4000, 30_000, 600_000, -5000])
def test_truncated(read_fits, keep: int):
    data = coadd_bytes(10)[:keep]
    assert_reason(
        lambda: read_fits(data, CAMERA_IMAGES, {"SCORES": ["X"]}), "truncated_file", "shorter than it should"
    )


def test_file_shorter_than_listed(read_fits):
    data = coadd_bytes(10)
    assert_reason(lambda: read_fits(data[:700_000], ["Z_FLUX"], size=len(data)), "truncated_file")


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
def test_lying_headers(read_fits, old: bytes, new: bytes, reason: str):
    head, tail = (data := image_file(np.arange(10, dtype="f4")))[:2880], data[2880:]
    assert old in tail
    damaged = head + tail.replace(old, new, 1)
    if reason:
        assert_reason(lambda: read_fits(damaged, ["X"]), reason)
    else:
        assert read_fits(damaged, ["X"]).images == {}


def test_too_few_rows_in_a_header_are_noticed(read_fits):
    """NAXIS2 that is too small puts the next header into the data."""
    data = coadd_bytes(50).replace(b"NAXIS2  =                   50", b"NAXIS2  =                   10", 1)
    assert_reason(
        lambda: read_fits(data, ["B_FLUX"]), "unreadable_file", "no header where the HDU before ends"
    )


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
def test_lying_tables(read_fits, old: bytes, new: bytes):
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), fibermap(5)]))
    assert old in data
    padding = len(new) - len(old)
    at = data.index(old)
    damaged = data[:at] + new + data[at + len(old) + padding :]
    assert_reason(lambda: read_fits(damaged, tables={"FIBERMAP": ["TARGETID"]}), "unreadable_file")


@pytest.mark.parametrize("key", [b"ZNAXIS1", b"ZNAXIS2"])
def test_tiled_image_that_would_fill_memory(read_fits, key: bytes):
    hdu = fits.CompImageHDU(np.zeros((50, 50), np.int32), name="X")
    data = to_bytes(fits.HDUList([fits.PrimaryHDU(), hdu]))
    old = key + b" =                   50"
    assert old in data
    damaged = data.replace(old, key + b" =         500000000000")
    assert_reason(lambda: read_fits(damaged, ["X"]), "unreadable_file", "unpacks to too much")


def tiled(kind: str, image: np.ndarray | None = None) -> bytes:
    image = np.arange(4096, dtype=np.int16).reshape(64, 64) if image is None else image
    return to_bytes(
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image, name="X", compression_type=kind)])
    )


@pytest.mark.parametrize("kind", ["HCOMPRESS_1", "PLIO_1"])
def test_codecs_that_damage_turns_into_crashes_are_refused(read_fits, kind: str):
    assert_reason(
        lambda: read_fits(tiled(kind), ["X"]), "unreadable_file", f"not read; got '{kind}'; expected RICE_1"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"TFIELDS =                    1", b"TFIELDS =  9223372036854775808"),
        (b"ZTILE2  =                    1", b"ZTILE2  =                   65"),
        (b"ZTILE1  =                   64", b"ZTILE1  =                    0"),
        (b"ZVAL1   =                   32", b"ZVAL1   =                    0"),
        (b"ZVAL2   =                    2", b"ZVAL2   =                 9999"),
        (b"TFORM1  = '1PB", b"TFORM1  = '9PB"),
    ],
)
def test_lying_headers_of_tiled_images(read_fits, old: bytes, new: bytes):
    """The first made astropy count to its number, others made a decoder believe them."""
    data = tiled("RICE_1")
    assert old in data
    assert_reason(lambda: read_fits(data.replace(old, new, 1), ["X"]), "unreadable_file")
    assert read_fits(data, ["X"]).images["X"][1, 1] == 65


@pytest.mark.parametrize("kind", ["GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("second", [False, True])
def test_tile_that_unpacks_to_too_much(read_fits, kind: str, second: bool):
    """In one gzip stream, or in a second one behind it."""
    data = tiled(kind, np.random.default_rng(1).integers(0, 30_000, (1, 4096)).astype(np.int16))
    assert read_fits(data, ["X"]).images["X"].shape == (1, 4096)
    start = data.index(b"\x1f\x8b")
    bomb = (
        gzip.compress(bytes(8192)) + gzip.compress(bytes(100_000))
        if second
        else gzip.compress(bytes(100_000))
    )
    assert len(bomb) < 6000
    (length,) = struct.unpack(">i", data[start - 8 : start - 4])
    packed = bomb + bytes(length - len(bomb)) if not second else bomb
    damaged = data[:start] + packed + data[start + len(packed) :]
    damaged = damaged[: start - 8] + struct.pack(">i", len(bomb)) + damaged[start - 4 :]
    assert_reason(lambda: read_fits(damaged, ["X"]), "unreadable_file", "a tile unpacks to too much")


def test_lack_of_memory_is_no_fault_of_the_file(read_fits, monkeypatch):
    """A worker that has too little would otherwise reject what is sound, for ever."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("engine.fits.decode_image", fail)
    with pytest.raises(MemoryError):
        read_fits(coadd_bytes(3), ["B_FLUX"])


def test_damaged_gzip(read_fits):
    packed = gzip.compress(coadd_bytes(3), 1)
    assert_reason(lambda: read_fits(packed[: len(packed) // 2], ["B_FLUX"]), "truncated_file", "gzip")
    broken = packed[:2000] + bytes(200) + packed[2200:]
    assert_reason(lambda: read_fits(broken, ["B_FLUX"]), "unreadable_file", "gzip")
    assert_reason(lambda: read_fits(b"\x1f\x8b garbage", ["B_FLUX"]), "unreadable_file", "gzip")


ROWS_BEHIND = b"NAXIS2  =                 8500"


def gzip_bomb(declared: bool) -> bytes:
    """30 kB that become 30 MB: of an image that says so, or behind one that does not."""
    data = image_file(np.zeros((90, 900), "f4"))
    if declared:
        data = data.replace(b"NAXIS2  =                   90", ROWS_BEHIND)
    return gzip.compress(data, 1) + gzip.compress(bytes(30 << 20), 9)


@pytest.mark.parametrize("declared", [False, True])
def test_gzip_bomb(read_fits, monkeypatch, declared: bool):
    """What a file may become is bounded by its size, wherever the bytes are."""
    bomb = gzip_bomb(declared)
    if declared:
        assert read_fits(bomb, ["X"]).images["X"].shape == (8500, 900)
    monkeypatch.setattr("engine.fitsdata.FREE_UNPACKED_BYTES", 1 << 20)
    assert_reason(lambda: read_fits(bomb, ["X"]), "unreadable_file", "unpacks to too much")


def test_gzip_of_zeros_is_not_unpacked_to_know_that_it_is_not_fits(read_fits):
    assert_reason(lambda: read_fits(gzip.compress(bytes(40 << 20)), ["X"]), "not_fits")


def test_gzip_is_checked_to_its_end(read_fits):
    """Damage behind what is wanted shows in the check sum alone."""
    packed = bytearray(gzip.compress(coadd_bytes(3), 1))
    packed[-8] ^= 1
    assert_reason(lambda: read_fits(bytes(packed), ["B_FLUX"]), "unreadable_file", "CRC")


def test_header_of_a_gzipped_file_that_lies_about_its_size(read_fits):
    data = image_file(np.arange(10, dtype="f4")).replace(
        b"NAXIS1  =                   10", b"NAXIS1  =  9999999999999999999", 1
    )
    assert_reason(lambda: read_fits(gzip.compress(data), ["X"]), "unreadable_file", "unpacks to too much")


@pytest.mark.parametrize("is_tiled", [False, True])
def test_random_damage_never_escapes(read_fits, is_tiled: bool):
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
        num_rejected += _reason(read_fits, damaged.tobytes(), CAMERA_IMAGES, tables) is not None
    assert 0 < num_rejected < 150


def _reason(read_fits, *args) -> str | None:
    try:
        read_fits(*args)
    except SourceError as error:
        return error.reason
    return None
