"""The catalogue of spectral anomalies: one row a spectrum, what it is, where it came from, how odd it is.

The columns are those of the source without the pixels, the flux scale, and what the model writes. Names
follow the DESI data model in lower case.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.gallery import GalleryItem
from catalogs.spec import CatalogSpec, published_columns
from engine.column import Column
from engine.spectra.columns import NORM, SPECTRUM_COLUMNS

PIXEL_COLUMNS = ("flux", "ivar")
"""Columns of a source that are read, never published: the release itself holds them."""

EXAMPLES = (
    (
        "The ten most anomalous objects",
        "SELECT anomaly_rank AS rank, targetid, spectype, round(z, 4) AS z, round(anomaly_score, 2) AS score,\n"
        "round(worst_wave_min) AS wave_min, round(worst_wave_max) AS wave_max, flag_names(flags) AS flags\n"
        "FROM top(10)",
    ),
    (
        "Anomalies that are not instrumental: good redshift, all cameras",
        "SELECT targetid, z, anomaly_score FROM catalog\n"
        "WHERE zwarn = 0 AND NOT has_flag(flags, 'MISSING_B') AND NOT has_flag(flags, 'MISSING_Z')\n"
        "ORDER BY anomaly_score DESC LIMIT 20",
    ),
    (
        "Odd reconstruction, ordinary place in latent space",
        "SELECT targetid, off_manifold_score, on_manifold_score, worst_wave_min, worst_wave_max\n"
        "FROM catalog WHERE off_manifold_score > 3 AND on_manifold_score < 1\n"
        "ORDER BY off_manifold_score DESC LIMIT 20",
    ),
    (
        "Anomalies that the sky made, with the lines that are odd",
        "SELECT targetid, spectype, round(z, 4) AS z, round(anomaly_score, 2) AS score, window_lines\n"
        "FROM top(200) WHERE artefact_probability < 0.5 AND window_lines <> '- | - | -'\n"
        "ORDER BY anomaly_score DESC LIMIT 20",
    ),
    (
        "Fibres, petals, tiles and nights with more outliers than chance gives: what to look at in the instrument",
        "SELECT grouped_by, member, num_outliers, num_rows, rate_low, rate_high, p_corrected FROM outlier_rates\n"
        "WHERE is_significant ORDER BY p_corrected",
    ),
    (
        "What was rejected, and why",
        "SELECT kind, reason, count(*) AS n FROM rejected GROUP BY ALL ORDER BY n DESC",
    ),
    (
        "What the flags of the worst objects mean",
        "SELECT targetid, flag_names(flags) AS flags FROM top(10)",
    ),
    ("All versions of this catalogue", "SELECT * FROM versions ORDER BY version"),
)


def columns(model_columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the published columns for a model that writes `model_columns`.

    Parameters
    ----------
    model_columns
        What the model's `writes` declares; may replace a column of the source, which then keeps its place.

    Returns
    -------
    columns
        `_healpix_29`, the source's columns without pixels, `norm`, the model's.
    """
    return published_columns((*SPECTRUM_COLUMNS, NORM), PIXEL_COLUMNS, model_columns)


def _draw(item: GalleryItem, row: Mapping[str, Any]) -> str:
    from catalogs.spectrum_picture import Spectrum, spectrum_png  # matplotlib: only a report needs it

    spectrum = Spectrum(
        wave=item.prepare.wave, frame=item.prepare.frame, flux=item.inputs["flux"], ivar=item.inputs["ivar"],
        recon=item.outputs["recon"], sigma=item.outputs["sigma"],
    )  # fmt: skip
    return spectrum_png(spectrum, row)


SPEC = CatalogSpec(
    name="spectral_anomaly",
    model="spectral_vae",
    title="Spectral anomaly catalogue",
    summary=(
        "One row a spectrum: identity, redshift, the hardware and exposures it came from, where the model "
        "places it in latent space, and how unusual it is, off the manifold of ordinary spectra "
        "(reconstruction) and on it (isolation)."
    ),
    key=("survey", "program", "targetid"),
    prefer=("-tsnr2", "source_uri", "source_row"),
    score="anomaly_score",
    score_parts={"off_manifold_score": 3, "on_manifold_score": 1},
    latent="latent_mean",
    colour_by="spectype",
    finite=("ra", "dec", "anomaly_score", "off_manifold_score", "on_manifold_score", "latent_mean"),
    percentile_suffix="_percentile",
    columns=columns,
    examples=EXAMPLES,
    predicted_bands=(),
    groups=(("petal", "petal"), ("fiber", "fibre"), ("tileid", "tile"), ("night", "night")),
    template="spectral_anomaly.html.j2",
    draw=_draw,
    other_models=("redshift_vae",),
)
