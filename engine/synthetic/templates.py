"""Read redrock's template files into `engine.synthetic.bases`.

Files are `rrtemplate-*.fits`: BASIS_VECTORS on a grid given by CRVAL1, CDELT1 and LOGLAM, and for most types
ARCHETYPE_COEFF, the coefficients of observed objects (desihub/redrock-templates).
"""

# K = basis vectors, N = observed objects, R = rest-frame pixels

import io
from typing import Any

import numpy as np
from astropy.io import fits

from engine.errors import ConfigError
from engine.storage import Storage
from engine.synthetic.bases import STAR_SHARES, Bases, Basis, by_colour
from engine.synthetic.profiles import LogGrid

COVERAGE = {"GALAXY": (1250.0, 9950.0), "QSO-LOZ": (1340.0, 9950.0), "QSO-HIZ": (600.0, 4450.0)} | {
    f"STAR-{name}": (3500.0, 9960.0) for name in STAR_SHARES
}
"""Rest wavelengths [Angstrom] that are kept. CV is not drawn: it has no coefficients, too few vectors."""


def load_bases(uri: str, storage: Storage) -> Bases:
    """Read all usable templates of a folder.

    Raises
    ------
    ConfigError
        If a type that the population needs is not there.
    """
    table: dict[str, Basis] = {}
    for file in storage.list(uri, ".fits"):
        if "rrtemplate-" not in file.uri:
            continue
        name, basis = _read(storage.read(file.uri))
        if name in COVERAGE:
            table[name] = by_colour(basis) if name == "GALAXY" else basis
    missing = sorted(set(COVERAGE) - set(table))
    if missing:
        raise ConfigError(
            f"no template of {', '.join(missing)}",
            uri,
            expected="rrtemplate-*.fits of desihub/redrock-templates, galaxies as PCA with ARCHETYPE_COEFF",
            hint="Set bases_fraction = 0 to do without.",
        )
    return Bases(table)


def _read(data: bytes) -> tuple[str, Basis]:
    with fits.open(io.BytesIO(data)) as hdus:
        header, vectors = _image(hdus[0])
        coefficients = np.empty((0, len(vectors)))
        if "ARCHETYPE_COEFF" in hdus:
            coefficients = _image(hdus["ARCHETYPE_COEFF"])[1]
    name = "-".join(part for part in (str(header["RRTYPE"]), str(header.get("RRSUBTYP", ""))) if part)
    wave = header["CRVAL1"] + header["CDELT1"] * np.arange(vectors.shape[1])
    wave = 10.0**wave if header.get("LOGLAM", 0) else wave
    grid = LogGrid(*COVERAGE.get(name, (wave[0], wave[-1])))
    return name, Basis(grid, _rebin(vectors, wave, grid), coefficients)


def _image(hdu: Any) -> tuple[fits.Header, np.ndarray]:
    return hdu.header, np.asarray(hdu.data, np.float64)


def _rebin(vectors: np.ndarray, wave: np.ndarray, grid: LogGrid) -> np.ndarray:
    """Mean of vectors [K, n] over the pixels of a grid, float32 [K, R]; finer input than output or not."""
    middle = grid.wave
    edges = np.sqrt(middle[1:] * middle[:-1])
    edges = np.concatenate([[2 * middle[0] - edges[0]], edges, [2 * middle[-1] - edges[-1]]])
    step = np.diff(wave)
    out = []
    for vector in vectors:
        integral = np.concatenate([[0.0], np.cumsum(0.5 * (vector[1:] + vector[:-1]) * step)])
        out.append(np.diff(np.interp(edges, wave, integral)) / np.diff(edges))
    return np.array(out, np.float32)
