"""The common wavelength grid of DESI coadds, and where the three cameras lie on it.

Vacuum wavelengths [Angstrom]. The cameras share one 0.8 Angstrom grid, so merging them is slicing.
"""

import numpy as np

WAVE_MIN_ANGSTROM = 3600.0
WAVE_STEP_ANGSTROM = 0.8
NUM_PIXELS = 7781
WAVE_OBS = WAVE_MIN_ANGSTROM + WAVE_STEP_ANGSTROM * np.arange(NUM_PIXELS)
"""Pixel centres, 3600 to 9824 Angstrom."""

CAMERA_SLICES = {"b": slice(0, 2751), "r": slice(2700, 5026), "z": slice(4900, 7781)}
"""Pixels of the common grid that each camera covers."""
