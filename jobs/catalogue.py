"""What `query`, `check`, `report` and `prune` are told about a catalogue: only how to reach it."""

from pydantic import Field

from engine import config as engine_config
from engine.config import Config
from engine.errors import ConfigError
from engine.storage import StorageOptions
from jobs.config import Place, ReportConfig
from jobs.job import Options


class CatalogueOptions(Config):
    """Keys that `-o` can set for jobs that take a catalogue."""

    storage: StorageOptions = StorageOptions()
    """Endpoint and access of the catalogue."""
    other: StorageOptions = StorageOptions()
    """Endpoint and access of the catalogue that `crossmatch` compares with."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    keep_versions: int = Field(default=3, ge=1)
    """Versions that `prune` keeps."""
    min_age_hours: float = Field(default=24.0, ge=0)
    """`prune` touches nothing younger; longer than any job runs."""


def load(options: Options) -> tuple[Place, CatalogueOptions]:
    """Return where the catalogue is and the options given with `-o`."""
    tree = engine_config.parse_overrides(options.overrides)
    given = engine_config.validate(CatalogueOptions, tree, "-o")
    if not options.target:
        raise ConfigError("no catalogue given", expected="a folder or s3://bucket/prefix")
    return Place(uri=options.target, storage=given.storage), given
