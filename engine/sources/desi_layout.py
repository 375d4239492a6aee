"""Where DESI puts its files: all knowledge of paths and file names, and nothing else.

Layouts
-------
healpix
    `healpix/{survey}/{program}/{pix//100}/{pix}/coadd-{survey}-{program}-{pix}.fits` (EDR, DR1, DR2;
    NSIDE 64, NESTED).
uniqpix
    `spectra/{survey}/{program}/{uniqpix//100}/{uniqpix}/coadd-...` (DR3), UNIQPIX = HEALPIX + 4 NSIDE^2.
tiles
    `tiles/cumulative/{tileid}/{night}/coadd-{petal}-{tileid}-thru{night}.fits`.
flat
    Any folder: every `*.fits` or `*.fits.gz` below it, so that nothing there is passed over in silence.

References
----------
https://desidatamodel.readthedocs.io, DESI_SPECTRO_REDUX/SPECPROD; desispec pull request 2755 (UNIQPIX).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from engine.storage import FileInfo

Layout = Literal["healpix", "uniqpix", "tiles", "flat"]

LAYOUT_FOLDERS: dict[Layout, str] = {
    "healpix": "healpix",
    "uniqpix": "spectra",
    "tiles": "tiles/cumulative",
    "flat": "",
}
"""Folder below the production (`.../redux/{specprod}`) that a layout fills."""

REDSHIFT_PREFIXES = ("redrock-", "zbest-")
"""Names of the redshift file beside a coadd: now, and before 2021."""

_FITS = re.compile(r"\.fits(\.gz)?$")
_GROUPED = re.compile(
    r"(?:^|/)(?:healpix|spectra)/(?P<survey>\w+)/(?P<program>\w+)/\d+/(?P<pixel>\d+)/[^/]+$"
)
_TILE = re.compile(r"(?:^|/)coadd-(?P<petal>\d)-(?P<tileid>\d+)-thru(?P<night>\d{8})\.fits(\.gz)?$")
_NAME = re.compile(r"(?:^|/)coadd-(?P<survey>[a-z]+\d?)-(?P<program>[a-z]\w*)-(?P<pixel>\d+)\.fits(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a path says of its spectra; "" and None where it says nothing. `key` is for people."""

    key: str
    survey: str = ""
    program: str = ""
    pixel: int | None = None
    tileid: int | None = None
    from_folders: bool = False


@dataclass(frozen=True, slots=True)
class CoaddFiles:
    """A file with spectra and the redshift file beside it, as listed."""

    coadd: FileInfo
    redshifts: FileInfo | None = None


def healpix_to_uniqpix(order: int, pixel: int) -> int:
    """UNIQPIX = HEALPIX + 4 NSIDE^2 of a NESTED pixel, NSIDE = 2^order; no two pixels share one."""
    return pixel + 4 * 4**order


def coadd_path(layout: Layout, survey: str, program: str, pixel: int) -> str:
    """Path below the production of the coadd of one HEALPIX or UNIQPIX."""
    return f"{pixel_folder(layout, survey, program, pixel)}/coadd-{survey}-{program}-{pixel}.fits"


def pixel_folder(layout: Layout, survey: str, program: str, pixel: int) -> str:
    """Folder below the production that holds the files of one HEALPIX or UNIQPIX."""
    return f"{LAYOUT_FOLDERS[layout]}/{survey}/{program}/{pixel // 100}/{pixel}"


def identify(uri: str) -> Identity:
    """Survey, program and a name for people, from the path alone.

    The folders of the released layouts come first, then a file name of the form
    `coadd-{survey}-{program}-{pixel}`. Tile coadds name neither survey nor program.
    """
    folders = _GROUPED.search(uri)
    grouped = folders or _NAME.search(uri)
    if grouped:
        survey, program, pixel = grouped["survey"], grouped["program"], grouped["pixel"]
        return Identity(
            f"{survey}-{program}-{pixel}", survey, program, int(pixel), from_folders=folders is not None
        )
    tile = _TILE.search(uri)
    if tile:
        key = f"tile-{tile['tileid']}-{tile['petal']}-{tile['night']}"
        return Identity(key, tileid=int(tile["tileid"]))
    return Identity(_FITS.sub("", PurePosixPath(uri).name))


def is_coadd(uri: str) -> bool:
    """Whether the file name is that of a coadd."""
    return _is_fits(uri) and PurePosixPath(uri).name.startswith("coadd-")


def pair(files: Iterable[FileInfo], layout: Layout) -> Iterator[CoaddFiles]:
    """Put coadds and their redshift files together, lazily.

    Parameters
    ----------
    files
        In order of their URIs, as storage lists them.
    layout
        Released layouts: only `coadd-*` are units. flat: every FITS file is, except the redshift
        file of a coadd.

    Yields
    ------
    CoaddFiles
        In order of the coadds' URIs.
    """
    waiting: dict[str, CoaddFiles] = {}  # coadds whose redshift file may still come
    expected: dict[str, str] = {}  # redshift file to its coadd
    for file in files:
        while waiting and _last_partner(next(iter(waiting))) < file.uri:
            yield _take(waiting, expected)
        coadd = expected.get(file.uri)
        if coadd is not None:
            waiting[coadd] = replace(waiting[coadd], redshifts=file)
        elif is_coadd(file.uri) or (layout == "flat" and _is_fits(file.uri)):
            waiting[file.uri] = CoaddFiles(file)
            expected |= dict.fromkeys(_partners(file.uri), file.uri)
    while waiting:
        yield _take(waiting, expected)


def _take(waiting: dict[str, CoaddFiles], expected: dict[str, str]) -> CoaddFiles:
    uri = next(iter(waiting))
    for partner in _partners(uri):
        expected.pop(partner, None)
    return waiting.pop(uri)


def _partners(uri: str) -> list[str]:
    """URIs that the redshift file of a coadd may have."""
    if not is_coadd(uri):
        return []
    folder, _, name = uri.rpartition("/")
    stem = _FITS.sub("", name.removeprefix("coadd-"))
    return [f"{folder}/{prefix}{stem}.fits{gz}" for prefix in REDSHIFT_PREFIXES for gz in ("", ".gz")]


def _last_partner(uri: str) -> str:
    return max([uri, *_partners(uri)])


def _is_fits(uri: str) -> bool:
    return _FITS.search(uri) is not None
