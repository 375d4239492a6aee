"""One HTML file about a version of a catalogue, with its strangest objects drawn from the release."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from catalogs import augmentations
from catalogs.checkpoint_facts import CheckpointFacts
from engine import config as engine_config
from engine.checkpoint import Checkpoint
from engine.commit import Manifest, read_manifest
from engine.errors import ConfigError, EngineError
from engine.locations import is_object
from engine.storage import Storage
from engine.units import content_hash
from jobs import applied, catalogue
from jobs.config import JobConfig, Place, ReportConfig
from jobs.job import JobResult, Options
from models.scoring.calibration import CLASSES

if TYPE_CHECKING:
    from catalogs.class_charts import Reliability

_logger = logging.getLogger(__name__)


def run(options: Options) -> JobResult:
    """Write the report of a catalogue; the last two lines name it and the catalogue."""
    place, given = catalogue.load(options)
    settings = given.report
    if options.limit is not None:
        settings = settings.model_copy(update={"gallery": options.limit})
    path = write(place, options.version, settings, options.out)
    summary = {"report": path, "catalogue": place.uri}
    return JobResult(summary, [f"report: {path}", f"catalogue: {place.uri}"])


def path_of(place: Place, manifest: Manifest) -> str:
    """Where the report of a version goes unless told otherwise.

    Beside a local catalogue (`reports/000001.html`); that of a catalogue on object storage goes into the
    working directory, where a browser can open it, under a name that no other catalogue's report has.
    """
    name = f"{manifest.version:06d}.html"
    if is_object(place.uri):
        which = content_hash([place.model_dump(mode="json"), manifest.publish_id], size=4)
        return str(Path.cwd() / "reports" / f"{manifest.name}-{which}-{name}")
    return Storage.join(place.uri, "reports", name)


def write(place: Place, version: int | None, settings: ReportConfig, out: str = "") -> str:
    """Build the report of a version and return its path."""
    # matplotlib and SciPy: two seconds that other jobs need not wait
    from catalogs.report import build_report
    from jobs import gallery, tracks

    manifest = read_manifest(place.uri, Storage(place.storage), version)
    if manifest.name == augmentations.NAME:
        raise ConfigError(
            "samples have no scores to report on", place.uri,
            hint="`augment` writes their report where it is told [staged], the set to compare with.",
        )  # fmt: skip
    path = out or path_of(place, manifest)
    items, note, history, reliability, found, facts = [], "", [], None, None, None
    try:
        chain = applied.open_all(_made_with(manifest, "checkpoint", "upstream"))
        checkpoint = chain[-1].checkpoint
        history, facts = checkpoint.history, facts_of(checkpoint)
        reliability = reliability_of(checkpoint)
        config = _made_with(manifest, "checkpoint", "upstream", "infer", "release", "catalog")
        reader = gallery.make_reader(config, chain)
        items, note = gallery.items(reader, place, manifest, settings.gallery)
        found = tracks.find(reader, place, manifest, settings.track_objects, settings.options.seed)
        drawn = {"track_objects": settings.track_objects, "seed": settings.options.seed}
        tracks.store(place, manifest, found, drawn)
    except EngineError as error:
        _logger.warning("no gallery: %s", error)
        note = f"The release or the checkpoint could not be read again: {error}"
    build_report(
        place.uri, path, place.storage, manifest.version, items, note, history, settings.options, reliability,
        found, facts,
    )  # fmt: skip
    return path


def reliability_of(checkpoint: Checkpoint) -> "Reliability | None":
    """Reliability of the published probability; checkpoints without temperatures of halves have that of one set."""
    from catalogs.class_charts import Reliability

    table = checkpoint.fitted.get("reliability_calibrated")
    return None if table is None else Reliability(table, "temperature_halves" in checkpoint.fitted)


def facts_of(checkpoint: Checkpoint) -> CheckpointFacts:
    """Return what a report tells of a checkpoint."""
    numbers, classes = (checkpoint.fitted.get(name) for name in ("reference_id", "reference_class"))
    known = {} if numbers is None or classes is None else {
        int(number): CLASSES[int(index)] for number, index in zip(numbers, classes, strict=True)
        if index < len(CLASSES) - 1
    }  # fmt: skip
    scoring = checkpoint.config.get("scoring", {})
    parts = {
        f"{name}_score": len(scoring[name]) for name in ("off_manifold", "on_manifold") if name in scoring
    }
    return CheckpointFacts(checkpoint.metrics.get("artefact_confusion", {}), known, parts)


def _made_with(manifest: Manifest, *sections: str) -> JobConfig:
    """Return the sections that are needed: a key that has another name today, in another section, is no matter."""
    given = manifest.provenance["config"]
    return engine_config.validate(
        JobConfig, {name: given[name] for name in sections if name in given}, "manifest"
    )
