"""Which mosaics there are: files of the STScI and DJA layouts, grouped by field and band.

STScI: `..._<band>_..._i2d.fits` with SCI, ERR and WHT in one file. DJA: `<root>-<band>-clear_drc_sci.fits`
with `..._wht.fits` beside it (inverse variance); `_exp.fits` is not needed. All may be gzipped.

References
----------
https://jwst-pipeline.readthedocs.io: "File naming" and `i2d` products. https://dawn-cph.github.io/dja
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.images.bands import BANDS
from engine.locations import FileInfo
from engine.units import FileRef

WEIGHT = ".wht"
"""Ending of the role of a file that holds only weights; that of an image is its band."""

_BAND = f"(?P<band>{'|'.join(BANDS)})"
_STSCI = re.compile(rf"(?P<field>.*?)[_-]*(?:clear-)?{_BAND}(?:-clear)?(?:[_-].*)?_i2d\.fits(?:\.gz)?", re.I)
_DJA = re.compile(rf"(?P<field>.+)-{_BAND}-clear_drc_(?P<kind>sci|wht)\.fits(?:\.gz)?", re.I)
_PREFIX = re.compile(r"^hlsp_[^_]+_(?:jwst_)?nircam_", re.I)


@dataclass(frozen=True, slots=True)
class MosaicName:
    """What the name of a mosaic says; `role` is the band, with `WEIGHT` where it holds weights only."""

    folder: str
    field: str
    role: str


def parse_name(uri: str) -> MosaicName | None:
    """Field and band from a file name; None if it is not that of a mosaic."""
    folder, _, name = uri.rpartition("/")
    match = _DJA.fullmatch(name) or _STSCI.fullmatch(name)
    if match is None:
        return None
    field = _PREFIX.sub("", match["field"]).strip("_-") or folder.rpartition("/")[2]
    is_weight = match.groupdict().get("kind", "sci").lower() == "wht"
    return MosaicName(folder, field, match["band"].lower() + (WEIGHT if is_weight else ""))


def group(files: Iterable[FileInfo], bands: Iterable[str]) -> dict[tuple[str, str], tuple[FileRef, ...]]:
    """Group mosaics by folder and field, sorted; bands in their order, weights behind their image.

    Of two files for one role the uncompressed one is taken, else the first.
    """
    roles = [role for band in bands for role in (band, band + WEIGHT)]
    found: dict[tuple[str, str], dict[str, FileRef]] = {}
    for file in files:
        named = parse_name(file.uri)
        if named is None or named.role not in roles:
            continue
        there = found.setdefault((named.folder, named.field), {})
        if named.role not in there or (is_packed(there[named.role].uri) and not is_packed(file.uri)):
            there[named.role] = FileRef(file.uri, file.size, file.fingerprint, named.role)
    with_image = {key: refs for key, refs in found.items() if any(WEIGHT not in role for role in refs)}
    return {
        key: tuple(refs[role] for role in roles if role in refs) for key, refs in sorted(with_image.items())
    }


def is_packed(uri: str) -> bool:
    """Tell whether rows cannot be read by ranges."""
    return uri.endswith(".gz")
