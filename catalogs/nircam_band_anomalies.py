"""The catalogue of band anomalies: one row a source, what its long-wavelength bands should be, and what they are.

The columns are those of a source of images without the pixels, and what the model writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.gallery import GalleryItem
from catalogs.spec import CatalogSpec, published_columns
from engine.column import Column
from engine.images.bands import LONG_BANDS
from engine.images.columns import LABEL, image_columns, pixel_columns

EXAMPLES = (
    (
        "The ten most anomalous objects",
        "SELECT anomaly_rank AS rank, field, object_id, round(ra, 5) AS ra, round(dec, 5) AS dec,\n"
        "round(anomaly_score, 2) AS score, worst_wave, round(input_snr, 1) AS snr, flag_names(flags) AS flags\n"
        "FROM top(10)",
    ),
    (
        "Brighter in F444W than predicted, by five standard deviations and more",
        "SELECT field, object_id, flux_f444w, flux_predicted_f444w, flux_residual_sigma_f444w FROM catalog\n"
        "WHERE flux_residual_sigma_f444w > 5 ORDER BY flux_residual_sigma_f444w DESC LIMIT 20",
    ),
    (
        "Extremely red objects (F277W - F444W > 1.5 mag), and how well they are predicted",
        "SELECT field, object_id, -2.5 * log10(flux_f277w / flux_f444w) AS colour, mag_residual_f444w,\n"
        "anomaly_score FROM catalog\n"
        "WHERE flux_f277w > 0 AND flux_f444w > 3.98 * flux_f277w ORDER BY colour DESC LIMIT 20",
    ),
    (
        "Pixels that less than one normal object in a thousand has, where fluxes are as predicted",
        "SELECT field, object_id, reduced_chi2_p_value, aperture_chi2_p_value, worst_wave FROM catalog\n"
        "WHERE reduced_chi2_p_value < 0.001 AND aperture_chi2_p_value > 0.05 ORDER BY reduced_chi2_p_value LIMIT 20",
    ),
    (
        "Anomalies with all bands whole",
        "SELECT field, object_id, anomaly_score FROM catalog WHERE NOT has_flag(flags, 'MISSING_BAND')\n"
        "AND NOT has_flag(flags, 'PARTIAL_BAND') AND isfinite(anomaly_score)\n"
        "ORDER BY anomaly_score DESC LIMIT 20",
    ),
    (
        "What could not be scored",
        "SELECT flag_names(flags) AS flags, count(*) AS n FROM catalog WHERE isnan(anomaly_score) GROUP BY ALL",
    ),
    (
        "What was rejected, and why",
        "SELECT kind, reason, count(*) AS n FROM rejected GROUP BY ALL ORDER BY n DESC",
    ),
    ("All versions of this catalogue", "SELECT * FROM versions ORDER BY version"),
)


def columns(model_columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the published columns for a model that writes `model_columns`.

    Returns
    -------
    columns
        `_healpix_29`, the columns of a source of images without its pixels and classes, the model's.
    """
    hidden = {column.name for column in (LABEL, *pixel_columns(1))}
    return published_columns(image_columns(1), hidden, model_columns)


def _draw(item: GalleryItem, row: Mapping[str, Any]) -> str:
    from catalogs.cutout_picture import cutout_png  # matplotlib: only a report needs it

    return cutout_png(item, row)


SPEC = CatalogSpec(
    name="nircam_band_anomalies",
    model="band_gan",
    title="NIRCam band anomalies",
    summary=(
        "One row a source: measured fluxes in six bands, the three long-wavelength ones as the short-wavelength "
        "images predict them, and how unusual the difference is (off the manifold), or the object's place among "
        "others (on it). Rows without an input band have no score and a flag."
    ),
    key=("field", "object_id"),
    prefer=("source_uri", "source_row"),
    score="anomaly_score",
    score_parts={"off_manifold_score": 2, "on_manifold_score": 1},
    latent="latent_mean",
    colour_by="field",
    finite=("ra", "dec", "anomaly_score", "off_manifold_score", "on_manifold_score", "latent_mean"),
    percentile_suffix="_percentile",
    columns=columns,
    examples=EXAMPLES,
    predicted_bands=LONG_BANDS,
    groups=(),
    template="nircam_band_anomalies.html.j2",
    draw=_draw,
)
