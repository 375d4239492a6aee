"""The report's section on labels: who gave how many, and what the newest ranks made of them."""
# ruff: noqa: S608 - column names come from declared schemas

from typing import Any

import duckdb

from catalogs import statistics
from catalogs.labels import current_labels_sql, each_label_sql
from catalogs.release import Release
from catalogs.reranks import newest_rerank
from catalogs.spec import CatalogSpec, Choice
from engine.storage import Storage


def people(
    con: duckdb.DuckDBPyConnection, release: Release, spec: CatalogSpec, storage: Storage, num_rows: int
) -> dict[str, Any]:
    """Collect what the section shows.

    Parameters
    ----------
    con
        Connection of `open_catalog`.
    release, spec, storage
        The version.
    num_rows
        First objects by the new ranks.

    Returns
    -------
    facts
        `labels` in force, `people` who gave them, `newest` submission, `rerank` (None: none was made) and the `rows` of
        its head; empty where nobody gave a label.
    """
    (counts,) = con.sql(
        f"SELECT max(label_version) AS newest, (SELECT count(*) FROM ({current_labels_sql(spec.key)})) AS labels FROM labels"
    ).to_arrow_table().to_pylist()  # fmt: skip
    if counts["newest"] is None:
        return {}
    rerank = newest_rerank(release, storage)
    return {
        **counts,
        "people": _people(con, spec),
        "rerank": rerank,
        "rows": _head(con, spec, num_rows) if rerank else [],
    }


def _people(con: duckdb.DuckDBPyConnection, spec: CatalogSpec) -> list[dict[str, Any]]:
    """Labels in force of each person, most first."""
    return (
        con.sql(
            "SELECT labelled_by AS who, count(*) AS labels, count(*) FILTER (human_label >= 4) AS interesting, "
            f"max(labelled_at) AS latest FROM ({each_label_sql(spec.key)}) GROUP BY ALL ORDER BY labels DESC, who"
        )
        .to_arrow_table()
        .to_pylist()
    )


def _head(con: duckdb.DuckDBPyConnection, spec: CatalogSpec, num_rows: int) -> list[dict[str, Any]]:
    """First rows by the new ranks, with all that the table of the report shows, and the rank before."""
    keys = ", ".join(spec.key)
    rows = (
        f"(SELECT r.*, k.{spec.rank} FROM (SELECT * FROM reranked ORDER BY rerank LIMIT {{n}}) r "
        f"LEFT JOIN (SELECT {keys}, {spec.rank} FROM ranked) k USING ({keys}))"
    )
    found = statistics.chosen_rows(con, Choice("", rows), num_rows)
    return sorted(found, key=lambda row: row["rerank"])
