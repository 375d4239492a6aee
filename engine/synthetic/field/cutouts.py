"""Cutouts straight from the population, without mosaics: what a model is trained on."""

# B = cutouts, S = pixels of a cutout, bands in the order of `BANDS`

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import correlate1d

from engine.storage import Storage
from engine.synthetic.field.artefacts import draw_artefact
from engine.synthetic.field.bands import BANDS, DETECTOR_PIXEL_ARCSEC, GROUPS, FloatArray
from engine.synthetic.field.config import PIXEL_ARCSEC, FieldConfig
from engine.synthetic.field.cosmos import Stamps
from engine.synthetic.field.mosaic import add_patch, draw_light, pixel_error
from engine.synthetic.field.noise import REACH, drizzle_kernel
from engine.synthetic.field.population import draw_sources, galaxy_density, random_places
from engine.synthetic.field.psf import load_psfs
from engine.synthetic.field.render import STAMP_SIZES, Renderer
from engine.synthetic.field.sources import Source

CHUNK = 64
"""Cutouts that share a seed."""
PAD_PX = 32
"""Neighbours are drawn to this far outside of a cutout."""
_CUTOUTS = 1 << 21  # what a stream of random numbers is for


@dataclass(frozen=True, slots=True)
class Cutouts:
    """Cutouts on one pixel grid, nJy/pixel float32 [B, 6, S, S], as staged ones are.

    `mask` bool True = bad (none is). The object in `sources` lies at pixel (S // 2 + `dx`, S // 2 + `dy`),
    offsets in [-0.5, 0.5].
    """

    science: FloatArray
    error: FloatArray
    mask: np.ndarray
    noiseless: FloatArray
    dx: FloatArray
    dy: FloatArray
    pixel_arcsec: float
    sources: tuple[Source, ...]


class CutoutMaker:
    """Makes cutouts of any number, a chunk at a time.

    Parameters
    ----------
    config
        Population, PSFs, anomalies and seed; size and layout of mosaics have no meaning but the pixel scale,
        which is that of the short wavelengths in all bands.
    size_px
        Pixels of a side.
    faintest_mag
        Faintest objects in the middle of a cutout in F200W (AB); neighbours go to `config.faintest_mag`.
    storage
        Where PSFs lie.
    """

    def __init__(
        self,
        config: FieldConfig,
        size_px: int = 96,
        faintest_mag: float = 27.5,
        storage: Storage | None = None,
    ) -> None:
        self.config, self.size_px = config, size_px
        self.pixel_arcsec = PIXEL_ARCSEC[config.layout][0]
        self._stamps = Stamps(config.cosmos_uri) if config.cosmos_uri else None
        self._central = config.model_copy(update={"faintest_mag": faintest_mag})
        self._neighbours = config.model_copy(update={"anomaly_fraction": 0.0})
        psfs = load_psfs(config.psf_uri, storage or Storage())
        channels = [tuple(BANDS.index(name) for name in names) for names in GROUPS]
        largest = next((num for num in STAMP_SIZES if num >= 2 * size_px), STAMP_SIZES[-1])
        self._renderers = [
            Renderer([psfs[band] for band in bands], bands, self.pixel_arcsec, self._stamps, largest)
            for bands in channels
        ]

    def chunk(self, number: int) -> Cutouts:
        """Return the `CHUNK` cutouts of a chunk, the same whenever it is asked for."""
        rng = np.random.default_rng((self.config.seed, _CUTOUTS, number))
        centrals = self._draw_centrals(number, rng)
        scenes = self._draw_scenes(centrals, rng)
        rows = (0, self.size_px)
        light = np.stack(
            [
                np.concatenate([draw_light(scene, r, rows, self.size_px) for r in self._renderers])
                for scene in scenes
            ]
        )
        error = np.stack([pixel_error(light[:, b], b, self.pixel_arcsec) for b in range(len(BANDS))], axis=1)
        science = light + error * self._noise(rng)
        self._add_artefacts(science, centrals)
        offset = np.array([(s.u, s.v) for s in centrals]) / self.pixel_arcsec - 0.5 - self.size_px // 2
        dx, dy = offset.T.astype(np.float32)
        return Cutouts(
            science, error, np.zeros(science.shape, bool), light, dx, dy, self.pixel_arcsec, tuple(centrals)
        )

    def _draw_centrals(self, number: int, rng: np.random.Generator) -> list[Source]:
        """Objects within half a pixel of the middle, galaxies and stars in the shares of the sky."""
        galaxies = galaxy_density(self._central, self._central.faintest_mag)
        num_stars = int(rng.binomial(CHUNK, self.config.star_density / (self.config.star_density + galaxies)))
        corner = np.full(2, self.size_px // 2 * self.pixel_arcsec)
        places = random_places(CHUNK, corner, self.pixel_arcsec, rng)
        stamps = len(self._stamps) if self._stamps else 0
        found = draw_sources(self._central, places, num_stars, rng, number * CHUNK, stamps)
        return [found[i] for i in rng.permutation(CHUNK)]

    def _draw_scenes(self, centrals: Sequence[Source], rng: np.random.Generator) -> list[list[Source]]:
        """Each central object with its neighbours by chance."""
        side = (self.size_px + 2 * PAD_PX) * self.pixel_arcsec
        area = CHUNK * (side / 60.0) ** 2
        num = int(rng.poisson(galaxy_density(self.config, self.config.faintest_mag) * area))
        num_stars = int(rng.poisson(self.config.star_density * area))
        corner = np.full(2, -PAD_PX * self.pixel_arcsec)
        places = random_places(num + num_stars, corner, side, rng)
        stamps = len(self._stamps) if self._stamps else 0
        others = draw_sources(self._neighbours, places, num_stars, rng, 0, stamps)
        scenes = [[central] for central in centrals]
        for place, other in zip(rng.integers(CHUNK, size=len(others)), others, strict=True):
            scenes[int(place)].append(other)
        return scenes

    def _noise(self, rng: np.random.Generator) -> FloatArray:
        """Correlated noise of unit variance [CHUNK, 6, S, S] float32."""
        padded = self.size_px + 2 * REACH
        noise = rng.standard_normal((CHUNK, len(BANDS), padded, padded), dtype=np.float32)
        out = np.empty((CHUNK, len(BANDS), self.size_px, self.size_px), np.float32)
        inner = slice(REACH, REACH + self.size_px)
        for band, detector in enumerate(DETECTOR_PIXEL_ARCSEC):
            kernel = drizzle_kernel(float(detector), self.pixel_arcsec)
            along = correlate1d(noise[:, band], kernel, axis=1)[:, inner]
            out[:, band] = correlate1d(along, kernel, axis=2)[:, :, inner]
        return out

    def _add_artefacts(self, science: FloatArray, centrals: Sequence[Source]) -> None:
        for row, source in enumerate(centrals):
            if source.artefact is not None:
                x, y, patch = draw_artefact(source, self.pixel_arcsec)
                add_patch(science[row, source.artefact.band], patch, x, y)


def training_cutouts(
    num: int,
    config: FieldConfig,
    size_px: int = 96,
    faintest_mag: float = 27.5,
    storage: Storage | None = None,
) -> Iterator[Cutouts]:
    """Yield `num` cutouts in chunks of `CHUNK` (the last one cut); more of them begin with the same ones."""
    maker = CutoutMaker(config, size_px, faintest_mag, storage)
    for number in range(-(-num // CHUNK)):
        yield _first(maker.chunk(number), num - number * CHUNK)


def _first(cutouts: Cutouts, num: int) -> Cutouts:
    """Return the first `num` of the cutouts."""
    names = ("science", "error", "mask", "noiseless", "dx", "dy", "sources")
    return replace(cutouts, **{name: getattr(cutouts, name)[:num] for name in names})
