"""Sersic images drawn on a GPU are those drawn on a CPU. Skipped without CUDA.

Tolerances as `engine.synthetic.sersic_torch` states them: rounding in float32, and pixels that it gives one point more.
"""

import numpy as np
import pytest
import torch

from engine.synthetic.sersic_render import SersicParameters, render
from engine.synthetic.sersic_torch import draw_parameters, render_batch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def test_gpu_draws_what_numpy_draws() -> None:
    parameters = draw_parameters(8, torch.Generator("cuda").manual_seed(1))
    expected = render(SersicParameters(*parameters.cpu().numpy().T), 128)
    off = np.abs(render_batch(parameters, 128).cpu().numpy() / expected - 1)
    assert (off > 1e-5).mean() < 1e-3
    assert off.max() < 1e-2
