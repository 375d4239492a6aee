"""Damage a FITS file in ways that happen, and in ways that only somebody hostile would think of.

Each mutation says for which reasons what it damaged may be rejected, and whether it must be.
"""

import gzip
import io
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from astropy.io import fits

BLOCK = 2880
CARD = 80

BROKEN = frozenset({"truncated_file", "unreadable_file"})
GONE = frozenset({"unsupported_layout", "no_camera", "bad_position"})
"""What an HDU or a column leads to that is not there, or not of the shape of the others; positions may stand in it."""
WORDS = frozenset({"bad_wcs", "bad_unit"})
"""What only keywords lead to."""
PIXELS = frozenset({"wrong_wavelength_grid", "no_usable_pixel", "not_finite", "constant_image"})
"""What nonsense in images leads to, or in columns that are as good as one."""
SIZES = frozenset({"wrong_size", "too_small", "off_mosaic"})
FIELDS = frozenset(
    {"bad_position", "negative_targetid", "sky_fibre", "fiberstatus", "zwarn", "min_exposures", "no_redshift", "not_found",
     "off_mosaic", "unsupported_layout"}
)  # fmt: skip
"""What nonsense in columns leads to, cuts among them, and names of files and numbers of HDUs that there are not."""
VALUES = PIXELS | FIELDS
ANY = BROKEN | GONE | WORDS | SIZES | VALUES

NUMBERS = (0, -1, 1, 2, 3, 7, 999, 2880, 65_536, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 10**30)
"""What sizes in headers are replaced by."""

SIZE_CARDS = re.compile(
    rb"(Z?NAXIS\d*|PCOUNT|GCOUNT|Z?BITPIX|TFIELDS|THEAP|ZTILE\d|TDIM\d+|ZVAL\d|ZTENSION)\s*="
)
TEXTS = (
    b"T", b"F", b"''", b"'x", b"1E400", b"-1E400", b"NaN", b"1.5", b"'" + b"\xff" * 20, b"/", b"",
    b"'RA---SIN'", b"'(1,2,3,4,5,6,7,8,9)'", b"'1PE(99999999)'", b"'1QD(7)'", b"'99999999D'", b"'0E'", b"'A'",
)  # fmt: skip
"""What values of other cards are replaced by."""


@dataclass(frozen=True)
class Mutation:
    """A damaged file.

    Attributes
    ----------
    kind
        Which mutation.
    data
        The bytes.
    reasons
        Reasons for which it, or objects of it, may be rejected.
    must_reject
        Whether something has to be rejected.
    keeps_rows
        Whether rows, where nothing is rejected, must be those of the sound file.
    """

    kind: str
    data: bytes
    reasons: frozenset[str]
    must_reject: bool = False
    keeps_rows: bool = False


class Sound:
    """A file as it should be; `num_axes` where HDUs lie is what astropy says."""

    def __init__(self, data: bytes) -> None:
        self.is_packed = data[:2] == b"\x1f\x8b"
        self.data = gzip.decompress(data) if self.is_packed else data

    @cached_property
    def headers(self) -> list[tuple[int, int]]:
        """First byte of each header and the one behind its END, padding included."""
        with fits.open(io.BytesIO(self.data), disable_image_compression=True) as hdus:
            infos = [hdu.fileinfo() for hdu in hdus]
        return [(info["hdrLoc"], info["datLoc"]) for info in infos]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """First byte of the data of each HDU that has some, and the one behind, filling included."""
        stops = [start for start, _ in self.headers[1:]] + [len(self.data)]
        return [(a, b) for (_, a), b in zip(self.headers, stops, strict=True) if a < b]

    def cards(self, pattern: re.Pattern[bytes]) -> list[int]:
        """Positions of the cards of all headers whose beginning matches."""
        at = (card for start, stop in self.headers for card in range(start, stop, CARD))
        return [card for card in at if pattern.match(self.data[card : card + CARD])]


def truncate(rng: random.Random, sound: Sound) -> Mutation:
    """Cut the file within a block."""
    length = rng.randrange(len(sound.data) // BLOCK) * BLOCK + rng.randrange(40, BLOCK)
    return Mutation("truncated", sound.data[:length], frozenset({"truncated_file"}), keeps_rows=True)


def truncate_at_block(rng: random.Random, sound: Sound) -> Mutation:
    """Cut it between blocks, so that whole HDUs are missing or data end too early."""
    length = rng.randrange(1, len(sound.data) // BLOCK) * BLOCK
    return Mutation("truncated at a block", sound.data[:length], frozenset({"truncated_file"}) | GONE)


def flip_data(rng: random.Random, sound: Sound) -> Mutation:
    """Flip bits of the data."""
    data = bytearray(sound.data)
    start, stop = rng.choice(sound.spans)
    for _ in range(rng.choice((1, 10, 1000))):
        data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return Mutation("bits flipped in data", bytes(data), VALUES | {"unreadable_file"})


def flip_header(rng: random.Random, sound: Sound) -> Mutation:
    """Flip bits of headers."""
    data = bytearray(sound.data)
    for _ in range(rng.choice((1, 3, 20))):
        start, stop = rng.choice(sound.headers)
        data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return Mutation("bits flipped in headers", bytes(data), ANY | {"not_fits"})


def lie_about_size(rng: random.Random, sound: Sound) -> Mutation:
    """Write another number where a header says how large something is."""
    at = rng.choice(sound.cards(SIZE_CARDS))
    number = rng.choice(NUMBERS)
    card = sound.data[at : at + 10] + str(number).rjust(20).encode()
    return Mutation("lie about a size", _with_card(sound.data, at, card), ANY - WORDS)


def many_axes(rng: random.Random, sound: Sound) -> Mutation:
    """Say that an HDU has very many axes, all of which are there, or of great length."""
    start, stop = rng.choice(sound.headers)
    count, length = rng.choice(((999, 1), (999, 2), (100, 10**9), (64, 2), (10**9, 1)))
    cards = [
        f"NAXIS   = {count:20d}",
        *(f"{f'NAXIS{n}':8}= {length:20d}" for n in range(1, min(count, 999) + 1)),
    ]
    text = sound.data[start:stop]
    kept = [text[i : i + CARD] for i in range(0, len(text), CARD) if not text[i:].startswith(b"NAXIS")]
    new = kept[:2] + [card.ljust(CARD).encode() for card in cards] + kept[2:]
    joined = b"".join(new).rstrip(b" ") + b" " * CARD
    data = sound.data[:start] + joined.ljust(-(-len(joined) // BLOCK) * BLOCK) + sound.data[stop:]
    # One pixel is a size that may be: what follows is then looked for where something else lies, which may be filling.
    reasons = BROKEN | GONE if length == 1 and count < 1000 else BROKEN
    return Mutation("huge NAXIS", data, reasons, must_reject=start == 0)


def change_type(rng: random.Random, sound: Sound) -> Mutation:
    """Say that pixels or a column are of another type."""
    at = rng.choice(sound.cards(re.compile(rb"(Z?BITPIX  ?=|TFORM\d+ *=)")))
    is_image = b"BITPIX" in sound.data[at : at + CARD]
    value = rng.choice((b"8", b"16", b"32", b"64", b"-32", b"-64")) if is_image else _form(rng)
    card = sound.data[at : at + 10] + value.rjust(20)
    reasons = BROKEN | GONE | (PIXELS if is_image else VALUES)
    return Mutation("type changed", _with_card(sound.data, at, card), reasons)


def change_card(rng: random.Random, sound: Sound) -> Mutation:
    """Write nonsense as the value of any card."""
    data = sound.data
    for _ in range(rng.choice((1, 1, 5))):
        at = rng.choice(sound.cards(re.compile(rb"[A-Z0-9_-]+ *= ")))
        data = _with_card(data, at, data[at : at + 10] + rng.choice(TEXTS))
    return Mutation("nonsense in a card", data, ANY | {"not_fits"})


def drop_card(rng: random.Random, sound: Sound) -> Mutation:
    """Blank a card, which may be END or EXTNAME."""
    start, stop = rng.choice(sound.headers)
    at = rng.randrange(start, stop, CARD)
    return Mutation("card missing", _with_card(sound.data, at, b""), ANY | {"not_fits"})


def nonsense_values(rng: random.Random, sound: Sound) -> Mutation:
    """Fill data with NaN, infinity, the largest numbers, or denormals."""
    data = bytearray(sound.data)
    start, stop = rng.choice(sound.spans)
    word = rng.choice(
        (b"\x7f\xc0\0\0", b"\x7f\x80\0\0", b"\xff\x7f\xff\xff", b"\0\0\0\1", b"\xff" * 4, b"\x7f" * 4)
    )
    first = start + 4 * rng.randrange((stop - start) // 4)
    length = rng.choice((4, 400, stop - first)) // 4
    data[first : first + 4 * length] = (word * length)[: stop - first]
    return Mutation("nonsense values", bytes(data), VALUES | {"unreadable_file"})


def swap_hdus(rng: random.Random, sound: Sound) -> Mutation:
    """Leave an HDU out, or write it twice, or change the order of two."""
    starts = [start for start, _ in sound.headers] + [len(sound.data)]
    parts = [sound.data[a:b] for a, b in pairwise(starts)]
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    action = rng.choice(("drop", "double", "swap"))
    if action == "drop":
        parts.pop(at)
    elif action == "double":
        parts.insert(other, parts[at])
    else:
        parts[at], parts[other] = parts[other], parts[at]
    return Mutation("HDUs swapped", b"".join(parts), BROKEN | GONE | WORDS | SIZES | {"not_fits"})


def lose_block(rng: random.Random, sound: Sound) -> Mutation:
    """Leave blocks out, repeat them, or blank them."""
    at = rng.randrange(1, len(sound.data) // BLOCK) * BLOCK
    stop = at + BLOCK * rng.choice((1, 2, 10))
    middle = rng.choice((b"", sound.data[at:stop] * 2, bytes(stop - at), b" " * (stop - at)))
    data = sound.data[:at] + middle + sound.data[stop:]
    if any(at < behind and start < stop for start, behind in sound.headers):
        return Mutation("blocks of headers lost", data, ANY)
    if len(middle) == stop - at:
        return Mutation("blocks of data blank", data, VALUES | {"unreadable_file"})
    return Mutation("blocks of data lost", data, BROKEN | VALUES)


def other_file(rng: random.Random, _: Sound) -> Mutation:
    """Put something else in its place."""
    data = rng.choice(
        (b"", bytes(9000), b"PAR1" + bytes(5000), b"<html>" * 999, b"\x89PNG\r\n" + bytes(999), rng.randbytes(9000),
         b"SIMPLE", b"SIMPLE  = F", b"\x1f\x8b", b"PK\x03\x04" + bytes(100))
    )  # fmt: skip
    return Mutation("another file", data, BROKEN | {"not_fits"}, must_reject=True)


def damage_packed(rng: random.Random, sound: Sound) -> Mutation:
    """Pack the file with gzip, then cut or damage that."""
    packed = bytearray(gzip.compress(sound.data, 1))
    if rng.random() < 0.4:
        return Mutation(
            "gzip truncated", bytes(packed[: rng.randrange(20, len(packed))]), frozenset({"truncated_file"}),
            keeps_rows=True,
        )  # fmt: skip
    for _ in range(rng.choice((1, 30))):
        packed[rng.randrange(10, len(packed))] ^= 1 << rng.randrange(8)
    return Mutation("gzip damaged", bytes(packed), ANY | {"not_fits"})


def gzip_bomb(rng: random.Random, sound: Sound) -> Mutation:
    """Make a little gzip that becomes a thousand times as much: of zeros, or of an HDU that says so of itself."""
    begin = b"" if rng.random() < 0.3 else _grown_header(rng, sound)
    packed = _pack_with_zeros(begin, rng.choice((5, 16)) << 26)
    return Mutation("gzip bomb", packed, ANY | {"not_fits"}, must_reject=not begin)


def tile_bomb(rng: random.Random, sound: Sound) -> Mutation:
    """Put a tile-compressed image in place of one that is wanted: true and enormous, or lying about it."""
    start, data_start = rng.choice(sound.headers[1:] or [(len(sound.data), len(sound.data))])
    name = fits.Header.fromstring(sound.data[start:data_start]).get("EXTNAME", "SCI")
    side, kind = rng.choice((64, 6000)), rng.choice(("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"))
    bomb = bytearray(_tiled(side, kind, str(name)))
    if rng.random() < 0.7:
        at = rng.choice(
            Sound(bytes(bomb)).cards(re.compile(rb"(ZNAXIS\d|ZBITPIX|ZTILE\d|ZVAL\d|PCOUNT|THEAP) *="))
        )
        bomb[at : at + CARD] = (
            bytes(bomb[at : at + 10]) + str(rng.choice(NUMBERS)).rjust(20).encode()
        ).ljust(CARD)
    if rng.random() < 0.3:
        for _ in range(20):
            bomb[rng.randrange(2 * BLOCK, len(bomb))] ^= 1 << rng.randrange(8)
    data = sound.data[:start] + bytes(bomb[BLOCK:]) + sound.data[start:]
    return Mutation("tile-compressed bomb", data, BROKEN | GONE | WORDS | SIZES | PIXELS)


MUTATIONS: tuple[Callable[[random.Random, Sound], Mutation], ...] = (
    truncate, truncate_at_block, flip_data, flip_header, lie_about_size, lie_about_size, many_axes, change_type,
    change_card, change_card, drop_card, nonsense_values, swap_hdus, lose_block, other_file, damage_packed,
    gzip_bomb, tile_bomb,
)  # fmt: skip
"""All of them; what is twice here is tried twice as often."""


def mutate(rng: random.Random, sound: Sound) -> Mutation:
    """Damage a file in one of the ways; a file that was packed comes packed."""
    mutation = rng.choice(MUTATIONS)(rng, sound)
    if not sound.is_packed or mutation.data[:2] == b"\x1f\x8b" or mutation.kind == "another file":
        return mutation
    packed = gzip.compress(mutation.data, 1, mtime=0)
    return Mutation(mutation.kind, packed, mutation.reasons, mutation.must_reject, mutation.keeps_rows)


def _with_card(data: bytes, at: int, card: bytes) -> bytes:
    return data[:at] + card[:CARD].ljust(CARD) + data[at + CARD :]


def _form(rng: random.Random) -> bytes:
    repeat = rng.choice(("", "0", "1", "2", "16", "1000000", "99999999999999999999"))
    return f"'{repeat}{rng.choice('LXBIJKAEDCMPQ?')}'".encode()


def _grown_header(rng: random.Random, sound: Sound) -> bytes:
    """Everything up to the data of an HDU, which says that it has very many rows."""
    start, stop = rng.choice(sound.headers)
    head = sound.data[:stop]
    found = re.search(rb"NAXIS[12] +=.{72}", head[start:])
    if found is None:
        return head
    at = start + found.start()
    return _with_card(
        head, at, head[at : at + 10] + str(rng.choice((10**4, 10**5, 10**6))).rjust(20).encode()
    )


def _pack_with_zeros(begin: bytes, length: int) -> bytes:
    """Gzip of some bytes and many zeros, made without holding them."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(begin)
    zeros = gzip.compress(bytes(64 << 20), 1, mtime=0)
    return out.getvalue() + zeros * (length >> 26)  # members that follow each other are one stream


def _tiled(side: int, kind: str, name: str) -> bytes:
    image = np.zeros((side, side), np.int16)
    out = io.BytesIO()
    tile = None if kind == "HCOMPRESS_1" else (side, side)
    hdu = fits.CompImageHDU(image, name=name, compression_type=kind, tile_shape=tile if side < 100 else None)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(out)
    return out.getvalue()
