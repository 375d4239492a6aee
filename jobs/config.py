"""One TOML file describes one release and everything done to it; every job reads the sections it needs."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from catalogs import CATALOGS
from catalogs.options import DiffOptions, ReportOptions
from engine import config as engine_config
from engine.cluster import ClusterConfig
from engine.commit import CatalogConfig
from engine.config import Config
from engine.errors import ConfigError
from engine.images.cutout_morphology import CutoutMorphologyConfig
from engine.images.morphology import PUBLISHED, MorphologyConfig
from engine.images.nearest import NearestConfig
from engine.infer import Device, Precision, model_config
from engine.locations import NotFoundError, is_object
from engine.placement import PipelineConfig
from engine.search import TuneConfig
from engine.sources import SOURCES
from engine.sources.base import Source
from engine.sources.seeds import SeedsConfig
from engine.storage import Storage, StorageOptions
from engine.synthetic.contaminate.rows import RealisationsConfig
from engine.synthetic.kinds import SYNTHETIC
from engine.train.fit import FitConfig
from engine.train.plan import TrainConfig
from jobs.job import Options
from models import MODELS
from models.spec import ModelSpec


def _registered(name: str, registry: Mapping[str, Any], what: str) -> str:
    if name not in registry:
        raise ValueError(f"no such {what}, there are {', '.join(registry)}")
    return name


class Place(Config):
    """Somewhere in storage."""

    uri: str = Field(min_length=1)
    """Local folder or s3://bucket/prefix."""
    storage: StorageOptions = StorageOptions()
    """Endpoint and access; credentials come from the environment alone."""


class ReleaseConfig(Place):
    """The release to read."""

    chosen_by_name: ClassVar = {"settings": tuple(source.config_class for source in SOURCES.values())}

    source: str = "desi"
    """Kind of release, a key of `engine.sources.SOURCES`."""
    settings: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """Layout, selection and cuts: the source's own settings, e.g. `engine.sources.desi.DesiConfig`."""

    @field_validator("source")
    @classmethod
    def _source_is_known(cls, name: str) -> str:
        return _registered(name, SOURCES, "source")

    @field_validator("settings")
    @classmethod
    def _settings_fit_the_source(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "source" not in info.data:
            return settings  # what is wrong with it is told already
        return SOURCES[info.data["source"]].config_class.model_validate(settings).model_dump(mode="json")

    @property
    def kind(self) -> type[Source]:
        """Class of the source."""
        return SOURCES[self.source]

    def open(self) -> Source:
        """Return the source."""
        return self.kind(self.uri, self.storage, self.kind.config_class.model_validate(self.settings))


class ModelConfig(Config):
    """The model to train; jobs that apply a checkpoint refuse what it was not trained with."""

    name: str = "spectral_vae"
    """Key of `models.MODELS`."""
    preset: str = ""
    """Settings that the model has a name for, one of its `PRESETS`, that `settings` begin with; empty: its defaults."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the model's own configuration class; what is not given is as in the preset, or has its default."""


class InferConfig(Config):
    """How the model is applied."""

    batch_rows: int = Field(default=512, ge=1)
    """Rows a mini-batch inside a unit."""
    device: Device = "auto"
    """Where the model runs; `auto` takes a GPU where Ray gives one, which takes `num_gpus` > 0."""
    precision: Precision = "float32"
    """Of matrix products; bfloat16 is a quarter faster where the CPU or GPU has it, and moves percentiles by up
    to 1. Units computed in another precision are computed anew."""
    publish_images: bool = False
    """Whether images that models of `upstream` make, such as `denoised`, go into the catalogue as well, as bytes."""
    num_cpus: float = Field(default=1.0, gt=0)
    """CPUs (and torch threads) of one worker."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of one worker; fractions share a card. 0 computes on CPUs, also where there are GPUs."""
    memory_gib: float = Field(default=0.0, ge=0)
    """Memory that one worker reserves on its node [GiB]; 0: none. Fewer workers are started where it is scarce."""


def _known_catalog(catalog: CatalogConfig) -> CatalogConfig:
    """Give a catalogue the key of its kind, and that kind's preference unless one is set."""
    spec = CATALOGS[_registered(catalog.name, CATALOGS, "catalogue")]
    own = {"prefer": spec.prefer} if "prefer" not in catalog.model_fields_set else {}
    return catalog.model_copy(update={"key": spec.key, **own})


Catalog = Annotated[CatalogConfig, AfterValidator(_known_catalog)]
"""Kind of catalogue, by its name in `catalogs.CATALOGS`, and its partitioning."""


class ScoringConfig(Config):
    """One of several models that score a release while it is read once."""

    checkpoint: Place
    """What is applied."""
    upstream: tuple[Place, ...] = ()
    """What is applied before it."""
    output: Place
    """Root of its catalogue."""
    catalog: Catalog = Field(default=CatalogConfig(name="spectral_anomaly"), validate_default=True)
    """Kind of catalogue and its partitioning."""
    infer: InferConfig = InferConfig()
    """How the model is applied."""


class MixConfig(Config):
    """Another staged set, such as an augmentation catalogue, that takes the place of some batches in training."""

    staged: Place
    """What `ingest` or `augment` wrote; it must have the columns that the model learns from, or `columns` says what is
    taken instead."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Probability that a batch is of it, not of `staged`; validation rows are those of `staged` alone."""
    columns: dict[str, str | float] = Field(default_factory=dict)
    """Columns that it lacks or calls otherwise: what the model reads -> a column of it, or a value for all its rows and
    pixels, such as `{ science = "image", error = 20.0, mask = 0 }`."""
    clip_below: float | None = None
    """Least pixel of its images, the first column that the model reads: darker ones are raised to it. 0 as published for
    generated images of what emits light; none: pixels are as they are."""


class NearestRealConfig(NearestConfig):
    """Which real images samples are compared with, and in which space."""

    staged: Place
    """What `ingest` wrote of the set that the generator learned from."""
    max_rows: int = Field(default=0, ge=0)
    """Images that the generator learned from at most, from the beginning of its files; 0: all. Of each 256 bytes a channel are
    held by every worker, and a core compares a sample with some 15 million a second."""


class AugmentConfig(SeedsConfig):
    """Which samples a generator makes, and what is measured of them."""

    condition: dict[str, float] = Field(default_factory=dict)
    """Conditions that are the same for all samples; each of the others is drawn for each seed from the training
    images that the checkpoint keeps."""
    steps: int = Field(default=0, ge=0)
    """Steps of the solver of `image_flow`, which learns the same whatever they are: fewer are faster and less true. Rows
    say them in a column `steps`; 0: as the checkpoint says, without that column."""
    morphology: MorphologyConfig | None = None
    """Measure morphology with these settings, or with published ones by name: sersic, cosmos, skirt. Images are measured in the
    size that they are generated in, those with a size channel in the size that it says; `engine.images.morphology.measure`
    says how long it takes."""
    nearest: NearestRealConfig | None = None
    """Find the nearest real image of each sample."""
    robustness: Place | None = None
    """JSON of `benchmarks.augmentation --json`: the report draws its curves."""
    exact_power: bool = False
    """Whether the report takes distances of power exactly, in any unit; the published histograms hold amplitudes from 1e-5 to
    1e4 alone, which those of smoothed or faint images are not within."""
    circular: bool = False
    """Whether the report takes orientation on a circle instead of a line, as published."""
    report_images: int = Field(default=256, ge=2)
    """Images of each set that the report compares, where there is `staged` to compare with."""

    @field_validator("morphology", mode="before")
    @classmethod
    def _published_by_name(cls, value: Any) -> Any:
        return PUBLISHED[_registered(value, PUBLISHED, "published set")] if isinstance(value, str) else value


class ReportConfig(Config):
    """What the report shows."""

    enabled: bool = True
    """Whether a publication writes one."""
    gallery: int = Field(default=20, ge=0, le=200)
    """Objects drawn with their reconstruction, most anomalous first."""
    track_objects: int = Field(default=3000, ge=0)
    """Spectra read again to measure lines and to draw tracks through latent space, at 3 ms each; 0: none."""
    options: ReportOptions = ReportOptions()
    """Tables and figures."""


class JobConfig(Config):
    """The whole file. A job says which section it misses."""

    chosen_by_name: ClassVar = {
        "prepare": tuple(source.prepare_class for source in SOURCES.values()),
        "synthesize": tuple(SYNTHETIC.values()),
    }

    seed: int = 1
    """Seed of everything random that has no seed of its own."""
    release: ReleaseConfig | None = None
    """Where the data are."""
    synthesize: dict[str, Any] | None = None
    """Synthetic release of that kind, written to `release.uri`: a class of `engine.synthetic.kinds.SYNTHETIC`."""
    prepare: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    """What `ingest` does to the rows of the source, its `prepare_class`, e.g.
    `engine.spectra.prepare.SpectrumPrep`; a checkpoint brings its own."""
    staged: Place | None = None
    """Where `ingest` writes and `train` reads."""
    contaminate: RealisationsConfig | None = None
    """Contaminants, marks and noise that `train` puts on staged clean images: what a denoiser learns from."""
    mix: MixConfig | None = None
    """What `train` mixes into `staged`."""
    model: ModelConfig = ModelConfig()
    """What `train` trains; what is given of it must be so in the checkpoint that is applied."""
    train: TrainConfig = TrainConfig()
    """How it is trained."""
    tune: TuneConfig | None = None
    """Which settings `tune` tries."""
    scoring: FitConfig = FitConfig()
    """How many objects percentiles and neighbours are learned from after training."""
    checkpoint: Place | None = None
    """What `train` writes and `infer` reads."""
    upstream: tuple[Place, ...] = ()
    """Checkpoints that are applied before it, in this order: their columns are there for those that follow, as the
    images of a denoiser are for a classifier."""
    infer: InferConfig = InferConfig()
    """How it is applied."""
    output: Place | None = None
    """Root of the catalogue."""
    catalog: Catalog = Field(default=CatalogConfig(name="spectral_anomaly"), validate_default=True)
    """Kind of catalogue and its partitioning."""
    morphology: CutoutMorphologyConfig | None = None
    """statmorph quantities of cutouts, columns `morph_*` of the catalogue; `engine.images.cutout_morphology` says what is
    measured."""
    models: tuple[ScoringConfig, ...] = ()
    """Instead of `checkpoint`, `upstream`, `output`, `catalog` and `infer`: several models that score the release in one pass,
    each into a catalogue of its own."""
    augment: AugmentConfig | None = None
    """What `augment` makes with `checkpoint` and writes below `output`."""
    max_rejected_fraction: float = Field(default=0.05, ge=0, le=1)
    """Exit code 3 if more of what was read than this is rejected for a fault; chosen cuts do not count."""
    report: ReportConfig = ReportConfig()
    """What the report shows."""
    diff: DiffOptions = DiffOptions()
    """How a new version is compared with the one before it."""
    pipeline: PipelineConfig = PipelineConfig()
    """How Ray Data runs it."""
    cluster: ClusterConfig = ClusterConfig()
    """Which Ray cluster."""

    @field_validator("synthesize")
    @classmethod
    def _source_can_be_synthesized(
        cls, settings: dict[str, Any] | None, info: ValidationInfo
    ) -> dict[str, Any] | None:
        if settings is None or not (release := info.data.get("release")):
            return settings
        kind = SYNTHETIC[_registered(release.source, SYNTHETIC, "kind of synthetic release")]
        return kind.model_validate(settings).model_dump(mode="json")

    @field_validator("prepare")
    @classmethod
    def _prepare_fits_the_source(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if not (release := info.data.get("release")):
            return settings  # no job that reads a release, or what is wrong with it is told already
        return release.kind.prepare_class.model_validate(settings).model_dump(mode="json")

    @model_validator(mode="after")
    def _models_are_said_once(self) -> "JobConfig":
        both = {"checkpoint", "upstream", "output", "catalog", "infer"} & self.model_fields_set
        if self.models and both:
            raise ValueError(f"models is given, so {', '.join(sorted(both))} belong into its entries")
        if self.models and "model" in self.model_fields_set:
            raise ValueError(
                "models is given, so model says nothing: its entries have checkpoints of their own"
            )
        outputs = [scoring.output.uri for scoring in self.models]
        if len(set(outputs)) < len(outputs):
            raise ValueError("models: each needs an output of its own")
        return self


def load(options: Options, *sections: str) -> JobConfig:
    """Read the file of a job and make sure that the sections it needs are there.

    The file may be an object (s3://bucket/config.toml); its server is then told by `AWS_*` alone, for what the
    file says of storage is not known yet.

    Raises
    ------
    ConfigError
        For everything wrong in it, or a section that is not there.
    """
    if is_object(options.target):
        config = engine_config.parse(JobConfig, _read(options.target), options.target, options.overrides)
    else:
        config = engine_config.load(JobConfig, options.target, options.overrides)
    _require(config, options, *sections)
    return config


def _read(uri: str) -> str:
    """Text of a configuration on object storage."""
    try:
        return Storage().read(uri).decode()
    except NotFoundError as error:
        raise ConfigError("there is no such configuration", uri, error.what) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not text ({error.reason})", uri) from None


def _require(config: JobConfig, options: Options, *sections: str) -> None:
    missing = [name for name in sections if getattr(config, name) is None]
    if missing:
        raise ConfigError(
            f"section [{'], ['.join(missing)}] is missing",
            options.target,
            expected=f"[{missing[0]}] with its keys, as in the files of jobs/configs",
        )


def load_scorings(options: Options) -> list[JobConfig]:
    """Read the file of a job that scores: one configuration for each model, as if it were the only one."""
    config = load(options, "release")
    if not config.models:
        _require(config, options, "checkpoint", "output")
        return [config]
    names = ScoringConfig.model_fields
    return [
        config.model_copy(update={"models": (), **{name: getattr(scoring, name) for name in names}})
        for scoring in config.models
    ]


def model_of(config: JobConfig) -> tuple[ModelSpec, Any]:
    """Return the model's specification and its validated settings."""
    spec = spec_of(config.model.name)
    return spec, model_config(spec, settings_of(spec, config.model), "model.settings")


def settings_of(spec: ModelSpec, model: ModelConfig) -> dict[str, Any]:
    """Return the settings that are given: those of the preset, and in their place those that are given by themselves.

    Raises
    ------
    ConfigError
        If the model has no such preset.
    """
    if not model.preset:
        return dict(model.settings)
    if model.preset not in spec.presets:
        known = ", ".join(spec.presets) or f"none: {spec.name} has no presets"
        raise ConfigError("no such preset", "model.preset", repr(model.preset), known)
    preset, found = asdict(spec.presets[model.preset]), (*spec.measured, *spec.survey_gives)
    return _merged({name: value for name, value in preset.items() if name not in found}, model.settings)


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Put what the second has in the place of what the first has, also within nested settings."""
    return dict(first) | {
        name: _merged(first[name], value)
        if isinstance(value, Mapping) and isinstance(first.get(name), Mapping)
        else value
        for name, value in second.items()
    }


def spec_of(name: str) -> ModelSpec:
    """Return a registered model, or say which there are."""
    if name not in MODELS:
        raise ConfigError("no such model", "model.name", got=repr(name), expected=", ".join(MODELS))
    return MODELS[name]
