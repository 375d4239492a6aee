"""The flow and the VAE where answers are known: Gaussian data, a linear velocity, the ELBO of torch."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from models.generators.flow import ImageFlowTask, velocity_of
from models.generators.flow_config import ImageFlowConfig
from models.generators.flow_networks import FlowNetwork
from models.generators.images import Seen, bright_weights
from models.generators.latent_prior import LatentPrior, prior_loss
from models.generators.solver import integrated, step_times
from models.generators.vae import ImageVAE, ImageVAEConfig, shared_variance_nll
from models.unet_vae_losses import latent_kl
from models.unet_vae_networks import Output

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.5, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.6, 0.2, 0.3]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
TINY = {"size": 16, "width": 16, "max_width": 16, "halvings": 1}


def gaussian_velocity(x: Tensor, t: float) -> Tensor:
    """Mean of data - noise given x(t) = (1 - t) noise + t data, for data of N(MEAN, COVARIANCE)."""
    total = t**2 * COVARIANCE + (1 - t) ** 2 * torch.eye(3, dtype=torch.float64)
    gain = (t * COVARIANCE - (1 - t) * torch.eye(3, dtype=torch.float64)) @ torch.linalg.inv(total)
    return MEAN + (x - t * MEAN) @ gain.T


def test_the_flow_of_a_gaussian_ends_in_its_mean_and_covariance() -> None:
    noise = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = integrated(gaussian_velocity, noise, step_times(32, 2.0))
    # the map of a Gaussian is affine: take off the sampling error of the noise itself
    design = torch.cat([noise, torch.ones(len(noise), 1, dtype=torch.float64)], 1)
    fitted = torch.linalg.lstsq(design, data).solution
    torch.testing.assert_close(fitted[3], MEAN, atol=5e-3, rtol=0)
    torch.testing.assert_close(fitted[:3].T @ fitted[:3], COVARIANCE, atol=2e-2, rtol=0)
    back = integrated(gaussian_velocity, data, step_times(32, 2.0)[::-1])
    assert (back - noise).square().mean().sqrt() < 0.01


def test_the_solver_is_of_second_order() -> None:
    start = torch.ones(1, 1, dtype=torch.float64)
    errors = [
        abs(integrated(lambda x, t: x * (1 + t), start, step_times(n, 1.0)).item() - math.exp(1.5))
        for n in (8, 16, 32)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_straight_lines_are_followed_in_one_step() -> None:
    noise, data = torch.randn(4, 7), torch.randn(4, 7)
    torch.testing.assert_close(integrated(lambda x, t: data - noise, noise, [0.0, 1.0]), data)


def test_the_last_step_ends_in_the_image_that_is_predicted() -> None:
    """Also where data lie on a line, off which no noise may stay."""
    config = ImageFlowConfig(**TINY)
    direction = torch.tensor([0.6, 0.8])

    class OnALine(torch.nn.Module):
        def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
            along = x @ direction
            variance = time**2 + (1 - time) ** 2
            return (along * time / variance)[:, None] * direction

    velocity = velocity_of(config, OnALine(), torch.zeros(500, 0))
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    data = integrated(velocity, noise, step_times(16, 2.0))
    across = data @ torch.tensor([-0.8, 0.6])
    assert across.abs().max() < 1e-5
    torch.testing.assert_close(data @ direction, noise @ direction, atol=0.03, rtol=0.02)


def test_a_predicted_image_and_a_predicted_velocity_have_the_same_loss() -> None:
    images = np.random.default_rng(0).normal(0, 1, (64, 256)).astype(np.float32)
    seen = torch.tensor(images).view(-1, 1, 16, 16).asinh()
    losses = []
    for prediction in ("data", "velocity"):
        task = ImageFlowTask(ImageFlowConfig(**TINY, prediction=prediction, peak_weight=0), 0)

        class Known(torch.nn.Module):
            """Predicts the image 0, and the velocity that belongs to it."""

            def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
                return 0 * x if prediction == "data" else -x / (1 - time)[:, None, None, None]  # noqa: B023

        task.modules["flow"] = Known()
        time = torch.linspace(0, 1 - 2 * task._config.least_gap, 64)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(seen.shape, generator=generator)
        rows = Seen(seen, torch.zeros(64, 0), torch.ones(64, dtype=torch.bool))
        losses.append(task._loss(rows, noise, time).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_times_of_steps_grow_from_0_to_1_and_are_closer_near_the_image(power: float) -> None:
    times = np.array(step_times(10, power))
    assert times[0] == 0
    assert times[-1] == 1
    steps = np.diff(times)
    assert (steps > 0).all()
    assert (np.diff(steps) <= 1e-12).all()
    assert steps[-1] == pytest.approx(0.1**power)


def test_loss_of_the_flow_at_the_start_is_the_variance_of_velocities() -> None:
    config = ImageFlowConfig(**TINY, prediction="velocity")
    task = ImageFlowTask(config, 0)
    for parameter in (p for n, p in task.modules["flow"].state_dict().items() if ".last." in n):
        parameter.zero_()
    images = np.random.default_rng(0).normal(0, 0.1, (256, 256)).astype(np.float32)
    wanted = np.arcsinh(images).var() + 1
    assert task.evaluate({"image": images})["velocity"] == pytest.approx(wanted, rel=0.01)


def test_velocity_depends_on_time_and_condition_and_on_no_other_row() -> None:
    told = {"conditions": ("a",), "condition_low": (0.0,), "condition_high": (1.0,)}
    torch.manual_seed(0)
    network = FlowNetwork(ImageFlowConfig(**TINY, **told, num_channels=2, stretched_mean=(0.0,) * 2,
                                          stretched_std=(1.0,) * 2))  # fmt: skip
    x, time, condition = torch.randn(3, 2, 16, 16), torch.rand(3), torch.rand(3, 1)
    with torch.no_grad():
        found = network(x, time, condition)
        assert found.shape == x.shape
        torch.testing.assert_close(network(x[1:2], time[1:2], condition[1:2]), found[1:2])
        assert not torch.allclose(network(x, time + 0.1, condition), found)
        assert not torch.allclose(network(x, time, condition + 0.5), found)


def test_kl_of_the_vae_is_that_of_a_gaussian() -> None:
    torch.manual_seed(0)
    network = ImageVAE(ImageVAEConfig(size=16, width=8, max_width=16, num_latent=5))
    output = network(torch.randn(6, 1, 16, 16), torch.zeros(6, 0), torch.randn(6, 5))
    posterior = Normal(output.latent_mean, (0.5 * output.latent_logvar).exp())
    torch.testing.assert_close(
        latent_kl(output), torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0))
    )
    assert not latent_kl(output._replace(latent_mean=torch.zeros(1), latent_logvar=torch.zeros(1))).any()


def test_likelihood_of_the_vae_is_that_of_torch_with_the_variance_of_the_batch() -> None:
    torch.manual_seed(0)
    images, mean = torch.randn(5, 2, 8, 8), torch.randn(5, 2, 8, 8)
    variance = (images - mean).square().mean((0, 2, 3)).view(-1, 1, 1)
    output = Output(mean, variance.log(), torch.zeros(5, 1), torch.zeros(5, 1))
    wanted = -Normal(mean, variance.sqrt()).log_prob(images).mean()
    torch.testing.assert_close(shared_variance_nll(output, images), wanted)
    torch.testing.assert_close(wanted, 0.5 * (variance.log().mean() + 1 + math.log(2 * math.pi)))
    for factor in (0.8, 1.25):
        other = output._replace(log_variance=(factor * variance).log())
        assert shared_variance_nll(other, images) > wanted


def test_scatter_of_the_vae_is_that_of_its_batch_and_has_a_least_value() -> None:
    torch.manual_seed(0)
    network = ImageVAE(ImageVAEConfig(size=16, width=8, max_width=16, num_latent=5, peak_weight=0))
    images, nothing, noise = torch.randn(6, 1, 16, 16), torch.zeros(6, 0), torch.zeros(6, 5)
    with torch.no_grad():
        output = network(images, nothing, noise)
        torch.testing.assert_close(
            output.log_variance.exp().squeeze(), (images - output.mean).square().mean()
        )
        for parameter in network.decoder.last.parameters():
            parameter.zero_()
        least = network(torch.zeros_like(images), nothing, noise).log_variance.exp()
    assert least.item() == pytest.approx(ImageVAEConfig().least_scatter ** 2)


def test_weights_of_bright_pixels_leave_the_mean_of_the_image_its_least_loss() -> None:
    """Of two images that are equally likely: a weight of what is predicted moves no optimum."""
    task = ImageFlowTask(ImageFlowConfig(**TINY, peak_weight=1.3), 0)
    images = 2 * torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    mean = images.mean(0, keepdim=True)
    losses = {}
    for shift in (-0.01, 0.0, 0.01):
        found = (mean + shift).requires_grad_()
        losses[shift] = task._weighted(found - images, mean.expand_as(images))
        losses[shift].backward()
        assert found.grad is not None
        assert np.sign(found.grad.sum().item()) == np.sign(shift) or found.grad.abs().max() < 1e-6
    assert losses[0.0] < min(losses[-0.01], losses[0.01])
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(4))
    assert bright_weights(normal, 0.7).mean() == pytest.approx(1, abs=0.02)
    weights = bright_weights(torch.tensor([[-1.0, 0.0, 2.0, 9.0]]), 1.3)
    assert (weights[0, 2] / weights[0, 1]).item() == pytest.approx(math.exp(2.6), rel=1e-5)
    assert (weights[0, 3] / weights[0, 1]).item() == pytest.approx(math.exp(6.5), rel=1e-5), (
        "no more from 5 on"
    )
    assert (bright_weights(images, 0.0) == 1).all()


def test_late_times_are_late_and_as_many_as_asked_for() -> None:
    task = ImageFlowTask(ImageFlowConfig(**TINY, late_fraction=0.3, late_gaps=(0.001, 0.002)), 0)
    torch.manual_seed(0)
    gap = 1 - task._times(20_000)
    assert ((gap >= 0) & (gap <= 1)).all()
    late = (gap >= 0.001) & (gap <= 0.002)
    assert late.float().mean() == pytest.approx(0.3, abs=0.02)


def test_a_prior_learns_where_latents_are() -> None:
    """Latents on a ring of radius 2, where N(0, 1) has few: samples lie on it."""
    torch.manual_seed(0)
    prior = LatentPrior(2, 0, 32, 2)
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(500):
        angle = 2 * math.pi * torch.rand(64)
        latent = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(64, 2)
        loss = prior_loss(prior, latent, torch.zeros(64, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = prior.drawn(torch.randn(2000, 2), torch.zeros(2000, 0))
    radius = drawn.norm(dim=1)
    assert radius.median() == pytest.approx(2.0, abs=0.1)
    assert (radius - 2).abs().quantile(0.9) < 0.5, "of N(0, 1) it is 1.5"
    assert drawn.mean(0).abs().max() < 0.2
