"""Sets of galaxy images in FITS cubes: IMAGES [N, S, S] or [N, C, S, S], and a table PARAMETERS, row by row the same.

The layout of the synthetic Sersic set and of any set written by `engine.synthetic.sersic.write_cube`. The table may
have OBJECT_ID and the columns of `engine.images.galaxies.FACTS` in capitals, or not be there. A unit is a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from pydantic import Field

from engine.config import Config
from engine.errors import SourceError
from engine.fits import FitsContents, read_hdus
from engine.fitsdata import decoding
from engine.sources.galaxies import FACT_NAMES, Galaxy, GalaxyConfig, GalaxySource, id_of
from engine.stage import UnitTable
from engine.units import FileRef, Unit

IMAGES, PARAMETERS, OBJECT_ID = "IMAGES", "PARAMETERS", "OBJECT_ID"
_COLUMNS = {name: name.upper() for name in FACT_NAMES}


class CubesConfig(GalaxyConfig):
    """What of a set is read."""

    channels: int = Field(default=1, ge=1)
    """Channels of an image."""


@dataclass(frozen=True)
class CubesSource(GalaxySource):
    """A folder tree of `*.fits` with cubes of images."""

    config: CubesConfig = field(default_factory=CubesConfig)
    config_class: ClassVar[type[Config]] = CubesConfig

    @property
    def channels(self) -> int:
        """Channels that are set."""
        return self.config.channels

    def plan(self) -> Iterator[Unit]:
        """List lazily: one unit a file, in order of URIs."""
        for file in self._storage.list(self.uri, ".fits"):
            key = file.uri.removeprefix(self.uri.rstrip("/") + "/").removesuffix(".fits")
            yield Unit(key.replace("/", "-"), (FileRef(file.uri, file.size, file.fingerprint),))

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Read a cube."""
        ref = unit.file("data")
        if ref is None:
            return self.unit_table([]), 0
        try:
            wanted = {PARAMETERS: (OBJECT_ID, *_COLUMNS.values())}
            contents = read_hdus(self._storage, ref.uri, ref.size, (IMAGES,), wanted)
            with decoding(ref.uri):
                galaxies = list(self._galaxies(contents, self._images(contents, ref.uri), ref.uri))
        except SourceError as error:
            return self.unit_table([], [self.rejection(error, ref.uri)]), 0
        return self.unit_table(galaxies), contents.bytes_used

    def _images(self, contents: FitsContents, uri: str) -> np.ndarray:
        """Images [N, C, S, S], in step with the table if there is one."""
        cube = contents.images.get(IMAGES)
        if cube is None or cube.ndim not in (3, 4):
            got = ", ".join(contents.names) if cube is None else f"{cube.ndim} axes"
            what, expected = "no cube of images", "image IMAGES with 3 or 4 axes"
            raise SourceError(what, uri, got, expected, reason="unsupported_layout")
        for name, values in contents.tables.get(PARAMETERS, {}).items():
            if len(values) != len(cube):
                what, got = f"{PARAMETERS} and {IMAGES} differ in length", f"{len(values)} {name}"
                raise SourceError(what, uri, got, str(len(cube)), reason="unsupported_layout")
        return cube[:, None] if cube.ndim == 3 else cube

    def _galaxies(self, contents: FitsContents, images: np.ndarray, uri: str) -> Iterator[Galaxy]:
        table = contents.tables.get(PARAMETERS, {})
        ids = table.get(OBJECT_ID)
        scale = contents.cards(IMAGES).get("PIXSCALE")
        scale = float(scale) if isinstance(scale, float | int) else np.nan
        for row, image in enumerate(images):
            facts = {name: float(table[key][row]) for name, key in _COLUMNS.items() if key in table}
            object_id = id_of_row(uri, row) if ids is None else int(ids[row])
            yield Galaxy(object_id, uri, row, image, scale, facts)


def id_of_row(uri: str, row: int) -> int:
    """Return the identifier of a row of a file without OBJECT_ID: that of the file and the row in one int64."""
    return (id_of(uri.rpartition("/")[2]) & 0xFFFFFFFF) << 31 | row
