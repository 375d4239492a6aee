"""One self-contained HTML file about a version of a catalogue: figures inline, nothing loaded from anywhere."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import numpy as np
from markupsafe import Markup

from catalogs import charts, class_charts, prediction_chart, statistics
from catalogs.checkpoint_facts import CheckpointFacts
from catalogs.gallery import GalleryItem
from catalogs.latent_map import principal_components, umap_points
from catalogs.latent_section import evidence
from catalogs.latent_space import Evidence
from catalogs.options import MIN_UMAP_ROWS, ReportOptions
from catalogs.outliers import SIGNIFICANT
from catalogs.people_section import people
from catalogs.query import connect_release
from catalogs.release import Release, checkpoint_ids, load_release, version_facts
from catalogs.spec import MOST_ANOMALOUS, CatalogSpec
from engine.errors import ConfigError
from engine.flags import FLAGS, REASONS
from engine.storage import Storage, StorageOptions

SCORE_BINS = 48
PERCENTILE_BINS = 25
MAX_SCORE_SHOWN = 12.0
WORST_GROUPS = 6
SIGMA_RANGE, SIGMA_BINS = (-6.0, 6.0), 48
SNR_EDGES = np.geomspace(3.0, 10_000.0, 13)
PROBABILITY_BINS = 25
REDSHIFT_BINS = 8
NUM_LEAST_LIKELY = 3


@dataclass(frozen=True)
class _Inputs:
    """What all sections draw from."""

    release: Release
    spec: CatalogSpec
    con: duckdb.DuckDBPyConnection
    options: ReportOptions
    top: list[dict[str, Any]]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.release.columns)

    def has(self, *names: str) -> bool:
        return {*names} <= self.names


def build_report(
    uri: str,
    out_uri: str,
    storage_options: StorageOptions | None = None,
    version: int | None = None,
    gallery: Sequence[GalleryItem] = (),
    gallery_note: str = "",
    history: Sequence[Mapping[str, Any]] = (),
    options: ReportOptions | None = None,
    reliability: class_charts.Reliability | None = None,
    found: Evidence | None = None,
    checkpoint: CheckpointFacts | None = None,
) -> str:
    """Write the report of a version.

    Parameters
    ----------
    uri
        Root of the catalogue.
    out_uri
        Where the HTML file goes: a local path or an object.
    storage_options
        How to reach object storage.
    version
        Number of the version; the newest if None.
    gallery
        Objects of the catalogue's choices and what the model made of them.
    gallery_note
        Said where the gallery is empty or not complete: why.
    history
        Metrics of every epoch, of the checkpoint that scored.
    options
        What to show.
    reliability
        Of the checkpoint, if the model tells classes apart.
    found
        Tracks and what was measured of a sample of spectra.
    checkpoint
        What is told of the checkpoint that scored.

    Returns
    -------
    html
        What was written.

    Raises
    ------
    ConfigError
        If what is published there has no scores (staged spectra).
    """
    storage = Storage(storage_options or StorageOptions())
    release = load_release(uri, storage, version)
    if release.spec is None:
        raise ConfigError("has no scores to report on", uri, expected="a catalogue, not staged spectra")
    options = options or ReportOptions()
    con = connect_release(release, version_facts(uri, storage), storage)
    try:
        top = statistics.chosen_rows(con, MOST_ANOMALOUS, options.num_top)
        inputs = _Inputs(release, release.spec, con, options, top)
        context = _context(
            inputs, gallery, gallery_note, history, reliability, found, checkpoint or CheckpointFacts()
        )
        said = people(con, release, release.spec, storage, options.num_top)
        html = _render({**context, "said": said})
    finally:
        con.close()
    storage.put(out_uri, html.encode())
    return html


def _context(
    inputs: _Inputs,
    gallery: Sequence[GalleryItem],
    gallery_note: str,
    history: Sequence[Mapping[str, Any]],
    reliability: class_charts.Reliability | None,
    found: Evidence | None,
    checkpoint: CheckpointFacts,
) -> dict[str, Any]:
    manifest = inputs.release.manifest
    return {
        "template": inputs.spec.template,
        "title": inputs.spec.title,
        "rank": inputs.spec.rank,
        "ranking": inputs.spec.ranking,
        "summary": inputs.spec.summary,
        "root": inputs.release.root,
        "quoted_root": shlex.quote(inputs.release.root),
        "manifest": manifest,
        "checkpoints": checkpoint_ids(manifest.provenance),
        "facts": _facts(manifest.provenance),
        "details": _details(manifest.provenance),
        "reasons": _reasons(inputs.release),
        "flags": _flags(inputs),
        "scores": _scores(inputs, checkpoint),
        "predictions": _predictions(inputs),
        "classes": _classes(inputs, reliability),
        "has_latent": bool(inputs.spec.latent),
        "latent": _latent(inputs, found),
        "top": inputs.top,
        "galleries": _galleries(inputs, gallery, checkpoint),
        "gallery_note": gallery_note,
        "rates": _rates(inputs),
        "outlier_percent": _percent(inputs.options.outlier_fraction),
        "training": Markup(charts.training_chart(history)) if history else "",  # noqa: S704 - our own SVG
        "num_epochs": len(history),
        "kinds": checkpoint.kinds(),
        "examples": inputs.spec.examples,
    }


def _render(context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "decimals": _decimals,
        "percent": _percent,
        "sky_url": _sky_url,
        "least_likely": _least_likely,
    }
    return environment.get_template("report.html.j2").render(context)


def _number(value: Any, digits: int = 4) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def _decimals(value: float | None, digits: int) -> str:
    """Write with so many decimals, so that numbers of a column stand below each other."""
    return "–" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _least_likely(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Scores of a row that are the least likely of a normal object, with their p-values."""
    end = "_p_value"
    known = [(name.removesuffix(end), p) for name, p in row.items() if name.endswith(end) and p is not None]
    return sorted(((name, p) for name, p in known if np.isfinite(p)), key=lambda pair: pair[1])[
        :NUM_LEAST_LIKELY
    ]


def _sky_url(row: Mapping[str, Any]) -> str:
    place = f"ra={row['ra']:.5f}&dec={row['dec']:.5f}"
    return f"https://www.legacysurvey.org/viewer?{place}&mark={row['ra']:.5f},{row['dec']:.5f}&layer=ls-dr10&zoom=15"


def _facts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in provenance.items() if not isinstance(v, dict | list) and v not in ("", None)}


def _details(provenance: Mapping[str, Any]) -> dict[str, str]:
    nested = {k: v for k, v in provenance.items() if isinstance(v, dict | list) and v}
    return {key: json.dumps(value, indent=1, ensure_ascii=False) for key, value in nested.items()}


def _reasons(release: Release) -> list[dict[str, Any]]:
    counts = release.manifest.rejected
    most = max(counts.values(), default=1)
    rows = [
        {"code": code, "kind": REASONS[code].kind, "description": REASONS[code].description,
         "count": count, "share": count / most}
        for code, count in counts.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["count"])


def _flags(inputs: _Inputs) -> list[dict[str, Any]]:
    counts = statistics.flag_counts(inputs.con, [flag.value for flag in FLAGS])
    rows = [{"flag": flag, "count": count} for flag, count in zip(FLAGS, counts, strict=True)]
    return [row for row in rows if row["count"]]


def _scores(inputs: _Inputs, checkpoint: CheckpointFacts) -> dict[str, Any]:
    """Distributions; empty where the catalogue has no row with a score, or it is no probability by chance."""
    if not inputs.spec.score_parts:
        return {}
    score = inputs.spec.score
    highest = statistics.quantile(inputs.con, score, 1.0)
    if highest is None:
        return {}
    upper = float(np.clip(np.ceil(highest + 1e-9), 2.0, MAX_SCORE_SHOWN))
    parts = {
        name: checkpoint.score_parts.get(name, num)
        for name, num in inputs.spec.score_parts.items()
        if inputs.has(name)
    }
    parts |= {score: max(1, sum(parts.values()))}
    histograms = {name: statistics.histogram(inputs.con, name, 0.0, upper, SCORE_BINS) for name in parts}
    names = [c.name for c in inputs.release.columns if c.name.endswith(inputs.spec.percentile_suffix)]
    percentiles = {
        name: statistics.histogram(inputs.con, name, 0.0, 100.0, PERCENTILE_BINS) for name in names
    }
    return {
        "chart": Markup(charts.score_chart(histograms, parts)),  # noqa: S704 - our own SVG
        "percentiles": Markup(charts.percentile_chart(percentiles)) if percentiles else "",  # noqa: S704
        "highest": highest,
        "num_parts": parts[score],
        "is_cut": highest > upper,
        "upper": upper,
    }


def _predictions(inputs: _Inputs) -> str:
    """Chart of predicted against measured fluxes; empty where the model predicts none, or none was measured."""
    bands = inputs.spec.predicted_bands
    significance = {
        band: statistics.histogram(inputs.con, f"flux_residual_sigma_{band}", *SIGMA_RANGE, SIGMA_BINS)
        for band in bands
    }
    if not any(histogram.counts.any() for histogram in significance.values()):
        return ""
    magnitude = {
        band: statistics.trend(
            inputs.con, f"mag_residual_{band}", f"flux_{band} / flux_error_{band}", SNR_EDGES
        )
        for band in bands
    }
    return Markup(prediction_chart.prediction_chart(significance, magnitude))  # noqa: S704 - our own SVG


def _latent(inputs: _Inputs, found: Evidence | None) -> dict[str, Any]:
    latent, colour_by, options = inputs.spec.latent, inputs.spec.colour_by, inputs.options
    if not inputs.has(latent, colour_by) or not inputs.top or not options.num_latent_points:
        return {}
    sample = statistics.latent_sample(inputs.con, inputs.spec, options.num_latent_points, options.seed)
    if len(sample.latent) < 2:
        return {}
    top = np.array([row[latent] for row in inputs.top[:10]], np.float64)
    points, ringed, explained = principal_components(sample.latent, top)
    labels = tuple(
        f"principal component {i + 1} ({100 * e:.0f} % of variance)" for i, e in enumerate(explained)
    )
    return {
        "pca": charts.latent_chart(points, sample.label, sample.score, ringed, (labels[0], labels[1])),
        "umap": _umap(inputs, sample, top) if options.umap else "",
        "num_points": len(sample.latent),
        "num_umap": min(len(sample.latent), options.umap_max_points),
        "evidence": evidence(inputs.con, inputs.spec, inputs.names, options.seed, found),
    }


def _umap(inputs: _Inputs, sample: statistics.Sample, top: np.ndarray) -> str:
    if len(sample.latent) < MIN_UMAP_ROWS:
        return ""
    few = slice(inputs.options.umap_max_points)
    points, ringed = umap_points(sample.latent[few], top, inputs.options.seed)
    return charts.latent_chart(points, sample.label[few], sample.score[few], ringed, ("UMAP 1", "UMAP 2"))


def _classes(inputs: _Inputs, reliability: class_charts.Reliability | None) -> dict[str, Any]:
    """Chart and counts of classes; empty where the catalogue has none."""
    classes, con = inputs.spec.classes, inputs.con
    if classes is None or inputs.release.manifest.rows == 0:
        return {}
    names = {"all": "", **{classes.names[c]: f"{classes.label} = {c}" for c in (0, 1)}}
    probabilities = {
        name: statistics.histogram(con, classes.probability, 0.0, 1.0, PROBABILITY_BINS, where)
        for name, where in names.items()
    }
    highest = statistics.quantile(con, classes.redshift, 1.0) or 1.0
    edges = np.linspace(0.0, np.ceil(2 * highest + 1e-9) / 2, REDSHIFT_BINS + 1)
    fractions = statistics.class_fractions(con, classes, edges)
    chart = class_charts.class_chart(
        classes, probabilities, reliability, statistics.labelled(con, classes), fractions
    )
    counts = statistics.confusion(con, classes)
    return {
        "chart": Markup(chart),  # noqa: S704 - our own SVG
        "names": classes.names,
        "untrusted": [flag.name for flag in classes.untrusted],
        "counts": counts.tolist(),
        "num_labelled": int(counts.sum()),
        "accuracy": float(np.trace(counts) / max(counts.sum(), 1)),
    }


def _galleries(
    inputs: _Inputs, gallery: Sequence[GalleryItem], checkpoint: CheckpointFacts
) -> list[dict[str, Any]]:
    """Pictures by choice, in the order of the items."""
    spec, num_rows = inputs.spec, max(inputs.options.num_top, len(gallery))
    found = []
    for index, choice in enumerate(spec.choices):
        mine = [item for item in gallery if item.choice == index]
        rows = statistics.chosen_rows(inputs.con, choice, num_rows) if mine else []
        keyed = {tuple(row[name] for name in spec.key): row for row in rows}
        known = [(item, keyed[item.key]) for item in mine if item.key in keyed]
        pairs = [
            {"row": {**row, "neighbours": checkpoint.neighbours(row)}, "png": spec.draw(item, row)}
            for item, row in known
        ]
        found += [{"title": choice.title, "items": pairs}] if pairs else []
    return found


def _rates(inputs: _Inputs) -> dict[str, Any]:
    if not inputs.spec.groups:
        return {}
    score, options = inputs.spec.score, inputs.options
    threshold = statistics.quantile(inputs.con, score, 1 - options.outlier_fraction)
    if threshold is None:
        return {}
    rates = statistics.outlier_rates(inputs.con, options.outlier_fraction)
    groups = [_rate_group(column, name, rates.get(column, ())) for column, name in inputs.spec.groups]
    return {"threshold": threshold, "groups": groups}


def _rate_group(column: str, name: str, rates: Sequence[statistics.Rate]) -> dict[str, Any]:
    odd = [rate for rate in rates if rate.p_value < SIGNIFICANT]
    return {
        "column": column,
        "name": name,
        "num": len(rates),
        "num_odd": len(odd),
        "worst": sorted(rates, key=lambda rate: (rate.p_value, -rate.low))[:WORST_GROUPS],
        "chart": Markup(charts.rate_chart(rates, name)) if rates else "",  # noqa: S704 - our own SVG
    }
