"""A release as it is now beside the units that a version was made from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.commit import parquet
from engine.commit.manifest import Manifest
from engine.storage import Storage
from engine.units import Unit


@dataclass(frozen=True, slots=True)
class Changes:
    """How the units of a release differ from those of a version.

    Parameters
    ----------
    version
        The version; 0 if nothing was published.
    new, gone
        Units that only the release, only the version has.
    changed
        Units of the same name whose files are others.
    rescored
        Units of the same files that are computed in another way: another checkpoint or other settings.
    unchanged
        Units that both have.
    """

    version: int
    new: int = 0
    changed: int = 0
    rescored: int = 0
    gone: int = 0
    unchanged: int = 0

    def __str__(self) -> str:
        if not self.version:
            return f"{self.new} new units, nothing is published yet"
        rescored = f"{self.rescored} computed in another way, " if self.rescored else ""
        return (
            f"{self.new} new, {self.changed} changed, {rescored}{self.gone} gone, {self.unchanged} unchanged units "
            f"since version {self.version}"
        )


def changes(root: str, storage: Storage, base: Manifest | None, units: Collection[Unit]) -> Changes:
    """Compare units that have ids with those that a version was made from (None: there is none)."""
    if base is None:
        return Changes(0, new=len(units))
    before = _columns(root, storage, base, "unit_key", "unit_id")
    stored, planned = set(before["unit_id"].to_pylist()), {unit.id for unit in units}
    is_left = np.fromiter((unit_id not in planned for unit_id in before["unit_id"].to_pylist()), bool)
    rows = before.filter(pa.array(is_left))  # of a release that hardly changed few
    left = dict(zip(rows["unit_key"].to_pylist(), rows["unit_id"].to_pylist(), strict=True))
    fresh = [unit for unit in units if unit.id not in stored]
    named = [unit for unit in fresh if unit.key in left]
    texts = _texts(root, storage, base, {left[unit.key] for unit in named}) if named else {}
    rescored = sum(_same_files(unit, texts[left[unit.key]]) for unit in named)
    return Changes(
        version=base.version,
        new=len(fresh) - len(named),
        changed=len(named) - rescored,
        rescored=rescored,
        gone=len(left.keys() - {unit.key for unit in named}),
        unchanged=len(planned & stored),
    )


def _columns(root: str, storage: Storage, manifest: Manifest, *names: str) -> pa.Table:
    (path,) = manifest.paths("units")
    return parquet.read(storage, storage.join(root, path), names)


def _texts(root: str, storage: Storage, manifest: Manifest, ids: Collection[str]) -> Mapping[str, str]:
    table = _columns(root, storage, manifest, "unit_id", "unit")
    chosen = table.filter(
        pc.call_function("is_in", [table["unit_id"]], pc.SetLookupOptions(pa.array(list(ids))))
    )
    return dict(zip(chosen["unit_id"].to_pylist(), chosen["unit"].to_pylist(), strict=True))


def _same_files(unit: Unit, text: str) -> bool:
    stored = Unit.from_json(text)
    return (stored.files, stored.missing) == (unit.files, unit.missing)
