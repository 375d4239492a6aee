"""Properties of spectra that a catalogue does not have, measured for a sample: what tracks are drawn along."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from engine.spectra.measure import (
    BROAD_H_BETA,
    H_ALPHA,
    OII,
    colour_temperature,
    equivalent_width,
    line_width,
)

MIN_SNR = 2.0
"""Median signal-to-noise per pixel of spectra that are measured."""
SLICE_WIDTH = 0.12
"""Width of a slice in redshift, over 1 + z: in the observed frame objects of a track must show the same wavelengths at rest."""


@dataclass(frozen=True)
class SpectralProperty:
    """A property and how it is measured.

    Parameters
    ----------
    name, title, unit
        For tables and for people.
    spectype
        Class that has it.
    at_rest
        Whether objects of the class are at redshift 0.
    zoom
        Rest-frame wavelengths [Angstrom] where it shows.
    measure
        `(wave, flux, ivar) -> values`: rest-frame wavelengths [B, L] [Angstrom], and NaN where it cannot be measured.
    """

    name: str
    title: str
    unit: str
    spectype: str
    at_rest: bool
    zoom: tuple[float, float]
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


PROPERTIES = (
    SpectralProperty("oii_ew", "[O II] equivalent width", "Angstrom", "GALAXY", False, (3550.0, 4150.0),
                     partial(equivalent_width, windows=OII)),
    SpectralProperty("h_alpha_ew", "H α + [N II] equivalent width", "Angstrom", "GALAXY", False, (6350.0, 6800.0),
                     partial(equivalent_width, windows=H_ALPHA)),
    SpectralProperty("h_beta_width", "width of broad H β", "km / s", "QSO", False, (4600.0, 5150.0),
                     partial(line_width, windows=BROAD_H_BETA)),
    SpectralProperty("temperature", "stellar colour temperature", "K", "STAR", True, (3700.0, 5300.0),
                     colour_temperature),
)  # fmt: skip


def densest_slice(redshift: np.ndarray) -> tuple[float, np.ndarray]:
    """Find the slice of redshift with the most objects.

    Parameters
    ----------
    redshift
        [N], N at least 1, above -1.

    Returns
    -------
    centre, chosen
        Redshift in the middle, and which objects are inside, bool [N].
    """
    scaled = np.log1p(redshift)
    ordered = np.sort(scaled)
    inside = np.searchsorted(ordered, ordered + SLICE_WIDTH, "right") - np.arange(len(ordered))
    low = ordered[int(inside.argmax())]
    return float(np.expm1(low + SLICE_WIDTH / 2)), (scaled >= low) & (scaled <= low + SLICE_WIDTH)
