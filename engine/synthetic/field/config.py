"""What a synthetic NIRCam field consists of: its configuration, its files, and the columns of its truth."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from engine.column import Column
from engine.config import Config

Anomaly = Literal[
    "merger", "band_swap", "ero", "dropout", "lens", "snowball", "wisp", "bad_column"
]  # fmt: skip
KINDS: tuple[str, ...] = (
    "merger", "band_swap", "ero", "dropout", "lens", "snowball", "wisp", "bad_column"
)  # fmt: skip
"""Kinds of injected anomalies; the last three are of the detector and in one band only."""
ARTEFACTS: tuple[str, ...] = ("snowball", "wisp", "bad_column")
PIXEL_ARCSEC: dict[str, tuple[float, float]] = {"stsci": (0.03, 0.03), "dja": (0.02, 0.04)}
"""Pixel scales of short and long wavelengths by layout."""
MAX_DISK_BULGE, MIN_SPHEROID_BULGE = 0.4, 0.6
Z_RANGE = (0.05, 11.0)
"""Redshifts that galaxies may have."""
MAX_FIELDS = 1 << 16
STRIP_PIXELS = 3 << 20
"""Pixels of a strip, so that memory does not depend on the width of the mosaic."""
LEAST_ROWS = 64

TRUTH_COLUMNS: tuple[Column, ...] = (
    Column("field", "string", "Field the object lies in"),
    Column("object_id", "int64", "Identifier, unique in the field", ucd="meta.id;meta.main"),
    Column("ra", "float64", "Right ascension, ICRS", "deg", ucd="pos.eq.ra;meta.main"),
    Column("dec", "float64", "Declination, ICRS", "deg", ucd="pos.eq.dec;meta.main"),
    Column("x", "float64", "0-based pixel on the grid of the short wavelengths", "pixel"),
    Column("y", "float64", "0-based pixel on the grid of the short wavelengths", "pixel"),
    Column("kind", "string", "galaxy, star, or the class of an anomaly that is neither"),
    Column("anomaly", "string", "Kind of the injected anomaly, null if none", nullable=True),
    Column("anomaly_band", "string", "Band of a detector artefact, null if none", nullable=True),
    Column("strength", "float32", "Strength of the anomaly in the unit of its kind, 0 if none"),
    Column("z", "float64", "Redshift, null for stars", nullable=True, ucd="src.redshift"),
    Column("flux", "float32", "Flux in the six bands without artefacts", "nJy", length=6),
    Column("mag", "float32", "AB magnitude in the six bands; NaN where there is no flux", "mag", length=6),
    Column("half_light_radius", "float32", "Circularised, in F200W, without PSF; 0 for points", "arcsec"),
    Column("sersic_index", "float32", "Of the brightest profile in F200W; 0 for points"),
    Column("bulge_fraction", "float32", "Share of the bulge in the light in F200W; null if not made of bulge and disk",
           nullable=True),
    Column("morphology", "string", f"disk (bulge_fraction below {MAX_DISK_BULGE}), spheroid (above "
           f"{MIN_SPHEROID_BULGE}), irregular (a merger); null if none of them", nullable=True),
    Column("axis_ratio", "float32", "Minor over major axis of the brightest profile; 1 for points"),
    Column("angle", "float32", "Major axis of the brightest profile, from +x to +y of the mosaic", "deg"),
    Column("num_parts", "int32", "Profiles, clumps and tail pieces that the object was drawn from"),
)  # fmt: skip
"""One row an object whose centre lies in the mosaic; key (field, object_id)."""


class FieldConfig(Config):
    """Size, content and layout of synthetic NIRCam mosaics."""

    num_fields: int = Field(default=1, ge=1, le=MAX_FIELDS)
    """Fields, each a set of six mosaics in a folder of its own."""
    field: str = Field(default="nircam", pattern=r"^[a-z][a-z0-9]*$")
    """Name of the fields before their number, which counts from 1."""
    seed: int = Field(default=1, ge=0)
    """The same seed gives the same mosaics, however they are divided into strips and tasks."""
    layout: Literal["stsci", "dja"] = "stsci"
    """`stsci`: one i2d file a band on one 0.03 arcsec grid; `dja`: sci and wht files, SW 0.02, LW 0.04 arcsec."""
    width_px: int = Field(default=2048, ge=64, le=1 << 18)
    """Columns of the mosaics of the short wavelengths."""
    height_px: int = Field(default=2048, ge=64, le=1 << 18)
    """Rows of the mosaics of the short wavelengths."""
    ra_deg: float = Field(default=214.85, ge=0, lt=360)
    """Centre of the first field; others follow to the east."""
    dec_deg: float = Field(default=52.82, gt=-85, lt=85)
    """Centre of all fields."""
    position_angle_deg: float = Field(default=49.7, ge=-360, le=360)
    """Angle of +y of the mosaics, east of north."""
    density_factor: float = Field(default=1.0, gt=0, le=20)
    """Galaxies relative to the real sky (about 400 a square arcminute to magnitude 29)."""
    spacing_px: int = Field(default=0, ge=0)
    """Put one galaxy in the middle of each square of so many pixels, and no stars: single objects to learn from. 0:
    at random, as densely as the sky has them."""
    old_fraction: float | None = Field(default=None, ge=0, le=1)
    """Share of old galaxies, which have the larger bulges; none: as in the sky, where they are rare."""
    noise: bool = True
    """Whether SCI has noise; ERR is the same without it: light as it is, to be contaminated while a model trains."""
    star_density: float = Field(default=5.0, ge=0)
    """Stars a square arcminute, magnitudes 18 to 28 in F200W."""
    faintest_mag: float = Field(default=29.5, gt=20, le=32)
    """Faintest galaxies in F200W (AB)."""
    z_min: float = Field(default=Z_RANGE[0], ge=Z_RANGE[0], le=Z_RANGE[1])
    """Least redshift of normal galaxies, and of mergers where `redshifts` is uniform; other anomalies have their own."""
    z_max: float = Field(default=Z_RANGE[1], ge=Z_RANGE[0], le=Z_RANGE[1])
    """Largest redshift of the same."""
    redshifts: Literal["sky", "uniform"] = "sky"
    """How they are spread between them. sky: as surveys find galaxies of their magnitude; at 26 one in a hundred lies
    beyond 4. uniform: at all redshifts alike, to learn from; magnitudes and sizes do not follow."""
    anomaly_fraction: float = Field(default=0.03, ge=0, le=1)
    """Share of the objects that are made into anomalies, bright enough to be found; kinds are equally likely."""
    anomaly_kinds: tuple[Anomaly, ...] = KINDS  # pyright: ignore[reportAssignmentType]
    """Kinds to inject."""
    psf_uri: str = ""
    """Folder of WebbPSF files, one a band with its name in the file's; empty: computed from the pupil."""
    cosmos_uri: str = ""
    """Local folder with a GalSim `RealGalaxyCatalog` for `cosmos_fraction` of the galaxies; empty: none."""
    cosmos_fraction: float = Field(default=0.3, ge=0, le=1)
    """Share of the normal galaxies beyond magnitude 24 that look like a COSMOS galaxy; needs `cosmos_uri`."""
    uncovered_px: int = Field(default=0, ge=0)
    """Width of the frame without data, on the grid of the short wavelengths; half of it in the long ones."""
    fill: Literal["nan", "zero"] = "nan"
    """Value of SCI and ERR without coverage in `stsci` files; `dja` has 0."""
    strip_rows: int = Field(default=0, ge=0)
    """Rows that are made at once, 0 for as many as hold `STRIP_PIXELS`: sets the memory, not the result."""

    @property
    def rows_at_once(self) -> int:
        """Rows of a strip on the grid of the short wavelengths, even."""
        return self.strip_rows or max(STRIP_PIXELS // self.width_px // 2 * 2, LEAST_ROWS)

    def __hash__(self) -> int:  # that of pydantic's frozen models, which type checkers do not see
        return hash(self.model_dump_json())

    @field_validator("anomaly_kinds")
    @classmethod
    def _check_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(kinds)) != len(kinds):
            raise ValueError("a kind comes twice")
        return kinds

    @model_validator(mode="after")
    def _check_size(self) -> "FieldConfig":
        if self.layout == "dja" and (self.width_px % 2 or self.height_px % 2 or self.strip_rows % 2):
            raise ValueError("layout 'dja' needs even width_px, height_px and strip_rows")
        if not self.z_min < self.z_max:
            raise ValueError(f"z_min is {self.z_min:g}, must be below z_max, which is {self.z_max:g}")
        if 2 * self.uncovered_px >= min(self.width_px, self.height_px):
            raise ValueError("uncovered_px leaves nothing of the mosaic")
        return self
