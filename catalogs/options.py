"""What reports and differences can be told: apart from those, whose libraries take seconds to import."""

from pydantic import Field

from engine.config import Config

MIN_UMAP_ROWS = 16


class ReportOptions(Config):
    """What a report shows."""

    num_top: int = Field(default=25, ge=0, le=1000)
    """Rows of the table of the most anomalous objects."""
    outlier_fraction: float = Field(default=0.01, gt=0, lt=1)
    """Rows with scores this high count as outliers in the rates by fibre, tile, night and petal."""
    num_latent_points: int = Field(default=20_000, ge=0)
    """Rows in the map of latent space, chosen by a hash of the key."""
    umap: bool = False
    """Also draw a UMAP of latent space: a minute, most of it to compile."""
    umap_max_points: int = Field(default=5_000, ge=MIN_UMAP_ROWS)
    """Rows in the UMAP; its time grows faster than their number."""
    seed: int = 0
    """Of the choice of rows and of the UMAP."""


class DiffOptions(Config):
    """How a version is compared with the one before it."""

    enabled: bool = True
    """Whether a publication writes down what it changed."""
    tolerance: float = Field(default=0.01, ge=0)
    """A score of the catalogue's ranking that moved by no more has not changed."""
    max_rows: int = Field(default=1_000_000, ge=0)
    """Rows listed, those whose score moved most first among the changed; counts are of all rows."""
