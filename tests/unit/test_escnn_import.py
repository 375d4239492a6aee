"""What stands between escnn and this project, and that it is out of the way."""

import importlib
import warnings

import numpy as np
import pytest

from models.escnn_import import building, nn
from models.escnn_import import wigner_D_matrix as stand_in


def test_rotations_in_three_dimensions_say_what_is_missing() -> None:
    module = importlib.import_module("lie_learn.representations.SO3.wigner_d")
    assert module.wigner_D_matrix is stand_in
    with pytest.raises(ImportError, match=r"lie_learn is not installed, on purpose.*SO\(3\)"):
        module.wigner_D_matrix(1, 0, 0, 0)


def test_building_leaves_the_global_generator_and_warnings_alone() -> None:
    np.random.seed(3)
    wanted = np.random.random()
    np.random.seed(3)
    with building():
        np.random.random(5)
        warnings.warn("of matrices", stacklevel=1)
    assert np.random.random() == wanted
    assert nn.R2Conv
