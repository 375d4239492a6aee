"""What a long benchmark keeps between its runs: arrays and numbers, each with the settings that it came from.

Code is no setting: results of older code are taken until their settings say otherwise. `benchmarks.measuring.MEASURED_AS`
says it of measures; trainings and samples of changed code want another folder.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpoint import HEADER_FILE, Checkpoint, load, save
from engine.storage import Storage

Arrays = dict[str, np.ndarray]
Settings = Mapping[str, Any]
"""All that changes a result, as JSON can write it."""


def key_of(settings: Settings) -> str:
    """Return 12 hex digits of settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def content_of(values: np.ndarray) -> str:
    """Return 12 hex digits of an array: its type, its shape and its values."""
    head = f"{values.dtype} {values.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()[:12]


def kept_arrays(folder: Path, name: str, settings: Settings, make: Callable[[], Arrays]) -> Arrays:
    """Read what an earlier run with the same settings has kept, or make and keep it.

    Parameters
    ----------
    folder
        It is there.
    name
        Of the file, before the key of the settings: results of other settings stay beside it.
    settings
        All that changes the arrays; they are written beside them as JSON.
    make
        Called where nothing is kept.
    """
    path = _path(folder, name, settings, ".npz")
    if not path.exists():
        part = path.with_suffix(".part.npz")
        np.savez(part, allow_pickle=False, **make())
        part.rename(path)
    with np.load(path, allow_pickle=False) as found:
        return {one: found[one] for one in found.files}


def kept_numbers(folder: Path, name: str, settings: Settings, make: Callable[[], Any]) -> Any:
    """Do the same as `kept_arrays` for what JSON can write."""
    path = _path(folder, name, settings, ".numbers.json")
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps(make(), indent=1) + "\n")
        part.rename(path)
    return json.loads(path.read_text())


def kept_checkpoint(
    folder: Path, name: str, settings: Settings, make: Callable[[], Checkpoint]
) -> Checkpoint:
    """Do the same as `kept_arrays` for a trained model; what is kept is what `python -m jobs` reads."""
    path = _path(folder, name, settings, ".checkpoint")
    if not (path / HEADER_FILE).exists():
        save(make(), str(path), Storage())
    return load(str(path), Storage())


def _path(folder: Path, name: str, settings: Settings, suffix: str) -> Path:
    """Return where a result lies; its settings are written beside it, for people."""
    stem = f"{name}-{key_of(settings)}"
    (folder / f"{stem}.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    return folder / f"{stem}{suffix}"
