"""A model as a stage: columns in, mini-batches through the network, columns out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from engine.checkpoint import Checkpoint, check_shapes, load, read_header
from engine.column import Column
from engine.errors import CheckpointError, SchemaError
from engine.schema import arrow_schema, arrow_type, list_array, to_arrays
from engine.sources.base import SPECTRUM_COLUMNS
from engine.stage import Resources, UnitFunction, UnitTable, columns_by_name
from engine.storage import Storage, StorageOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models.spec import ModelSpec, Predict

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
PACKED_ROWS = 64
"""Mini-batch that large layers are laid out for on a CPU; see `engine.packed`."""
FLAGS_COLUMN = columns_by_name(SPECTRUM_COLUMNS, "flags")[0]


@dataclass(frozen=True)
class InferStage:
    """Run a trained model over the rows of a unit. Make one with `from_checkpoint`.

    Parameters
    ----------
    spec
        The model.
    config
        Its settings, an instance of `spec.config`, as the checkpoint has them.
    checkpoint_uri, checkpoint_id
        Where the checkpoint is and what it held when the job was planned; a worker that finds
        another one there stops.
    options
        How to reach storage.
    batch_rows
        Rows that go through the network at once.
    num_threads
        Threads of torch; 0 leaves what the process has (Ray sets one per CPU that the worker asked for).
    device
        "auto" takes a GPU if torch sees one.
    resources
        What one worker asks for.
    drop_inputs
        Drop the list columns that the model read (flux, ivar): the catalogue does not keep them.
    """

    spec: "ModelSpec"
    config: Any
    checkpoint_uri: str
    checkpoint_id: str
    options: StorageOptions = field(default_factory=StorageOptions)
    batch_rows: int = 512
    num_threads: int = 0
    device: Device = "auto"
    resources: Resources = field(default_factory=Resources)
    drop_inputs: bool = False

    @classmethod
    def from_checkpoint(
        cls,
        spec: "ModelSpec",
        checkpoint_uri: str,
        options: StorageOptions | None = None,
        **settings: Any,
    ) -> "InferStage":
        """Read the checkpoint's JSON and make the stage; the weights are read by `open`.

        Raises
        ------
        CheckpointError
            If it is not a checkpoint of this model and version.
        """
        options = options or StorageOptions()
        header = read_header(checkpoint_uri, Storage(options), spec.name, spec.version)
        config = model_config(spec, header.config, checkpoint_uri)
        return cls(spec, config, checkpoint_uri, header.id, options, **settings)

    @property
    def name(self) -> str:
        """Name of the model."""
        return f"infer {self.spec.name}"

    @property
    def requires(self) -> tuple[Column, ...]:
        """What the model reads, and `flags`."""
        return (*self.spec.reads(self.config), FLAGS_COLUMN)

    @property
    def provides(self) -> tuple[Column, ...]:
        """What the model writes, and `flags` with its bits added."""
        return (*self.spec.writes(self.config), FLAGS_COLUMN)

    @property
    def drops(self) -> tuple[str, ...]:
        """The list columns that were read, if `drop_inputs`."""
        lists = (column.name for column in self.spec.reads(self.config) if column.length)
        return tuple(lists) if self.drop_inputs else ()

    def open(self) -> UnitFunction:
        """Load the checkpoint, build the network and return the function that scores a unit."""
        import torch

        from engine.packed import pack_linears

        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        checkpoint = load(self.checkpoint_uri, Storage(self.options), self.spec.name, self.spec.version)
        if checkpoint.id != self.checkpoint_id:
            raise CheckpointError(
                "checkpoint was replaced while the job ran",
                self.checkpoint_uri,
                got=checkpoint.id,
                expected=self.checkpoint_id,
                hint="Run the job again; finished units of the old checkpoint are kept apart.",
            )
        device = choose_device(self.device)
        module = build_module(self.spec, self.config, checkpoint, self.checkpoint_uri).to(device)
        module = pack_linears(module, PACKED_ROWS)
        predict = self.spec.predictor(self.config, module, checkpoint.fitted, device)
        return _Scorer(self, predict)


def choose_device(wanted: Device) -> "torch.device":
    """Return the device to use and log why."""
    import torch

    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        logger.info("device cuda: %s", torch.cuda.get_device_name())
        return torch.device("cuda")
    logger.info("device cpu: torch sees no GPU")
    return torch.device("cpu")


def model_config(spec: "ModelSpec", tree: Mapping[str, Any], where: str) -> Any:
    """Build the settings of a model from JSON; `CheckpointError` where they do not fit."""
    known = {item.name for item in fields(spec.config)}
    problems = [f"{name}: unknown" for name in sorted(tree.keys() - known)]
    try:
        config = TypeAdapter(spec.config).validate_python(dict(tree))
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()]
    if problems:
        raise CheckpointError(
            f"settings do not fit model '{spec.name}'",
            where,
            got="; ".join(problems),
            hint="The checkpoint was made with another version of the model.",
        )
    return config


def build_module(spec: "ModelSpec", config: Any, checkpoint: Checkpoint, where: str) -> "nn.Module":
    """Build the module with the checkpoint's weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        If names or shapes of the weights are not those of the module.
    """
    import torch

    module = spec.build(config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_shapes(checkpoint.weights, expected, where)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in checkpoint.weights.items()})
    return module.eval()


class _Scorer:
    """The function that a worker holds: a unit's rows in, the same rows with the model's columns out."""

    def __init__(self, stage: InferStage, predict: "Predict") -> None:
        self._stage, self._predict = stage, predict
        self._reads = [column.name for column in stage.spec.reads(stage.config)]
        self._writes = stage.spec.writes(stage.config)

    def __call__(self, unit: UnitTable) -> UnitTable:
        outputs = self._outputs(unit.rows)
        rows = unit.rows
        for column in self._writes:
            rows = _set(rows, column, _to_arrow(column, outputs.get(column.name), rows.num_rows))
        bits = np.asarray(outputs.get("flags", 0), np.int32)
        rows = _set(rows, FLAGS_COLUMN, pa.array(rows["flags"].to_numpy() | bits))
        return unit.with_rows(rows.drop_columns(list(self._stage.drops)))

    def _outputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, rows.num_rows, self._stage.batch_rows):
            piece = rows.slice(start, self._stage.batch_rows)
            parts.append(self._predict(to_arrays(piece, self._reads)))
            self._check(parts[-1], piece.num_rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}

    def _check(self, output: Mapping[str, np.ndarray], num_rows: int) -> None:
        declared = {column.name for column in self._writes}
        if output.keys() - {"flags"} != declared:
            raise SchemaError(
                "predict returned other columns than the model declares",
                f"model '{self._stage.spec.name}'",
                got=", ".join(sorted(output)),
                expected=", ".join(sorted(declared)),
            )
        short = [f"{name} {len(array)}" for name, array in output.items() if len(array) != num_rows]
        if short:
            raise SchemaError(
                "predict returned another number of rows",
                f"model '{self._stage.spec.name}'",
                got=", ".join(short),
                expected=str(num_rows),
            )


def _to_arrow(column: Column, values: np.ndarray | None, num_rows: int) -> pa.Array:
    wanted = arrow_type(column)
    if values is None:  # an empty unit: nothing was predicted
        return pa.nulls(num_rows, wanted)
    if column.length and values.shape != (num_rows, column.length):
        raise SchemaError(
            f"column '{column.name}' has another shape than declared",
            got=str(values.shape),
            expected=str((num_rows, column.length)),
        )
    array = list_array(values) if column.length else pa.array(values)
    return array if array.type == wanted else array.cast(wanted)


def _set(table: pa.Table, column: Column, array: pa.Array) -> pa.Table:
    """Replace the column in its place, or append it."""
    declared = arrow_schema([column]).field(0)
    index = table.schema.get_field_index(column.name)
    return table.append_column(declared, array) if index < 0 else table.set_column(index, declared, array)
