"""The catalogue of morphology: one row a source, and how probable it is that it is a disk.

The columns are those of a source of images without the pixels, and what denoiser and classifier write.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from catalogs.gallery import GalleryItem
from catalogs.spec import CatalogSpec, Choice, Classes, published_columns
from engine.column import Column
from engine.flags import BLENDED, LOW_SNR, PARTIAL_BAND, TRUNCATED
from engine.images.columns import image_columns, pixel_columns

EXAMPLES = (
    (
        "The ten most probable disks",
        "SELECT disk_rank AS rank, field, object_id, round(ra, 5) AS ra, round(dec, 5) AS dec,\n"
        "round(prob_disk, 3) AS prob_disk, round(snr, 1) AS snr, round(z, 2) AS z, flag_names(flags) AS flags\n"
        "FROM top(10)",
    ),
    (
        "Fraction of disks by redshift",
        "SELECT floor(z) AS z, count(*) AS num, avg(disk_class) AS disk_fraction FROM catalog\n"
        "WHERE disk_class >= 0 AND z IS NOT NULL GROUP BY ALL ORDER BY z",
    ),
    (
        "Where denoising changes the verdict, at even odds",
        "SELECT field, object_id, prob_disk_raw, prob_disk, snr FROM catalog\n"
        "WHERE (prob_disk_raw >= 0.5) <> (prob_disk >= 0.5) ORDER BY abs(prob_disk - prob_disk_raw) DESC LIMIT 20",
    ),
    (
        "Against classes that were given",
        "SELECT label, disk_class, count(*) AS num FROM catalog WHERE label >= 0 GROUP BY ALL ORDER BY ALL",
    ),
    (
        "Bright, alone and whole: the rows to trust",
        "SELECT field, object_id, prob_disk FROM catalog WHERE NOT has_flag(flags, 'LOW_SNR')\n"
        "AND NOT has_flag(flags, 'BLENDED') AND NOT has_flag(flags, 'PARTIAL_BAND')\n"
        "AND NOT has_flag(flags, 'TRUNCATED') AND disk_class >= 0 ORDER BY prob_disk DESC LIMIT 20",
    ),
    (
        "What was rejected, and why",
        "SELECT kind, reason, count(*) AS n FROM rejected GROUP BY ALL ORDER BY n DESC",
    ),
    ("All versions of this catalogue", "SELECT * FROM versions ORDER BY version"),
)

CHOICES = (
    Choice("Most probable disks", "top({n})"),
    Choice("Least probable disks", "(SELECT * FROM ranked ORDER BY prob_disk, field, object_id LIMIT {n})"),
    Choice(
        "Farthest from the class that was given",
        "(SELECT * FROM ranked WHERE label IN (0, 1) ORDER BY abs(prob_disk - label) DESC, field, object_id LIMIT {n})",
    ),
)


def columns(model_columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the published columns for models that write `model_columns`.

    Returns
    -------
    columns
        `_healpix_29`, the columns of a source of images without its pixels, the models'.
    """
    pixels = {column.name for column in pixel_columns(1)}
    return published_columns(image_columns(1), pixels, model_columns)


def _draw(item: GalleryItem, row: Mapping[str, Any]) -> str:
    from catalogs.morphology_picture import morphology_png  # matplotlib: only a report needs it

    return morphology_png(item, row)


SPEC = CatalogSpec(
    name="nircam_morphology",
    model="disk_classifier",
    title="NIRCam morphology",
    summary=(
        "One row a source: the probability that it is a disk, from the cutouts as measured and as cleaned by the "
        "denoiser, calibrated on held-out objects, with its size, signal to noise and flags. Rows without a band "
        "that the network needs have no probability and a flag. Options add the quantities of statmorph (`[morphology]`: "
        "columns `morph_*`) and the cleaned cutouts (`infer.publish_images`: column `denoised`)."
    ),
    key=("field", "object_id"),
    prefer=("source_uri", "source_row"),
    score="prob_disk",
    score_parts={},
    latent="",
    colour_by="field",
    finite=("ra", "dec", "prob_disk", "prob_disk_raw"),
    percentile_suffix="_percentile",
    columns=columns,
    examples=EXAMPLES,
    predicted_bands=(),
    groups=(),
    template="nircam_morphology.html.j2",
    draw=_draw,
    upstream=("unet_vae",),
    rank="disk_rank",
    ranking="Most probable disks",
    choices=CHOICES,
    classes=Classes(
        "prob_disk",
        "disk_class",
        "label",
        ("not disks", "disks"),
        untrusted=(LOW_SNR, BLENDED, PARTIAL_BAND, TRUNCATED),
    ),
)
