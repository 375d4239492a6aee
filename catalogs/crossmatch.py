"""Neighbours of our strangest objects in another HATS catalogue, found by LSDB on Dask.

The rows of ours are few (strangest first) and the other catalogue is large: it is read partition by partition, only
where ours are, and each of its rows finds ours within the radius. Ours carry a margin of that radius, so that
neighbours on two sides of a border of partitions meet, whether or not the other catalogue has a margin.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import pandas as pd

from catalogs.query import connect_release
from catalogs.release import Release, load_release
from catalogs.sql import sql_name
from engine.errors import ConfigError, EngineError, StorageError
from engine.locations import without_query
from engine.rows import DEC, RA
from engine.storage import Storage

if TYPE_CHECKING:
    from lsdb.catalog.catalog import Catalog

MAX_PAIRS = 100
"""Rows of ours that one row of the other catalogue may have within the radius: more make no sense as a match."""

DISTANCE = "dist_arcsec"
"""Column of the distance on the sphere [arcsec]."""

OTHER_SUFFIX = "_other"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Parameters
    ----------
    other
        URI of the other catalogue: a HATS catalogue or collection; local, s3:// or https://.
    radius_arcsec
        Largest distance [arcsec].
    neighbors
        How many neighbours of each of our rows are kept, nearest first.
    max_rows
        Rows of ours, strangest first.
    columns
        Columns of the other catalogue; empty: those that it gives by default.
    """

    other: str
    radius_arcsec: float
    neighbors: int = 1
    max_rows: int = 100_000
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matched:
    """What was found: a row for each pair, and how many of ours were looked for."""

    pairs: pd.DataFrame
    looked_for: int
    release: Release


def crossmatch(
    root: str, storage: Storage, other: Storage, wanted: Wanted, version: int | None = None
) -> Matched:
    """Find neighbours of the strangest rows of a version, the current one by default.

    Returns
    -------
    matched
        Pairs with our key, position and score as they are in the catalogue, `dist_arcsec`, and the columns of
        the other catalogue with `_other` behind their names; ours in order of score, neighbours by distance.

    Raises
    ------
    ConfigError
        If LSDB is not installed, there is no key and score to go by, or the radius is so large that a row of the other
        catalogue has `MAX_PAIRS` of ours within it.
    StorageError
        If the other catalogue cannot be opened or has no such columns.
    """
    lsdb = _lsdb()
    release = load_release(root, storage, version)
    ours = _strangest(release, storage, wanted.max_rows)
    with _quiet():
        theirs = _opened(lsdb, wanted, other)
        mine = lsdb.from_dataframe(
            ours, ra_column=RA.name, dec_column=DEC.name, margin_threshold=wanted.radius_arcsec * 1.001
        )
        pairs = _pairs(theirs, mine, wanted)
    return Matched(_nearest(pairs, release, wanted), len(ours), release)


def write(matched: Matched, uri: str, storage: Storage, wanted: Wanted) -> None:
    """Write the pairs as a HATS catalogue of its own, with what made it among its properties.

    Raises
    ------
    StorageError
        If there is something already.
    """
    lsdb = _lsdb()
    facts = {
        "trawl_catalogue": matched.release.root,
        "trawl_version": str(matched.release.version),
        "trawl_other": without_query(wanted.other),
        "trawl_radius_arcsec": f"{wanted.radius_arcsec:g}",
    }
    with _quiet():
        made = lsdb.from_dataframe(
            matched.pairs, ra_column=RA.name, dec_column=DEC.name, margin_threshold=None
        )
        try:
            made.write_catalog(
                storage.upath(uri),
                catalog_name=f"{matched.release.manifest.name}_crossmatch",
                addl_hats_properties=facts,
                progress_bar=False,
            )
        except (FileExistsError, ValueError) as error:
            raise StorageError("cannot be written", uri, " ".join(str(error).split())) from error


def _lsdb() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import lsdb
    except ImportError as error:
        raise ConfigError(
            "cross-matching is done with LSDB, which is not installed", got=str(error),
            hint="Install it: uv pip install 'trawl[crossmatch]' (or lsdb).",
        ) from None  # fmt: skip
    return lsdb


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what LSDB says of pandas 3 and of its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _strangest(release: Release, storage: Storage, max_rows: int) -> pd.DataFrame:
    """Key, position and score of our rows, strangest first."""
    if release.spec is None:
        raise ConfigError("has no score to tell which rows are strangest", release.root)
    names = ", ".join(map(sql_name, (*release.spec.key, RA.name, DEC.name, release.spec.score)))
    with connect_release(release, [], storage) as con:
        table = con.sql(f"SELECT {names} FROM top({int(max_rows)})").to_arrow_table()  # noqa: S608 - quoted
    if not table.num_rows:
        raise ConfigError("has no rows", release.root)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _opened(lsdb: ModuleType, wanted: Wanted, storage: Storage) -> "Catalog":
    columns = list(wanted.columns) or None
    try:
        return lsdb.open_catalog(storage.upath(wanted.other), columns=columns)
    except EngineError:
        raise
    except Exception as error:  # of HATS, pyarrow and fsspec: whatever they find wrong with it
        text = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(
            "is no HATS catalogue that can be opened", wanted.other, text,
            hint="Give the folder of hats.properties or collection.properties.",
        ) from error  # fmt: skip


def _pairs(theirs: "Catalog", mine: "Catalog", wanted: Wanted) -> pd.DataFrame:
    """All pairs within the radius, as LSDB returns them."""
    try:
        matched = theirs.crossmatch(
            mine,
            n_neighbors=MAX_PAIRS,
            radius_arcsec=wanted.radius_arcsec,
            suffixes=(OTHER_SUFFIX, ""),
            suffix_method="all_columns",
            require_right_margin=True,
        )
        pairs = matched.compute(progress_bar=False)
    except RuntimeError as error:
        if "overlap" not in str(error):
            raise
        return pd.DataFrame()
    crowd = int(pairs.index.value_counts().max()) if len(pairs) else 0  # the index is a row of theirs
    if crowd >= MAX_PAIRS:
        raise ConfigError(
            "too many of our rows are within the radius of one of theirs", "--radius-arcsec",
            f"{wanted.radius_arcsec:g} (at least {crowd} rows)", f"fewer than {MAX_PAIRS} rows", "Take a smaller one.",
        )  # fmt: skip
    return pd.DataFrame(pairs.reset_index(drop=True))


def _nearest(pairs: pd.DataFrame, release: Release, wanted: Wanted) -> pd.DataFrame:
    """Keep the nearest of each of ours; ours first by score, then their columns."""
    assert release.spec is not None
    key, score = list(release.spec.key), release.spec.score
    if pairs.empty:
        return pd.DataFrame(columns=[*key, RA.name, DEC.name, score, DISTANCE])
    pairs = pairs.rename(columns={"_dist_arcsec": DISTANCE})
    theirs = [name for name in pairs.columns if name.endswith(OTHER_SUFFIX)]
    pairs = pairs.sort_values([score, *key, DISTANCE], ascending=[False, *[True] * len(key), True])
    kept = pairs.groupby(key, sort=False).head(wanted.neighbors)
    columns = [*key, RA.name, DEC.name, score, DISTANCE, *theirs]
    return pd.DataFrame(kept.loc[:, columns].reset_index(drop=True))
