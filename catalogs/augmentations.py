"""The catalogue of samples: one row an image that a generator made, and what makes it again.

No `CatalogSpec`: samples have no position and no score that ranks them, and each generator has columns of its own, as
its latent and its conditions. `open_catalog`, `check_catalog` and `python -m jobs query` take it as it is, with the
views `catalog`, `rejected` and `versions`.
"""

NAME = "augmentations"

SUMMARY = (
    "One row an image that a generator made, in a catalogue per model (`model=<name>` below `output.uri`), flat: one file "
    "for each range of seeds, as HATS does not apply to what has no position. A version holds samples of one checkpoint: "
    "those of another one of the same model replace them, so each set has an `output.uri` of its own. Seed, conditions and "
    "checkpoint make a row again (`engine.sampling.sampled_again`), bit for bit on one machine type with the same versions of "
    "torch and numpy and as many threads; so do `steps`, a column of samples for which `[augment] steps` was given. It can be trained on, or mixed into a training (`[mix]`), like staged rows. "
    "Columns of a latent and of images depend on the generator; those of measures are there if they were asked for."
)

EXAMPLES = (
    (
        "Seeds and checkpoints",
        "SELECT checkpoint_id, count(*) AS num, min(seed), max(seed) FROM catalog GROUP BY ALL",
    ),
    (
        "Samples that look like a copy of an image that the generator learned from",
        "SELECT seed, nearest_object_id, nearest_distance FROM catalog ORDER BY nearest_distance LIMIT 10",
    ),
    (
        "Morphology of what could be measured",
        "SELECT avg(morph_asymmetry), avg(morph_concentration), avg(morph_gini), median(morph_rhalf_circ) AS radius\n"
        "FROM catalog WHERE morph_flag < 4",
    ),
    (
        "What was rejected, and why",
        "SELECT kind, reason, count(*) AS n FROM rejected GROUP BY ALL ORDER BY n DESC",
    ),
)
"""Pairs (question, SQL); those of measures need them."""
