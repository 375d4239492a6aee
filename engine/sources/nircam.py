"""NIRCam mosaics: a unit is a strip of sky in all its bands, a row is a source with its cutouts.

The common grid is that of one band (`reference_band`). Sources are those of a catalogue, or detected.

A fault of any file that a strip needs (damage, no WCS, no unit) rejects every source of the strip that is known,
else the file; a band without file is a flag, or a rejection if `require_all_bands`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from engine.config import Config
from engine.errors import SourceError
from engine.schema import empty_table
from engine.sources.images import ImageSource
from engine.sources.nircam_config import NircamConfig
from engine.sources.nircam_plan import check_settings, plan_mosaics
from engine.sources.nircam_strip import Strip
from engine.stage import UnitTable, rejected_table
from engine.units import Unit


@dataclass(frozen=True)
class NircamSource(ImageSource):
    """A folder tree of `*_i2d.fits` or `*-clear_drc_sci.fits` mosaics, one strip of sky a unit."""

    config: NircamConfig = field(default_factory=NircamConfig)
    config_class: ClassVar[type[Config]] = NircamConfig

    def plan(self) -> Iterator[Unit]:
        """List the mosaics, read the header of one band a field, and cut the field into strips."""
        check_settings(self.config)
        yield from plan_mosaics(self.uri, self.config, self._storage)

    def _read(self, unit: Unit) -> tuple[UnitTable, int]:
        """Cut out the sources of a strip."""
        if not unit.files:
            return UnitTable(empty_table(self.columns), rejected_table([]), 0), 0
        strip = Strip(unit, self.config, self._storage)
        try:
            table = strip.read()
        except SourceError as error:
            table = strip.reject(error)
        return table, strip.used
