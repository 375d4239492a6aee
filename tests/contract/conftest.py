"""The registered models, one after the other, small."""

import numpy as np
import pytest

from models import MODELS
from models.spec import ModelSpec
from tests.smallmodels import make_batch, small_config


@pytest.fixture(params=list(MODELS))
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return MODELS[request.param]


@pytest.fixture
def config(spec: ModelSpec):
    return small_config(spec)


@pytest.fixture
def batch(spec: ModelSpec, config) -> dict[str, np.ndarray]:
    return make_batch(spec, config, 24)
