"""List a DESI release and group its files into units, lazily."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from engine.errors import ConfigError
from engine.sources.desi_config import DesiConfig
from engine.sources.desi_layout import (
    LAYOUT_FOLDERS,
    CoaddFiles,
    Identity,
    Layout,
    coadd_path,
    identify,
    pair,
    pixel_folder,
)
from engine.storage import FileInfo, Storage, canonical
from engine.units import FileRef, Unit

FEW_FILES = 500
"""Up to so many expected files their folders are listed one by one, beyond it the whole release."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layout's files are: `root` is the production, `inside` that uri points below it."""

    layout: Layout
    root: str
    inside: bool = False


def plan_release(uri: str, config: DesiConfig, storage: Storage) -> Iterator[Unit]:
    """Yield one unit a coadd, with its redshift file, in order of URIs; missing files come last.

    Raises
    ------
    ConfigError
        If the selection means nothing in the layout, or the index cannot be understood.
    """
    place = find_place(canonical(uri), config, storage)
    _check_selection(place, config)
    if config.index_uri:
        yield from _plan_index(place, config, storage)
        return
    for found in _listed(_prefixes(place, config), place, storage):
        if _selected(found.coadd.uri, config):
            yield _unit(found)


def find_place(uri: str, config: DesiConfig, storage: Storage) -> _Place:
    """Find out how the folders are arranged: as configured, or by looking which one has files."""
    if config.layout != "auto":
        return _Place(config.layout, uri)
    for layout, folder in LAYOUT_FOLDERS.items():
        if folder and f"/{folder}/" in f"{uri.rstrip('/')}/":
            return _Place(layout, uri, inside=True)
        if folder and next(storage.list(storage.join(uri, folder)), None):
            return _Place(layout, uri)
    return _Place("flat", uri)


def _check_selection(place: _Place, config: DesiConfig) -> None:
    grouped = place.layout in ("healpix", "uniqpix")
    wrong = [name for name in ("surveys", "programs", "pixels") if getattr(config, name) and not grouped]
    wrong += ["tiles"] if config.tiles and place.layout != "tiles" else []
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} cannot select files", place.root, got=f"layout '{place.layout}'",
            expected="surveys, programs, pixels with healpix or uniqpix; tiles with tiles",
            hint="Leave it out, or correct release.uri or layout.",
        )  # fmt: skip
    if config.pixels and not (config.surveys and config.programs):
        raise ConfigError("pixels are given without surveys and programs", place.root, hint="Give all three.")


def _prefixes(place: _Place, config: DesiConfig) -> list[str]:
    """Folders to list, sorted, as few as the selection allows."""
    folder = LAYOUT_FOLDERS[place.layout]
    pairs = [(survey, program) for survey in config.surveys for program in config.programs]
    if place.inside or not folder:
        return [place.root]
    if config.pixels:
        below = [pixel_folder(place.layout, *names, pixel) for names in pairs for pixel in config.pixels]
    elif pairs:
        below = [f"{folder}/{survey}/{program}" for survey, program in pairs]
    elif config.surveys or config.tiles:
        below = [f"{folder}/{name}" for name in (*config.surveys, *config.tiles)]
    else:
        below = [folder]
    return sorted({Storage.join(place.root, path) for path in below})


def _listed(prefixes: list[str], place: _Place, storage: Storage) -> Iterator[CoaddFiles]:
    for prefix in prefixes:
        yield from pair(storage.list(prefix), place.layout)


def _selected(uri: str, config: DesiConfig) -> bool:
    said = identify(uri)
    wanted = (
        (config.surveys, said.survey),
        (config.programs, said.program),
        (config.pixels, said.pixel),
        (config.tiles, said.tileid),
    )
    return all(not chosen or value in chosen for chosen, value in wanted)


def _unit(found: CoaddFiles) -> Unit:
    files = [_ref(found.coadd, "coadd")]
    files += [_ref(found.redshifts, "redrock")] if found.redshifts else []
    return Unit(identify(found.coadd.uri).key, tuple(files))


def _ref(file: FileInfo, role: str) -> FileRef:
    return FileRef(file.uri, file.size, file.fingerprint, role)


def _plan_index(place: _Place, config: DesiConfig, storage: Storage) -> Iterator[Unit]:
    expected = {uri: identify(uri) for uri in _read_index(place, config, storage) if _selected(uri, config)}
    if len(expected) <= FEW_FILES:
        prefixes = sorted({uri.rpartition("/")[0] for uri in expected})
    else:
        prefixes = _prefixes(place, config)
    seen: set[str] = set()
    for found in _listed(prefixes, place, storage):
        if found.coadd.uri in expected and found.coadd.uri not in seen:
            seen.add(found.coadd.uri)
            yield _unit(found)
    for uri in sorted(expected.keys() - seen):
        yield _missing_unit(uri, expected[uri])


def _missing_unit(uri: str, said: Identity) -> Unit:
    return Unit(said.key, (), missing=(uri,))


def _read_index(place: _Place, config: DesiConfig, storage: Storage) -> list[str]:
    data = storage.read(config.index_uri)
    if data.startswith((b"SIMPLE  =", b"\x1f\x8b")):
        return _fits_index(data, place, config)
    try:
        lines = [line.split("#")[0].strip() for line in data.decode().splitlines()]
    except UnicodeDecodeError:
        raise ConfigError("index is neither text nor a FITS table", config.index_uri) from None
    return [canonical(line if "://" in line else Storage.join(place.root, line)) for line in lines if line]


def _fits_index(data: bytes, place: _Place, config: DesiConfig) -> list[str]:
    try:
        table = Table.read(io.BytesIO(data), format="fits")
    except (OSError, ValueError) as error:
        raise ConfigError("index cannot be read", config.index_uri, str(error)) from None
    column = next((name for name in ("UNIQPIX", "HEALPIX") if name in table.colnames), "")
    if not column or not {"SURVEY", "PROGRAM"} <= set(table.colnames):
        raise ConfigError(
            "index lacks columns", config.index_uri, got=", ".join(table.colnames),
            expected="SURVEY, PROGRAM and HEALPIX or UNIQPIX",
        )  # fmt: skip
    names = (np.char.strip(np.asarray(table[name]).astype(str)) for name in ("SURVEY", "PROGRAM", column))
    cells = {(str(survey), str(program), int(pixel)) for survey, program, pixel in zip(*names, strict=True)}
    layout: Layout = "uniqpix" if column == "UNIQPIX" else "healpix"
    return [canonical(Storage.join(place.root, coadd_path(layout, *cell))) for cell in sorted(cells)]
