"""Postage stamps of COSMOS galaxies in the layout of GalSim's `RealGalaxyCatalog`, of any size and anywhere.

A catalogue `real_galaxy_catalog*.fits` names file and HDU of each galaxy's image; `..._fits.fits` beside it may hold
redshifts and Sersic fits. Images are cropped to the middle; smaller ones are a cut. Neither PSF nor noise is
removed. A unit is some rows of a catalogue.

References
----------
Mandelbaum et al. (2012), MNRAS 420, 1518 (the stamps); Rowe et al. (2015), A&C 10, 121 (GalSim).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine.config import Config
from engine.errors import SourceError
from engine.fits import FitsContents, read_hdus
from engine.fitsdata import decoding
from engine.locations import FileInfo
from engine.sources.galaxies import Galaxy, GalaxyConfig, GalaxySource, centre_crop, roles
from engine.stage import Rejection, UnitTable
from engine.units import FileRef, Unit

CATALOGUE, FITS, IMAGES = "catalogue", "fits", "images "
NEEDED = ("IDENT", "GAL_FILENAME", "GAL_HDU", "PIXEL_SCALE")
COLUMNS = (*NEEDED, "RA", "DEC", "MAG")
FIT_COLUMNS = ("IDENT", "ZPHOT", "SERSICFIT", "VIABLE_SERSIC")
FIT_PIXEL_ARCSEC = 0.03
"""Pixel in which the catalogue's Sersic fits count radii."""


class CosmosConfig(GalaxyConfig):
    """What of a catalogue is read."""

    size: int = Field(default=64, ge=8, le=4096)
    """Side of the images [pixel]: what is cropped from the middle of a stamp."""
    catalogue: str = ""
    """Name of the catalogue below the folder; empty: all `real_galaxy_catalog*.fits`."""
    unit_rows: int = Field(default=200, ge=1)
    """Rows of a catalogue in a unit."""


@dataclass(frozen=True)
class CosmosSource(GalaxySource):
    """A folder in GalSim's layout."""

    config: CosmosConfig = field(default_factory=CosmosConfig)
    config_class: ClassVar[type[Config]] = CosmosConfig

    def plan(self) -> Iterator[Unit]:
        """Read the catalogues and yield units in the order of their rows."""
        files = {file.uri.rpartition("/")[2]: file for file in self._storage.list(self.uri, ".fits")}
        for name in filter(self._is_catalogue, files):
            ref = _ref(files[name], CATALOGUE)
            names = self._names(ref)
            fits = files.get(f"{name.removesuffix('.fits')}_fits.fits")
            for start in range(0, len(names), self.config.unit_rows):
                stop = min(start + self.config.unit_rows, len(names))
                there = [file for file in dict.fromkeys(names[start:stop].tolist()) if file in files]
                refs = [ref, *([_ref(fits, FITS)] if fits else [])]
                refs += [_ref(files[file], IMAGES + file) for file in there]
                yield Unit(f"{name.removesuffix('.fits')}-r{start:07d}-{stop:07d}", tuple(refs))

    def _is_catalogue(self, name: str) -> bool:
        if self.config.catalogue:
            return name == self.config.catalogue
        return name.startswith("real_galaxy_catalog") and not name.endswith(("_fits.fits", "_selection.fits"))

    def _names(self, ref: FileRef) -> np.ndarray:
        """Files of images, row by row; of what is no catalogue one row without file, that reading rejects."""
        try:
            table = self._read_table(ref, ("GAL_FILENAME",)).tables.get("HDU1", {})
        except SourceError:
            table = {}
        return table.get("GAL_FILENAME", np.array([""]))

    def _read_table(self, ref: FileRef, columns: tuple[str, ...]) -> FitsContents:
        return read_hdus(self._storage, ref.uri, ref.size, (), {"HDU1": columns})

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read the stamps of some rows."""
        files = roles(unit.files)
        if CATALOGUE not in files:
            return self.unit_table([]), 0
        ref = files[CATALOGUE]
        start, stop = (int(number) for number in unit.key.rpartition("-r")[2].split("-"))
        try:
            contents = self._read_table(ref, COLUMNS)
            rows = {name: values[start:stop] for name, values in _catalogue(contents, ref.uri).items()}
            fits = self._fits(files[FITS]) if FITS in files else {}
        except SourceError as error:
            return self.unit_table([], [self.rejection(error, ref.uri)]), 0
        stamps, used = self._stamps(files, rows)
        galaxies: list[Galaxy] = []
        rejected: list[Rejection] = []
        for at, ident in enumerate(rows["IDENT"].tolist()):
            try:
                with decoding(ref.uri):
                    galaxies.append(self._galaxy(stamps, rows, at, ref.uri, start, fits.get(ident, {})))
            except SourceError as error:
                rejected.append(self.rejection(error, ref.uri, start + at, ident))
        return self.unit_table(galaxies, rejected), used + contents.bytes_used

    def _fits(self, ref: FileRef) -> dict[int, dict[str, float]]:
        with decoding(ref.uri):
            return _fits(self._read_table(ref, FIT_COLUMNS))

    def _galaxy(
        self,
        stamps: dict[str, Any],
        rows: dict[str, np.ndarray],
        at: int,
        uri: str,
        start: int,
        fit: dict[str, float],
    ) -> Galaxy:
        """Galaxy `at` of the rows from `start` on."""
        image = self._image(stamps, str(rows["GAL_FILENAME"][at]), int(rows["GAL_HDU"][at]))
        scale = float(rows["PIXEL_SCALE"][at])
        return Galaxy(int(rows["IDENT"][at]), uri, start + at, image, scale, _facts(rows, at) | fit)

    def _stamps(self, files: dict[str, FileRef], rows: dict[str, np.ndarray]) -> tuple[dict[str, Any], int]:
        """Contents of each file of images, or the error that it gave; bytes used."""
        found: dict[str, Any] = {}
        used = 0
        for name in dict.fromkeys(rows["GAL_FILENAME"].tolist()):
            ref = files.get(IMAGES + name)
            wanted = [_hdu_name(hdu) for hdu in rows["GAL_HDU"][rows["GAL_FILENAME"] == name]]
            try:
                if ref is None:
                    raise SourceError("file of images is not there", name, reason="not_found")
                found[name] = read_hdus(self._storage, ref.uri, ref.size, wanted, {})
                used += found[name].bytes_used
            except SourceError as error:
                found[name] = error
        return found, used

    def _image(self, stamps: dict[str, Any], name: str, hdu: int) -> np.ndarray:
        contents = stamps[name]
        if isinstance(contents, SourceError):
            raise contents
        image = contents.images.get(_hdu_name(hdu))
        if image is None or image.ndim != 2:
            what = f"no image in HDU {hdu}"
            raise SourceError(what, name, f"{len(contents.names)} HDUs", reason="unsupported_layout")
        return centre_crop(image, self.config.size, f"{name}[{hdu}]")[None]


def _ref(file: FileInfo, role: str) -> FileRef:
    return FileRef(file.uri, file.size, file.fingerprint, role)


def _hdu_name(hdu: int) -> str:
    """Name that the FITS reader gives to an HDU without EXTNAME."""
    return f"HDU{hdu}" if hdu else "PRIMARY"


def _catalogue(contents: FitsContents, uri: str) -> dict[str, np.ndarray]:
    table = contents.tables.get("HDU1", {})
    lacking = [name for name in NEEDED if name not in table]
    if lacking:
        what, expected = f"catalogue lacks {', '.join(lacking)}", "columns " + ", ".join(NEEDED)
        raise SourceError(what, uri, ", ".join(table), expected, reason="unsupported_layout")
    return table


def _facts(rows: dict[str, np.ndarray], at: int) -> dict[str, float]:
    names = {"ra": "RA", "dec": "DEC", "magnitude": "MAG"}
    return {name: float(rows[column][at]) for name, column in names.items() if column in rows}


def _fits(contents: FitsContents) -> dict[int, dict[str, float]]:
    """Redshift and Sersic parameters by IDENT. The fit has the radius along the major axis [pixel], n, q, angle [rad]."""
    table = contents.tables.get("HDU1", {})
    known: dict[int, dict[str, float]] = {}
    for at, ident in enumerate(table.get("IDENT", np.empty(0, int)).tolist()):
        facts = known[ident] = {"z": float(table["ZPHOT"][at])} if "ZPHOT" in table else {}
        if "SERSICFIT" in table and bool(table.get("VIABLE_SERSIC", np.ones(at + 1))[at]):
            _, radius, n, ratio, _, _, _, angle = table["SERSICFIT"][at].tolist()
            facts["half_light_radius_arcsec"] = FIT_PIXEL_ARCSEC * radius * math.sqrt(ratio)
            facts |= {"sersic_n": n, "axis_ratio": ratio, "position_angle_deg": math.degrees(angle) % 180}
    return known
