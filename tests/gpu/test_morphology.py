"""Denoiser, disk classifier, restorer and generators give the same numbers on a GPU as on a CPU. Skipped without CUDA.

Tolerances: sums of some hundred products in another order differ by 1e-6 in float32, which 20 steps of Adam carry to
1e-2 of the loss; bfloat16 has 8 bits.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.infer import tuned
from models import MODELS
from tests.smallmodels import make_batch, small_config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FAMILIES = ("image_vae", "image_alae", "image_stylegan", "image_flow")


@pytest.fixture(autouse=True)
def exact_float32():
    """Products in float32, not in the 10 bits of TF32, which cuDNN uses for speed."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def curve(name: str, device: torch.device, steps: int = 20) -> np.ndarray:
    """Losses of the first steps."""
    spec = MODELS[name]
    config = small_config(spec)
    task = spec.task(config, 0)
    task.start(device, steps)
    return np.array([task.step(make_batch(spec, config, 16, step), step)["loss"] for step in range(steps)])


@pytest.fixture
def drawn_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers are drawn on the CPU and carried to the device: a GPU has a generator of its own, and draws others."""

    def carried(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *args, device=None, **settings: draw(*args, **settings).to(device or CPU)

    randn = torch.randn
    monkeypatch.setattr(torch, "randn_like", lambda like: randn(like.shape, dtype=like.dtype).to(like.device))
    for name in ("randn", "rand"):
        monkeypatch.setattr(torch, name, carried(getattr(torch, name)))


@pytest.mark.usefixtures("drawn_on_the_cpu")
@pytest.mark.parametrize("name", ["unet_vae", "restorer", "image_vae", "image_flow"])
def test_losses_are_those_of_the_cpu(name: str) -> None:
    np.testing.assert_allclose(curve(name, CUDA), curve(name, CPU), rtol=1e-2, atol=1e-2)


def test_the_classifier_trains_there() -> None:
    """Dropout draws other numbers there: losses are not those of the CPU."""
    assert np.isfinite(curve("disk_classifier", CUDA)).all()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
@pytest.mark.parametrize(("name", "column"), [("unet_vae", "denoised"), ("disk_classifier", "prob_disk")])
def test_what_is_predicted_is_that_of_the_cpu(
    name: str, column: str, precision: str, tolerance: float
) -> None:
    spec = MODELS[name]
    config = small_config(spec)
    torch.manual_seed(0)
    module = spec.build(config).eval()
    batch = make_batch(spec, config, 24, 3)
    fitted = spec.fit(config, module, [batch], [batch])
    wanted = spec.predictor(config, module, fitted, CPU)(batch)
    on_gpu, in_precision = tuned(module.to(CUDA), CUDA, precision)
    found = in_precision(spec.predictor(config, on_gpu, fitted, CUDA))(batch)
    assert found.keys() == wanted.keys()
    scale = float(np.nanstd(wanted[column]))
    np.testing.assert_allclose(found[column], wanted[column], rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_are_those_of_the_cpu(name: str) -> None:
    spec = MODELS[name]
    config = small_config(spec)
    torch.manual_seed(0)
    module = spec.build(config).eval()
    assert spec.sampler is not None
    condition = None
    if config.conditions:
        condition = np.tile([config.condition_low], (4, 1)).astype(np.float32)
    on_cpu, on_gpu = (
        spec.sampler(config, module.to(device), device).sample(np.arange(4), condition)["image"]
        for device in (CPU, CUDA)
    )
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3 * np.abs(on_cpu).max())
