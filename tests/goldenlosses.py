"""Losses of the first steps of a training, kept in a file and compared with."""

import json
import platform
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"
REASON = "sums of float32 in another order (convolution algorithm, vector width): 1e-7 a step, growing with the steps"


def compare(
    model: str, losses: list[float], rewrite: bool, what: str, command: str, rtol: float = 1e-3
) -> None:
    """Compare the losses of a model with those of its golden file, or write that file anew.

    Parameters
    ----------
    model
        Name of the file.
    rewrite
        Whether to write it.
    what, command
        What the losses are of, and the line that writes them, both for the reader of the file.
    rtol
        Written to the file, and read from there.
    """
    path = FOLDER / f"{model}.json"
    if rewrite:
        versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
        device = f"cpu {platform.machine()}, float32, 1 thread"
        golden = {"what": what, "losses": losses, "rtol": rtol, "reason": REASON, "command": command,
                  "device": device, "versions": versions}  # fmt: skip
        path.write_text(json.dumps(golden, indent=1) + "\n")
    golden = json.loads(path.read_text())
    np.testing.assert_allclose(losses, golden["losses"], rtol=golden["rtol"])
