"""The report's evidence on latent space: how far classes lie apart, what can be read off, tracks."""
# ruff: noqa: S608 - column names come from declared schemas

from collections.abc import Mapping
from typing import Any

import duckdb
import numpy as np
from markupsafe import Markup

from catalogs.latent_map import principal_components
from catalogs.latent_space import MAX_ROWS, Evidence, regression, separation
from catalogs.spec import CatalogSpec
from catalogs.track_charts import track_chart

LABELS = {"spectype": "class", "subtype": "subclass"}
"""Columns of classes that are looked for in latent space."""
VALUES = {"z": "redshift", "snr": "signal-to-noise per pixel"}
"""Columns of properties that are read off it."""


def evidence(
    con: duckdb.DuckDBPyConnection,
    spec: CatalogSpec,
    names: frozenset[str],
    seed: int,
    found: Evidence | None,
) -> dict[str, Any]:
    """Compute what the section shows.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    spec
        The catalogue; it has a latent.
    names
        Columns that the catalogue has.
    seed
        Of the sample.
    found
        Tracks and properties that were measured; None: nothing was read again.
    """
    found = found or Evidence()
    latent, columns = _sample(con, spec, [name for name in (*LABELS, *VALUES) if name in names], seed)
    if not len(latent):
        return {}
    apart = {
        text: separation(latent, columns[name], seed) for name, text in LABELS.items() if name in columns
    }
    read = {text: regression(latent, columns[name], seed) for name, text in VALUES.items() if name in columns}
    known = {text: one for text, one in (read | found.regressions).items() if one}
    return {
        "separations": {text: one for text, one in apart.items() if one},
        "regressions": known,
        "tracks": _tracks(latent, found),
        "notes": found.notes,
    }


def _tracks(latent: np.ndarray, found: Evidence) -> list[dict[str, Any]]:
    charts = []
    for track in found.tracks:
        points, steps, _ = principal_components(latent, track.latent)
        charts.append({"track": track, "chart": Markup(track_chart(track, points, steps))})  # noqa: S704 - our own PNG
    return charts


def _sample(
    con: duckdb.DuckDBPyConnection, spec: CatalogSpec, names: list[str], seed: int
) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """Rows that a hash of the key chooses: finite latents, text and numbers."""
    columns = "".join(f", {name}" for name in names)
    table = con.sql(
        f"SELECT {spec.latent} AS _latent{columns} FROM catalog WHERE isfinite({spec.score}) "
        f"ORDER BY md5_number_lower(concat_ws('/', 'evidence', CAST($seed AS VARCHAR), {', '.join(spec.key)})) "
        f"LIMIT {MAX_ROWS}",
        params={"seed": seed},
    ).to_arrow_table()
    latent = np.array(table["_latent"].to_pylist(), np.float32).reshape(table.num_rows, -1)
    finite = np.isfinite(latent).all(1)
    texts = {
        name: np.array([value or "" for value in table[name].to_pylist()]) for name in names if name in LABELS
    }
    numbers = {name: table[name].to_numpy().astype(np.float64) for name in names if name in VALUES}
    return latent[finite], {name: values[finite] for name, values in (texts | numbers).items()}
