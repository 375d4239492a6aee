"""escnn, imported once and made to behave: the only module that may import it, and only training does.

escnn (Cesa, Lang & Weiler 2022, ICLR) builds convolutions that are equivariant under a group. Three things
stand between it and this project, all outside planar groups or beside the point:

- It imports `lie_learn`, for rotations in three dimensions only, whose one wheel is compiled for numpy 1. A
  stand-in takes its place.
- Where scikit-learn is installed it finds kernel bases by a randomised decomposition, unseeded, and fails on
  what today's scikit-learn refuses. Without scikit-learn it takes numpy's, so it is told that there is none.
- It warns of `py3nj`, which is absent for the same reason as `lie_learn`.

Checked with escnn 1.0.11. A kernel basis that nobody asked for before takes 7, 17 or 60 s for 4, 8 or 16
rotations on one slow core; escnn keeps it in a folder of its own installation.
"""

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

_WIGNER_D = "lie_learn.representations.SO3.wigner_d"


def wigner_D_matrix(*_args: Any, **_kwargs: Any) -> NoReturn:  # noqa: N802 - lie_learn's name
    """Stand in for lie_learn's function.

    Raises
    ------
    ImportError
        Always.
    """
    raise ImportError(
        "lie_learn is not installed, on purpose: it has no wheel for numpy 2, and escnn needs it for "
        "rotations in three dimensions (SO(3), O(3)) only. Use planar groups, or install lie_learn."
    )


def _stand_in() -> None:
    """Register a module in the place of lie_learn's, unless it is installed."""
    if importlib.util.find_spec("lie_learn") is not None:
        return
    parts = _WIGNER_D.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        sys.modules[name] = ModuleType(name, "Stand-in of models.escnn_import.")
    sys.modules[_WIGNER_D].__dict__["wigner_D_matrix"] = wigner_D_matrix


_stand_in()
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "`py3nj` package not found", UserWarning)
    from escnn import gspaces, nn
    from escnn.group import _numerical

_numerical.randomized_svd = None

__all__ = ["building", "gspaces", "nn", "wigner_D_matrix"]


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Shield the process while escnn solves for kernels, from draws of numpy's global generator and warnings."""
    state = np.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)
