"""What every source of spectra gives: the same columns, prepared in the same way."""

from typing import ClassVar

from engine.column import Column
from engine.sources.base import Source
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.spectra.prepare import SpectrumPrep
from engine.stage import PrepareConfig


class SpectrumSource(Source):
    """A release of spectra: one row a spectrum on the common grid."""

    prepare_class: ClassVar[type[PrepareConfig]] = SpectrumPrep
    split_by: ClassVar[str] = "targetid"

    @property
    def staged(self) -> tuple[str, ...]:
        """Who it is, and what scores depend on."""
        return ("targetid", "survey", "program", "z", "spectype", "source_uri", "source_row", "snr", "flags")

    @property
    def columns(self) -> tuple[Column, ...]:
        """`SPECTRUM_COLUMNS`, whatever the file has."""
        return SPECTRUM_COLUMNS
