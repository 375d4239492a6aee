"""Spectra drawn from real template bases: observed coefficients times basis vectors, as redrock has them.

Galaxies and stars come with coefficients of observed objects (ARCHETYPE_COEFF), of which one is drawn a
spectrum.
Quasar bases have none: the first vector is a mean quasar, the others get Gaussian coefficients of
`QSO_SPREAD`. That spread is a choice of ours, not a measurement. Reading the FITS files is in `templates`.
"""

# B = spectra, K = basis vectors, N = observed objects, R = rest-frame pixels, L = observed pixels

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.spectra.grid import NUM_PIXELS
from engine.synthetic.profiles import FloatArray, LogGrid, to_observed

QSO_SPREAD = 0.12
"""Standard deviation of the coefficients of quasar basis vectors 2 to 4 relative to the first, each scaled to
equal rms."""
STAR_SHARES = {"A": 0.08, "F": 0.26, "G": 0.22, "K": 0.2, "M": 0.18, "WD": 0.06}
"""How often each class of stars is drawn."""
COLOUR_WINDOWS = ((3600.0, 3900.0), (5000.0, 5600.0))
"""Rest-frame windows [Angstrom] whose ratio tells red galaxies from blue ones."""


@dataclass(frozen=True)
class Basis:
    """Basis vectors float32 [K, R] on `grid` and coefficients [N, K] of observed objects (N = 0: none)."""

    grid: LogGrid
    vectors: FloatArray
    coefficients: FloatArray


@dataclass(frozen=True)
class Bases:
    """Real bases by redrock's type and subtype, for example "GALAXY", "QSO-LOZ", "STAR-G"."""

    table: Mapping[str, Basis]

    def draw(
        self, target: np.ndarray, z: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, np.ndarray]:
        """Draw spectra for target classes [B] at redshifts [B].

        Returns
        -------
        flux, subtype
            Noiseless spectra [B, L] of arbitrary brightness, never negative, and subtypes [B].
        """
        names = self._choose(target, z, rng)
        flux = np.empty((len(z), NUM_PIXELS), np.float32)
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            basis = self.table[str(name)]
            coefficients = _coefficients(basis, str(name), target[rows], rng)
            rest = np.maximum(coefficients.astype(np.float32) @ basis.vectors, 0.0)
            flux[rows] = to_observed(rest, basis.grid, z[rows])
        return flux, np.array([str(name).partition("-")[2] for name in names], "U20")

    def _choose(self, target: np.ndarray, z: FloatArray, rng: np.random.Generator) -> np.ndarray:
        """Name the basis of each object."""
        star = rng.choice([f"STAR-{name}" for name in STAR_SHARES], len(z), p=list(STAR_SHARES.values()))
        qso = np.where(z < 1.6, "QSO-LOZ", "QSO-HIZ")
        return np.where(target == "STAR", star, np.where(target == "QSO", qso, "GALAXY"))


def _coefficients(basis: Basis, name: str, target: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """Coefficients [B, K]: of an observed object, or Gaussian about the mean quasar."""
    num, size = len(target), len(basis.vectors)
    if len(basis.coefficients) == 0:
        rms = np.sqrt(np.mean(np.square(basis.vectors), axis=1))
        spread = QSO_SPREAD * rms[0] / rms * rng.standard_normal((num, size))
        return np.concatenate([np.ones((num, 1)), spread[:, 1:]], axis=1)
    ranks = rng.uniform(size=num)
    if name == "GALAXY":  # coefficients are sorted from red to blue: see `by_colour`
        ranks = np.where(target == "LRG", 0.35 * ranks, np.where(target == "ELG", 0.6 + 0.4 * ranks, ranks))
    return basis.coefficients[(ranks * len(basis.coefficients)).astype(int)]


def by_colour(basis: Basis) -> Basis:
    """Sort the observed galaxies from red to blue."""
    blue, red = (
        basis.vectors[:, slice(*np.rint(basis.grid.pixel(np.array(window))).astype(int))].mean(axis=1)
        for window in COLOUR_WINDOWS
    )
    colour = (basis.coefficients @ blue) / np.maximum(basis.coefficients @ red, 1e-9)
    return Basis(basis.grid, basis.vectors, basis.coefficients[np.argsort(colour)])
