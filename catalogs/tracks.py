"""Tracks of a version of a catalogue, written beside it once: `tracks.json` and the table that it names.

The view `tracks` of `catalogs.query` shows them: a row is a step, with its decoded spectrum.
"""

import json
import secrets
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from catalogs.latent_space import Track
from catalogs.release import Release
from engine.column import Column
from engine.commit import parquet
from engine.errors import CommitError
from engine.locations import NotFoundError
from engine.schema import arrow_schema
from engine.storage import Storage

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


def write_tracks(release: Release, storage: Storage, tracks: Sequence[Track]) -> list[str]:
    """Write tracks down beside a version, unless that was done; return the files as `track_uris` does."""
    path = f"{release.manifest.path}/tracks-{secrets.token_hex(6)}.parquet"
    storage.put(storage.join(release.root, path), parquet.to_bytes(_table(tracks)))
    storage.put_if_absent(_record(release), json.dumps({"path": path}).encode())
    return track_uris(release, storage)


def track_uris(release: Release, storage: Storage) -> list[str]:
    """File of the tracks of a version; empty if none were written.

    Raises
    ------
    CommitError
        If the record is damaged.
    """
    try:
        return [storage.join(release.root, json.loads(storage.read(_record(release)))["path"])]
    except NotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise CommitError(f"not the record of tracks ({error})", _record(release)) from error


def _record(release: Release) -> str:
    return Storage.join(release.root, release.manifest.path, "tracks.json")


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
