"""How images are contaminated: how many objects of which brightness, which marks, how much noise."""

from typing import Literal

from pydantic import Field, model_validator

from engine.config import Config


class ContaminateConfig(Config):
    """Contaminants of an image: by default 1 to 3 galaxies and stars, as in arXiv:2511.21207, and noise.

    Distances are in half-light radii of the target; brightness of marks is in the median error of the
    channel.
    """

    seed: int = Field(default=1, ge=0)
    """With the key of the row and the epoch, this alone sets what is drawn."""
    empty_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the images whose target is taken away: a denoiser that has never seen empty sky draws on it.
    Contaminants and depth are those that it would have had, its photon noise goes with it."""
    min_sources: int = Field(default=1, ge=0)
    """Fewest galaxies and stars on an image."""
    max_sources: int = Field(default=3, ge=0, le=32)
    """Most galaxies and stars on an image."""
    star_fraction: float = Field(default=0.4, ge=0, le=1)
    """Share of stars among them."""
    brightest_mag_offset: float = Field(default=-1.0, ge=-10, le=10)
    """Magnitude of the brightest contaminants less that of the target, each in its own brightest channel."""
    faintest_mag_offset: float = Field(default=3.0, ge=-10, le=20)
    """The same of the faintest ones; uniform between."""
    size_factor: float = Field(default=1.0, gt=0)
    """Sizes of galaxies in those of `engine.synthetic.field.galaxies`, which are made for magnitudes 19 to
    27: half-light radii of 0.07, 0.17 and 0.5 arcsec (5, 50 and 95 %). At 1, they are points on pictures of
    0.396 arcsec pixels."""
    min_distance: float = Field(default=1.5, ge=1)
    """Nearest that a contaminant's centre, a trail, a hit or an edge comes to the centre of the target."""
    max_centre_share: float = Field(default=0.3, gt=0, le=1)
    """Most light that all galaxies and stars together may put on the target's central pixel, in that of the
    target in its brightest channel; brighter ones are dimmed."""
    trail_probability: float = Field(default=0.05, ge=0, le=1)
    """Of a straight trail (satellite, aircraft) in one channel."""
    trail_sigma: tuple[float, float] = (2.0, 20.0)
    """Faintest and brightest ridge of a trail; log-uniform between."""
    trail_fwhm_px: float = Field(default=4.0, gt=0)
    """Width of a trail."""
    mask_trails: bool = False
    """Whether the mask knows of trails (pixels within 1 FWHM of the ridge)."""
    hits_per_channel: float = Field(default=0.3, ge=0, le=100)
    """Mean number of cosmic-ray hits in a channel."""
    hit_sigma: float = Field(default=30.0, gt=0)
    """Median charge that a hit leaves in a pixel; it scatters by a factor of 2.7."""
    masked_hits: float = Field(default=0.8, ge=0, le=1)
    """Share of the hits that the mask knows of."""
    edge_probability: float = Field(default=0.05, ge=0, le=1)
    """Of an edge of the data, beyond which all channels are masked."""
    noise: Literal["error", "none"] = "error"
    """error: normal noise of the error map, correlated where the optics say so. none: the clean image has
    it."""
    snr: tuple[float, ...] = ()
    """S/N of the target within its half-light radius, in its brightest channel, without the photons of contaminants:
    error maps are scaled to it. Pixels count as independent; where noise is correlated, the true S/N is lower (NIRCam on
    0.03 arcsec, 0.3 arcsec radius: by 1.5 in the short, 2.4 in the long wavelengths). Empty: error maps as they are. One value, or two: log-uniform between."""
    saturates_at: float = Field(default=0.0, ge=0)
    """Images are clipped to [0, this], as colour images in [0, 1] are; 0: never."""

    @model_validator(mode="after")
    def _check_pairs(self) -> "ContaminateConfig":
        if self.min_sources > self.max_sources:
            raise ValueError(
                f"min_sources is {self.min_sources}, must be at most max_sources = {self.max_sources}"
            )
        if self.brightest_mag_offset > self.faintest_mag_offset:
            raise ValueError(
                f"brightest_mag_offset is {self.brightest_mag_offset}, must be at most "
                f"faintest_mag_offset = {self.faintest_mag_offset}"
            )
        for name, values in (("trail_sigma", self.trail_sigma), ("snr", self.snr)):
            if len(values) > 2 or any(v <= 0 for v in values) or list(values) != sorted(values):
                raise ValueError(f"{name} is {values}, must be positive and rising, two values at most")
        return self
