"""Tracks of a version of a catalogue, written beside it: `tracks/000002.json` and the table that it names.

Each record says which settings the tracks were made with; tracks of the same settings are written once. The newest
record counts, as with ranks (`catalogs.reranks`), so that the view is what the last report with settings of its own drew.
The view `tracks` of `catalogs.query` shows them: a row is a step, with its decoded spectrum.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catalogs.latent_space import Track
from catalogs.numbered import append, numbered
from catalogs.release import Release
from engine.column import Column
from engine.commit import parquet
from engine.errors import CommitError
from engine.schema import arrow_schema
from engine.storage import Storage

SUFFIX = ".json"
COLUMNS = (
    Column("track", "string", "Property that the path is along"),
    Column("step", "int32", "Step of the path, from 0"),
    Column("value", "float64", "Mean of the property about this step"),
    Column("unit", "string", "Unit of the property"),
    Column("num_objects", "int32", "Objects that the path is made of"),
    Column("redshift", "float64", "About which they are; 0 where spectra are at rest"),
)
LISTS = {
    "latent": "Latent coordinates of the step",
    "wave": "Wavelengths of the decoded spectrum, in the model's frame [Angstrom]",
    "flux": "Decoded spectrum, in units of the median flux; NaN where hardly any of the objects has data",
}
"""Columns of lists of float32, as long as the model's grids."""


def track_schema() -> pa.Schema:
    """Columns of the table of tracks."""
    lists = [
        pa.field(name, pa.list_(pa.float32()), True, {"description": text}) for name, text in LISTS.items()
    ]
    return pa.schema([*arrow_schema(COLUMNS), *lists])


def write_tracks(
    release: Release, storage: Storage, tracks: Sequence[Track], settings: Mapping[str, Any]
) -> list[str]:
    """Write tracks down beside a version, unless those of the newest record have these settings.

    Parameters
    ----------
    release, storage
        The version.
    tracks
        What was found.
    settings
        What changes them: how many spectra were measured, say.

    Returns
    -------
    files
        As `track_uris` gives them.

    Raises
    ------
    CommitError
        If a hundred others were quicker each time.
    """
    before = _records(release, storage)
    if before and _read(before[-1][1], storage)["settings"] == settings:
        return track_uris(release, storage)
    path = f"{_folder(release)}/{secrets.token_hex(6)}.parquet"
    storage.put(storage.join(release.root, path), parquet.to_bytes(_table(tracks)))
    record = json.dumps({"path": path, "settings": dict(settings)}, sort_keys=True).encode()
    folder = storage.join(release.root, _folder(release))
    append(folder, SUFFIX, storage, lambda _: record, "tracks could not be recorded")
    return track_uris(release, storage)


def track_uris(release: Release, storage: Storage) -> list[str]:
    """File of the newest tracks of a version; empty if none were written.

    Raises
    ------
    CommitError
        If the record is damaged.
    """
    records = _records(release, storage)
    return [storage.join(release.root, _read(records[-1][1], storage)["path"])] if records else []


def _folder(release: Release) -> str:
    return f"{release.manifest.path}/tracks"


def _records(release: Release, storage: Storage) -> list[tuple[int, str]]:
    """Numbers and places of the records, oldest first."""
    return numbered(storage.join(release.root, _folder(release)), SUFFIX, storage)


def _read(uri: str, storage: Storage) -> dict[str, Any]:
    try:
        record = json.loads(storage.read(uri))
        return {"path": str(record["path"]), "settings": dict(record["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CommitError(f"not the record of tracks ({error})", uri) from error


def _table(tracks: Sequence[Track]) -> pa.Table:
    rows = [
        {
            "track": track.name, "step": step, "value": float(track.value[step]), "unit": track.unit,
            "num_objects": track.num_objects, "redshift": track.redshift,
            "latent": track.latent[step].astype(np.float32), "wave": track.wave.astype(np.float32),
            "flux": track.flux[step].astype(np.float32),
        }
        for track in tracks
        for step in range(len(track.value))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, track_schema())
