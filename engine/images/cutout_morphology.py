"""Morphology of the source in the middle of a cutout: neighbours and bad pixels are left out, the error map weighs.

Images in nJy have a noise that no gain tells (`engine.images.morphology` measures images without an error map), and the
largest thing on a cutout need not be its source.

References
----------
Rodriguez-Gomez et al. (2019), MNRAS 483, 4140: statmorph. Bertin & Arnouts (1996), A&AS 117, 393: deblending.
"""

# S = pixels a side

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import sep
from pydantic import Field
from scipy.ndimage import uniform_filter

from engine.column import Column
from engine.config import Config
from engine.images.bands import BANDS, Band
from engine.images.columns import DX, DY, pixel_columns
from engine.images.morphology import MORPHOLOGY, attempted, collected, fitted, with_measures
from engine.schema import Arrays, matrix
from engine.stage import Resources, UnitTable

SOURCE, OTHER = 1, 2
"""Values of a map of segments; 0 is the sky."""


class CutoutMorphologyConfig(Config):
    """Which of a source's cutouts are measured, and what on them is the source."""

    image: Literal["science", "denoised"] = "science"
    """As measured, or as a denoiser of `upstream` cleans them: its faint halos pass for sky, so measure as they are."""
    band: Band = "f444w"
    """The band."""
    nsigma: float = Field(default=2.0, gt=0)
    """Threshold of a segment in units of the error map. Images are not filtered before: noise of neighbouring pixels is alike
    on drizzled mosaics, and a filter makes sources of it, two on a cutout of 64 pixels instead of one on ten."""
    npixels: int = Field(default=10, ge=1)
    """Fewest pixels of a segment."""
    deblend_contrast: float = Field(default=0.02, ge=0, le=1)
    """Share of the flux from which a branch is a segment of its own."""
    smooth_px: int = Field(default=5, ge=1)
    """Side of the square over which the source's segment is averaged; more than half belongs to it."""
    reach_px: float = Field(default=3.0, ge=0)
    """Farthest that a segment may lie from the place of the source."""

    def stage(self, size: int) -> "MeasureCutouts":
        """Return the stage that measures cutouts of `size` pixels a side."""
        return MeasureCutouts(size, self)


class Cutout(NamedTuple):
    """One band of a source: science, error [nJy] and mask (True: bad) [S, S], and its place, counted from pixel 0."""

    science: np.ndarray
    error: np.ndarray
    mask: np.ndarray
    x: float
    y: float


def measure_cutouts(cutouts: Iterable[Cutout], config: CutoutMorphologyConfig) -> Arrays:
    """Measure cutouts one after the other, about 0.3 s of a core each at 64 pixels.

    Pixels that are masked, not finite or without an error take no part; nor do those of neighbours.

    Returns
    -------
    dict of numpy.ndarray
        Values of `engine.images.morphology.MEASURES` by name, as `measure` there gives them. A source without a segment is
        not detected.
    """
    return collected(measure_segment(one, find_segments(one, config)) for one in cutouts)


def measure_segment(cutout: Cutout, segments: np.ndarray | None) -> dict[str, float]:
    """Measure the source of a map of `find_segments`; not detected without one."""
    if segments is None:
        return attempted(lambda: None)
    science, error, mask = usable(cutout)
    return attempted(lambda: fitted(science, segments, weightmap=error, mask=mask))


def find_segments(
    cutout: Cutout, config: CutoutMorphologyConfig, source: np.ndarray | None = None
) -> np.ndarray | None:
    """Divide a cutout into its source (1), other objects (2) and sky (0), int64 [S, S]; None if there is no source.

    Parameters
    ----------
    cutout
        The cutout.
    config
        Settings.
    source
        Pixels of the source, bool [S, S], where they are known; others are looked for around them.
    """
    labels = _labels(cutout, config)
    own = _label_at(labels, cutout.x, cutout.y, config.reach_px)
    if source is None and own:
        source = _smoothed(labels, own, config.smooth_px)
    if source is None:
        return None
    others = (labels > 0) & (labels != own)
    return np.where(source, SOURCE, np.where(others, OTHER, 0)).astype(np.int64)


def usable(cutout: Cutout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Science, error (0 where a pixel is not usable) float64 and mask [S, S]."""
    good = ~cutout.mask & np.isfinite(cutout.science) & np.isfinite(cutout.error) & (cutout.error > 0)
    science, error = (np.where(good, part, 0).astype(np.float64) for part in cutout[:2])
    return science, error, ~good


def _labels(cutout: Cutout, config: CutoutMorphologyConfig) -> np.ndarray:
    """Objects of the cutout, numbered from 1, int [S, S]."""
    science, error, mask = usable(cutout)
    if mask.all():
        return np.zeros(mask.shape, int)
    error[mask] = np.median(error[~mask])
    _, labels = sep.extract(
        science.astype(np.float32), config.nsigma, err=error.astype(np.float32), mask=mask, minarea=config.npixels,
        filter_kernel=None, deblend_cont=config.deblend_contrast, segmentation_map=True,
    )  # fmt: skip
    return labels


def _label_at(labels: np.ndarray, x: float, y: float, reach: float) -> int:
    """Return the number of the object at a place, or of the nearest within reach; 0: none."""
    rows, columns = np.nonzero(labels)
    distance = np.hypot(columns - round(x), rows - round(y))
    if not len(distance) or distance.min() > reach:
        return 0
    nearest = int(distance.argmin())
    return int(labels[rows[nearest], columns[nearest]])


def _smoothed(labels: np.ndarray, own: int, side: int) -> np.ndarray:
    """Pixels of an object without ragged edges; as they are where the object is too small for that."""
    mine = labels == own
    smooth = uniform_filter(mine.astype(np.float64), side) > 0.5
    smooth &= mine | (labels == 0)
    return smooth if smooth.any() else mine


@dataclass(frozen=True)
class MeasureCutouts:
    """Stage: adds `MORPHOLOGY` of one band to rows of cutouts.

    Parameters
    ----------
    size
        Pixels a side.
    config
        What is measured.
    """

    size: int
    config: CutoutMorphologyConfig = field(default_factory=CutoutMorphologyConfig)
    resources: Resources = field(default_factory=Resources)

    @property
    def name(self) -> str:
        """Short name for logs."""
        return "morphology"

    @property
    def requires(self) -> tuple[Column, ...]:
        """The images, their noise and bad pixels, and where the source is."""
        science, error, mask = pixel_columns(self.size)
        return (replace(science, name=self.config.image), error, mask, DX, DY)

    @property
    def provides(self) -> tuple[Column, ...]:
        """Columns `MORPHOLOGY`."""
        return MORPHOLOGY

    def open(self) -> Callable[[UnitTable], UnitTable]:
        """Return the function; there is nothing to load."""
        return self._apply

    def _apply(self, table: UnitTable) -> UnitTable:
        return with_measures(table, measure_cutouts(self._cutouts(table), self.config))

    def _cutouts(self, table: UnitTable) -> Iterable[Cutout]:
        shape = (-1, len(BANDS), self.size, self.size)
        band, middle = BANDS.index(self.config.band), self.size // 2
        names = (self.config.image, "error", "mask")
        planes = [matrix(table.rows, name).reshape(shape)[:, band] for name in names]
        places = [middle + table.rows[column.name].to_numpy() for column in (DX, DY)]
        return (Cutout(*one) for one in zip(*planes, *places, strict=True))
