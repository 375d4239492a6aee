"""What jobs that take a catalogue are told about a catalogue beside where it is."""

from typing import Any, Literal

from pydantic import Field

from catalogs.reranks import DEFAULT_METHOD
from engine import config as engine_config
from engine.config import Config
from engine.errors import ConfigError
from engine.storage import StorageOptions
from jobs.config import Place, ReportConfig
from jobs.job import Options
from models.reranking.config import AstronomalyConfig, ProtegeConfig


class RerankConfig(Config):
    """How `rerank` makes ranks of labels."""

    method: Literal["astronomaly", "protege"] = DEFAULT_METHOD
    """astronomaly: the score of the catalogue, damped where labels are low; protege: a Gaussian process of the labels
    alone, which ranks by what a further label would bring."""
    alpha: float = Field(default=AstronomalyConfig.alpha, gt=0)
    """Of astronomaly: how far from a labelled object its label is believed; larger: less far."""
    num_trees: int = Field(default=AstronomalyConfig.num_trees, ge=1)
    """Of astronomaly: trees of the regression of labels."""
    tradeoff: float = Field(default=ProtegeConfig.tradeoff, ge=0)
    """Of protege: by how much the best label must be beaten; larger explores more."""
    seed: int = 0
    """Of the regression."""
    num_threads: int = Field(default=2, ge=1)
    """Partitions that are ranked at once."""
    batch_rows: int = Field(default=65_536, ge=1)
    """Rows that a thread holds."""

    def settings(self) -> dict[str, Any]:
        """Return what changes ranks, for the method that is chosen."""
        names = {"astronomaly": ("alpha", "num_trees", "seed"), "protege": ("tradeoff", "seed")}[self.method]
        return {name: getattr(self, name) for name in names}


class CatalogueOptions(Config):
    """Keys that `-o` can set for jobs that take a catalogue."""

    storage: StorageOptions = StorageOptions()
    """Endpoint and access of the catalogue."""
    other: StorageOptions = StorageOptions()
    """Endpoint and access of the catalogue that `crossmatch` compares with."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    rerank: RerankConfig = RerankConfig()
    """How `rerank` ranks."""
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
