"""A model as a stage: columns in, mini-batches through the network, columns out."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from engine.checkpoint import Checkpoint, check_shapes, load, read_header
from engine.column import Column
from engine.errors import CheckpointError, ConfigError, EngineError, SchemaError
from engine.rows import FLAGS
from engine.schema import arrow_type, column_array, set_column, to_arrays
from engine.stage import Resources, UnitFunction, UnitTable
from engine.storage import Storage, StorageOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models.spec import ModelSpec, Predict

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
PACKED_ROWS = 128
"""Mini-batch that large layers are laid out for on a CPU; see `engine.packed`."""


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
    device
        "auto" takes a GPU if torch sees one.
    precision
        Of matrix products. bfloat16 is faster where the device has it, and moves scores a little.
    resources
        What one worker asks for.
    """

    spec: "ModelSpec"
    config: Any
    checkpoint_uri: str
    checkpoint_id: str
    options: StorageOptions = field(default_factory=StorageOptions)
    batch_rows: int = 512
    device: Device = "auto"
    precision: Precision = "float32"
    resources: Resources = field(default_factory=Resources)

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
        config = model_config(spec, header.config, checkpoint_uri, CheckpointError)
        return cls(spec, config, checkpoint_uri, header.id, options, **settings)

    @property
    def name(self) -> str:
        """Name of the model."""
        return f"infer {self.spec.name}"

    @property
    def requires(self) -> tuple[Column, ...]:
        """What the model reads, and `flags`."""
        return (*self.spec.reads(self.config), FLAGS)

    @property
    def provides(self) -> tuple[Column, ...]:
        """What the model writes, and `flags` with its bits added."""
        return (*self.spec.writes(self.config), FLAGS)

    def open(self) -> UnitFunction:
        """Load the checkpoint, build the network and return the function that scores a unit."""
        checkpoint = load_planned(self.spec, self.checkpoint_uri, self.checkpoint_id, self.options)
        device = choose_device(self.device)
        config, module = open_model(self.spec, checkpoint, self.checkpoint_uri)
        module, in_precision = tuned(module.to(device), device, self.precision)
        predict = self.spec.predictor(config, module, checkpoint.fitted, device)
        return _Scorer(self, in_precision(predict))


def load_planned(spec: "ModelSpec", uri: str, checkpoint_id: str, options: StorageOptions) -> Checkpoint:
    """Load the checkpoint that a job was planned with.

    Raises
    ------
    CheckpointError
        If another one is there by now.
    """
    checkpoint = load(uri, Storage(options), spec.name, spec.version)
    if checkpoint.id != checkpoint_id:
        raise CheckpointError(
            "checkpoint was replaced while the job ran",
            uri,
            got=checkpoint.id,
            expected=checkpoint_id,
            hint="Run the job again; finished units of the old checkpoint are kept apart.",
        )
    return checkpoint


def tuned(
    module: "nn.Module", device: "torch.device", precision: Precision
) -> "tuple[nn.Module, Callable[[Predict], Predict]]":
    """Make a module fast on the device where it is, and say what a predictor must be wrapped in.

    On a CPU large layers are laid out beforehand (`engine.packed`), and a module with an attribute `products` is told their
    type; a GPU takes the module as it is, and computes products in bfloat16 under autocast.
    """
    import torch

    from engine.packed import pack_linears

    if device.type == "cpu":
        products = getattr(torch, precision)
        if hasattr(module, "products"):
            module.products = products
        return pack_linears(module, PACKED_ROWS, products), lambda predict: predict

    def in_precision(predict: "Predict") -> "Predict":
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")(predict)

    return module, in_precision


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


def model_config(
    spec: "ModelSpec", tree: Mapping[str, Any], where: str, error: type[EngineError] = ConfigError
) -> Any:
    """Build the settings of a model from nested dicts.

    Parameters
    ----------
    spec
        The model.
    tree
        Keyword arguments of `spec.config`; what is not given has its default.
    where
        Configuration key or URI that they are from, for the message.
    error
        What to raise: `CheckpointError` where a checkpoint says so and no user can correct it.

    Raises
    ------
    EngineError
        Naming everything that does not fit.
    """
    known = [item.name for item in fields(spec.config)]
    problems = [f"{name}: unknown key" for name in sorted(tree.keys() - set(known))]
    try:
        config = TypeAdapter(spec.config).validate_python({k: v for k, v in tree.items() if k in known})
    except ValidationError as invalid:
        problems += [
            f"{'.'.join(map(str, p['loc']))}: {p['msg']}".removeprefix(": ") for p in invalid.errors()
        ]
    if problems:
        hint = "The checkpoint was made with another version of the model."
        raise error(
            f"settings do not fit model '{spec.name}'",
            where,
            got="; ".join(problems),
            expected=f"of {', '.join(known)}",
            hint=hint if error is CheckpointError else "",
        )
    return config


def open_model(spec: "ModelSpec", checkpoint: Checkpoint, where: str) -> tuple[Any, "nn.Module"]:
    """Build the network of a checkpoint with its weights, on the CPU, in evaluation mode.

    Parameters
    ----------
    spec
        The model that the checkpoint is for.
    checkpoint
        Settings and weights.
    where
        Where it is from, for the message.

    Returns
    -------
    tuple
        The settings, an instance of `spec.config`, and the module.

    Raises
    ------
    CheckpointError
        If the settings, or names or shapes of the weights, are not those of the model.
    """
    import torch

    config = model_config(spec, checkpoint.config, where, CheckpointError)
    module = spec.build(config)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_shapes(checkpoint.weights, expected, where)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in checkpoint.weights.items()})
    return config, module.eval()


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
            rows = set_column(rows, column, _to_arrow(column, outputs.get(column.name), rows.num_rows))
        bits = np.asarray(outputs.get("flags", 0), np.int32)
        rows = set_column(rows, FLAGS, pa.array(rows["flags"].to_numpy() | bits))
        return unit.with_rows(rows)

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
    if values is None:  # an empty unit: nothing was predicted
        return pa.nulls(num_rows, arrow_type(column))
    if column.length and values.shape != (num_rows, column.length):
        raise SchemaError(
            f"column '{column.name}' has another shape than declared",
            got=str(values.shape),
            expected=str((num_rows, column.length)),
        )
    return column_array(column, values)
