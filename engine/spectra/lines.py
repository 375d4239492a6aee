"""Rest-frame lines to mark in reports and to explain what a model saw.

Wavelengths are vacuum [Angstrom].
"""

from typing import Literal, NamedTuple

SDSS = "SDSS table of spectral lines, classic.sdss.org/dr7/algorithms/linestable.html (vacuum)"
NIST = "NIST Atomic Spectra Database, version 5 (vacuum)"
VANDEN_BERK = "Vanden Berk et al. (2001), AJ 122, 549, Table 2 (laboratory, vacuum)"


class Line(NamedTuple):
    """A spectral line: name as printed, vacuum rest wavelength [Angstrom], kind, reference."""

    name: str
    wave_angstrom: float
    kind: Literal["emission", "absorption"]
    reference: str


LINES: tuple[Line, ...] = (
    Line("Ly α", 1215.67, "emission", VANDEN_BERK),
    Line("N V", 1240.14, "emission", VANDEN_BERK),
    Line("Si IV", 1396.76, "emission", VANDEN_BERK),
    Line("C IV", 1549.06, "emission", VANDEN_BERK),
    Line("He II", 1640.42, "emission", VANDEN_BERK),
    Line("C III]", 1908.73, "emission", VANDEN_BERK),
    Line("Mg II", 2798.75, "emission", VANDEN_BERK),
    Line("[Ne V]", 3426.84, "emission", VANDEN_BERK),
    Line("[O II]", 3727.09, "emission", SDSS),
    Line("[O II]", 3729.88, "emission", SDSS),
    Line("[Ne III]", 3869.86, "emission", VANDEN_BERK),
    Line("Ca K", 3934.77, "absorption", SDSS),
    Line("Ca H", 3969.59, "absorption", SDSS),
    Line("H δ", 4102.89, "emission", SDSS),
    Line("G band", 4305.61, "absorption", SDSS),
    Line("H γ", 4341.68, "emission", SDSS),
    Line("[O III]", 4364.44, "emission", SDSS),
    Line("He II", 4687.02, "emission", NIST),
    Line("H β", 4862.68, "emission", SDSS),
    Line("[O III]", 4960.30, "emission", SDSS),
    Line("[O III]", 5008.24, "emission", SDSS),
    Line("Mg b", 5176.63, "absorption", SDSS),
    Line("He I", 5877.25, "emission", NIST),
    Line("Na D", 5895.60, "absorption", SDSS),
    Line("[O I]", 6302.05, "emission", SDSS),
    Line("[N II]", 6549.85, "emission", SDSS),
    Line("H α", 6564.61, "emission", SDSS),
    Line("[N II]", 6585.27, "emission", SDSS),
    Line("[S II]", 6718.29, "emission", SDSS),
    Line("[S II]", 6732.67, "emission", SDSS),
    Line("[Ar III]", 7137.77, "emission", NIST),
    Line("Ca II", 8500.36, "absorption", SDSS),
    Line("Ca II", 8544.44, "absorption", SDSS),
    Line("Ca II", 8664.52, "absorption", SDSS),
    Line("[S III]", 9071.1, "emission", NIST),
    Line("[S III]", 9533.2, "emission", NIST),
)
"""Lines in order of wavelength."""


def lines_within(wave_min_angstrom: float, wave_max_angstrom: float, redshift: float = 0.0) -> list[Line]:
    """Lines whose observed wavelength at `redshift` lies in a window [Angstrom], both ends included."""
    stretch = 1.0 + redshift
    return [line for line in LINES if wave_min_angstrom <= line.wave_angstrom * stretch <= wave_max_angstrom]
