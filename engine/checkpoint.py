"""A trained model as a directory: weights and fitted arrays (safetensors), everything else in JSON.

The directory holds `weights.safetensors`, `fitted.safetensors` and, written last, `checkpoint.json`: where
that exists the checkpoint is complete. Nothing is ever unpickled. Reading the JSON alone is enough to
plan a job; torch is not needed to read any of it.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as _tensors_from_bytes
from safetensors.numpy import save as _bytes_from_tensors

from engine.config import Config, validate
from engine.errors import CheckpointError, ConfigError, StorageError
from engine.units import content_hash

if TYPE_CHECKING:
    from engine.storage import Storage

FORMAT_VERSION = 1
HEADER_FILE = "checkpoint.json"
WEIGHTS_FILE = "weights.safetensors"
FITTED_FILE = "fitted.safetensors"
MAX_HEADER_BYTES = 16 << 20

Arrays = Mapping[str, np.ndarray]
WeightsDType = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model: what to build, its weights, what scoring fitted, and how it came to be.

    Parameters
    ----------
    model, model_version
        Name and version of the `ModelSpec` that it belongs to.
    config
        Settings of the model, JSON-able: keyword arguments of `ModelSpec.config`.
    prepare
        Settings of the preparation (grid, normalisation) that the model was trained behind.
    weights
        State of the module by name, floats as float32.
    fitted
        Arrays of `ModelSpec.fit`.
    metrics, history
        Best metrics, and the metrics of every epoch.
    provenance
        Command, versions, data: for people; does not change `id`.
    """

    model: str
    model_version: int
    config: dict[str, Any]
    prepare: dict[str, Any]
    weights: dict[str, np.ndarray]
    fitted: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Hash of everything that changes results: model, settings, weights, fitted arrays."""
        return content_hash(
            [self.model, self.model_version, self.config, self.prepare,
             _digests(self.weights), _digests(self.fitted)]
        )  # fmt: skip


class FileEntry(Config):
    """Size and checksum of one file of a checkpoint."""

    size: int
    """Bytes."""
    sha256: str
    """Hex digest of the whole file."""


class CheckpointHeader(Config):
    """What `checkpoint.json` holds."""

    format_version: int
    """Layout of the directory; this code reads version 1."""
    id: str
    """Hash of the content, see `Checkpoint.id`."""
    model: str
    """Registry name of the model."""
    model_version: int
    """Version of the model that the weights fit."""
    config: dict[str, Any]
    """Settings of the model."""
    prepare: dict[str, Any]
    """Settings of the preparation."""
    metrics: dict[str, Any]
    """Metrics of the weights that were kept."""
    history: list[dict[str, Any]]
    """Metrics of every epoch."""
    provenance: dict[str, Any]
    """How it was made."""
    files: dict[str, FileEntry]
    """Size and checksum of the files beside it."""


def save(
    checkpoint: Checkpoint, uri: str, storage: "Storage", weights_dtype: WeightsDType = "float32"
) -> Checkpoint:
    """Write a checkpoint into the directory `uri` and return it as `load` will give it.

    An older checkpoint in `uri` is made invalid first (its JSON is removed) and the new JSON is
    written last, so that a reader sees a whole checkpoint or none.

    Parameters
    ----------
    weights_dtype
        "float16" halves the file; the weights that `load` returns are the rounded ones.

    Raises
    ------
    CheckpointError
        If a weight is not finite, or does not fit into float16.
    """
    stored = {name: _stored(array, weights_dtype) for name, array in checkpoint.weights.items()}
    _check_finite(stored, uri)
    checkpoint = replace(checkpoint, weights={name: _loaded(array) for name, array in stored.items()})
    payloads = {WEIGHTS_FILE: _to_bytes(stored), FITTED_FILE: _to_bytes(checkpoint.fitted)}
    header_uri = storage.join(uri, HEADER_FILE)
    if storage.exists(header_uri):
        storage.delete(header_uri)
    for name, data in payloads.items():
        storage.put(storage.join(uri, name), data)
    header = _header(checkpoint, payloads)
    storage.put(header_uri, (json.dumps(header.model_dump(), indent=1, sort_keys=True) + "\n").encode())
    return checkpoint


def load(uri: str, storage: "Storage", model: str | None = None, version: int | None = None) -> Checkpoint:
    """Read a checkpoint and verify it: format, model, files, checksums, content hash.

    Parameters
    ----------
    model, version
        Refuse a checkpoint of another model, or of another version of it.

    Raises
    ------
    CheckpointError
        Saying what is wrong, where, and what to do.
    """
    header = read_header(uri, storage, model, version)
    arrays = {name: _read_arrays(uri, name, entry, storage) for name, entry in header.files.items()}
    checkpoint = Checkpoint(
        header.model, header.model_version, header.config, header.prepare,
        {name: _loaded(array) for name, array in arrays[WEIGHTS_FILE].items()},
        arrays[FITTED_FILE], header.metrics, header.history, header.provenance,
    )  # fmt: skip
    if checkpoint.id != header.id:
        raise CheckpointError(
            "content does not match its id: checkpoint.json was edited or mixed with other files",
            uri, got=checkpoint.id, expected=header.id, hint="Train again or copy the directory anew.",
        )  # fmt: skip
    return checkpoint


def read_header(
    uri: str, storage: "Storage", model: str | None = None, version: int | None = None
) -> CheckpointHeader:
    """Read `checkpoint.json` alone: enough to plan, a few kilobytes.

    Raises
    ------
    CheckpointError
        If there is none, it is damaged, or it is for another format, model or version.
    """
    where = storage.join(uri, HEADER_FILE)
    tree = _read_json(where, storage)
    found = tree.get("format_version")
    if found != FORMAT_VERSION:
        raise CheckpointError(
            "unknown checkpoint format", where, got=str(found), expected=str(FORMAT_VERSION),
            hint="It was written by another version of this project.",
        )  # fmt: skip
    try:
        header = validate(CheckpointHeader, tree, where)
    except ConfigError as error:
        raise CheckpointError(f"is not a checkpoint: {error.what}", where) from None
    _check_files(header, where)
    _check_model(header, where, model, version)
    return header


def check_shapes(weights: Arrays, expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that weights have exactly the names and shapes that a module expects.

    Raises
    ------
    CheckpointError
        Naming the first few that are missing, unknown, or of another shape.
    """
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown]
    problems += [
        f"{name} is {weights[name].shape}, not {tuple(expected[name])}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != tuple(expected[name])
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise CheckpointError(
            "weights do not fit the model", where, got="; ".join(problems[:4]) + more,
            hint="The checkpoint was trained with another configuration or version of the model.",
        )  # fmt: skip


def _header(checkpoint: Checkpoint, payloads: Mapping[str, bytes]) -> CheckpointHeader:
    return CheckpointHeader(
        format_version=FORMAT_VERSION,
        id=checkpoint.id,
        model=checkpoint.model,
        model_version=checkpoint.model_version,
        config=checkpoint.config,
        prepare=checkpoint.prepare,
        metrics=_json_safe(checkpoint.metrics),
        history=_json_safe(checkpoint.history),
        provenance=_json_safe(checkpoint.provenance),
        files={name: FileEntry(size=len(data), sha256=_sha256(data)) for name, data in payloads.items()},
    )


def _read_json(where: str, storage: "Storage") -> dict[str, Any]:
    hint = "Give the directory that `train` wrote; it is complete once checkpoint.json exists."
    if not storage.exists(where):
        raise CheckpointError("no checkpoint here", where, hint=hint)
    size = storage.info(where).size
    if size > MAX_HEADER_BYTES:
        raise CheckpointError("too large", where, f"{size} bytes", f"at most {MAX_HEADER_BYTES}", hint)
    try:
        tree = json.loads(storage.read(where))
    except ValueError as error:
        raise CheckpointError(f"is not JSON ({error})", where, hint=hint) from None
    if not isinstance(tree, dict):
        raise CheckpointError("is not a JSON object", where, got=type(tree).__name__, hint=hint)
    return tree


def _check_files(header: CheckpointHeader, where: str) -> None:
    # Names come from the file: anything but our two could point outside the directory.
    expected = {WEIGHTS_FILE, FITTED_FILE}
    if set(header.files) != expected:
        raise CheckpointError(
            "lists other files than a checkpoint has", where,
            got=", ".join(sorted(header.files)), expected=", ".join(sorted(expected)),
        )  # fmt: skip


def _check_model(header: CheckpointHeader, where: str, model: str | None, version: int | None) -> None:
    if model is not None and header.model != model:
        raise CheckpointError(
            "checkpoint of another model", where, got=header.model, expected=model,
            hint="Choose the checkpoint of this model, or name the other model in the configuration.",
        )  # fmt: skip
    if version is not None and header.model_version != version:
        raise CheckpointError(
            f"checkpoint of another version of '{header.model}'", where,
            got=str(header.model_version), expected=str(version), hint="Train again with this version.",
        )  # fmt: skip


def _read_arrays(uri: str, name: str, entry: FileEntry, storage: "Storage") -> dict[str, np.ndarray]:
    where, hint = storage.join(uri, name), "Copy the directory anew."
    try:
        size = storage.info(where).size
    except StorageError as error:
        raise CheckpointError(
            f"a file of the checkpoint cannot be read ({error.what})", where, hint=hint
        ) from None
    if size != entry.size:
        raise CheckpointError("file has another size", where, f"{size} bytes", f"{entry.size}", hint)
    data = storage.read(where)
    digest = _sha256(data)
    if digest != entry.sha256:
        raise CheckpointError("file is damaged: checksum differs", where, digest, entry.sha256, hint)
    try:
        arrays = _tensors_from_bytes(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"is not a safetensors file that can be read ({error})", where) from None
    if name == WEIGHTS_FILE:
        _check_finite(arrays, where)
    return arrays


def _stored(array: np.ndarray, dtype: WeightsDType) -> np.ndarray:
    if array.dtype.kind != "f":
        return np.asarray(array)
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused by _check_finite
        return array.astype(dtype)


def _loaded(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)


def _check_finite(arrays: Arrays, where: str) -> None:
    bad = [name for name, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if bad:
        raise CheckpointError(
            "weights hold NaN or infinite values", where, got=", ".join(sorted(bad)[:4]),
            hint="Training diverged, or the values do not fit into float16.",
        )  # fmt: skip


def _to_bytes(arrays: Arrays) -> bytes:
    # safetensors writes the memory of an array as it lies: strides would be lost.
    return _bytes_from_tensors({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})


def _digests(arrays: Arrays) -> list[list[Any]]:
    return [
        [name, str(arrays[name].dtype), list(arrays[name].shape),
         hashlib.sha256(arrays[name].tobytes()).hexdigest()]
        for name in sorted(arrays)
    ]  # fmt: skip


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _json_safe(value: Any) -> Any:
    """Replace NaN and infinities by null and numpy scalars by Python's: JSON has neither."""
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
