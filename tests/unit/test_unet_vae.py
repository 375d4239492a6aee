"""The U-Net VAE: what its latent and skips do, what it refuses, what masked pixels change."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.latents import latent_use
from engine.flags import BLENDED, NOT_SCORED
from models.scoring.cutouts import Cutouts, cutouts
from models.unet_vae import SPEC, UNetVAETask
from models.unet_vae_config import PRESETS, UNetVAEConfig
from models.unet_vae_networks import UNetVAE
from tests.cutouts import by_band, hide_band, make_cutouts
from tests.goldenlosses import compare

CPU = torch.device("cpu")
S = 24
COMMAND = "make golden"


def small(**settings) -> UNetVAEConfig:
    base = UNetVAEConfig(
        size=S, width=8, levels=2, num_latent=8, skip_levels=(0, 1), precision="float32", learning_rate=3e-3
    )
    return dataclasses.replace(base, **settings)


def bernoulli(**settings) -> UNetVAEConfig:
    return small(
        likelihood="bernoulli", stretch="linear", num_bands=3, scale_njy=(1.0,) * 3, noise_input=False,
        **settings,
    )  # fmt: skip


def pairs(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Simple galaxies with noise, and without."""
    return make_cutouts(rows, S, seed) | {"clean": make_cutouts(rows, S, seed, noise=1e-6)["science"]}


def colour_pairs(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same as three channels in [0, 1]."""
    batch = pairs(rows, seed)
    for name in ("science", "error", "mask", "clean"):
        batch[name] = by_band(batch[name], S)[:, :3].reshape(rows, -1)
    for name in ("science", "clean"):
        batch[name] = np.clip(np.arcsinh(batch[name]) / 8, 0, 1)
    return batch


def started(config: UNetVAEConfig, steps: int = 100, seed: int = 0) -> UNetVAETask:
    task = UNetVAETask(config, seed)
    task.start(CPU, steps)
    return task


def network(config: UNetVAEConfig, seed: int = 0) -> UNetVAE:
    torch.manual_seed(seed)
    return UNetVAE(config).eval()


def seen(batch: dict[str, np.ndarray], num_bands: int = 6) -> Cutouts:
    return cutouts(batch, S, CPU, num_bands)


@pytest.mark.parametrize(
    "config", [small(), small(skip_gate="full"), small(skip_gate="none"), small(num_latent=0)]
)
def test_shapes_and_a_gradient_for_every_parameter(config: UNetVAEConfig) -> None:
    model = network(config)
    output = model(seen(pairs(3)), torch.randn(3, config.num_latent))
    assert output.mean.shape == output.log_variance.shape == (3, 6, S, S)
    assert output.latent_mean.shape == output.latent_logvar.shape == (3, config.num_latent)
    task = started(config)
    task.step(pairs(8), 0)
    for name, parameter in task.modules["unet_vae"].named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_pixels_are_taken_over_where_the_network_says_so_and_skips_are_open() -> None:
    model, images = network(small(skip_gate="full")), seen(pairs(4))
    noise = torch.zeros(4, 8)
    with torch.no_grad():
        model.last.weight.zero_()
        model.last.bias[: images.science.shape[1]] = 0
        model.last.bias[-images.science.shape[1] :] = 30
        kept = model.flux(model(images, noise))
        closed = model.flux(model(images, noise, torch.zeros(4)))
    torch.testing.assert_close(kept, images.science * images.usable, rtol=1e-4, atol=1e-5)
    assert not closed.any()


def test_a_gate_of_zero_is_no_skip() -> None:
    model, images = network(small(identity_skip=False)), seen(pairs(4))
    levels, latent, _ = model.encode(images)
    other = [level + torch.randn_like(level) for level in levels]
    noise = torch.zeros(4, 8)
    with torch.no_grad():
        assert not torch.equal(model.decode(latent, levels)[0], model.decode(latent, other)[0])
        closed = model(images, noise, torch.zeros(4)).mean
        for skip in model.skips.values():
            skip.gate.zero_()
        assert torch.equal(model.decode(latent, levels)[0], model.decode(latent, other)[0])
        assert torch.equal(model(images, noise).mean, closed), "closed skips are gates of 0"


def test_without_skips_only_the_latent_reaches_the_output() -> None:
    model, images = network(small(skip_gate="none")), seen(pairs(4))
    levels, latent, _ = model.encode(images)
    with torch.no_grad():
        wanted = model.decode(latent, levels)[0]
        assert torch.equal(wanted, model.decode(latent, [torch.randn_like(level) for level in levels])[0])
        assert not torch.equal(wanted, model.decode(latent + 1, levels)[0])


def test_skips_are_closed_for_the_part_of_the_images_that_is_asked_for() -> None:
    opened: list[torch.Tensor] = []

    class Recorder(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, images, noise, is_open):
            opened.append(is_open)
            return self.module(images, noise, is_open)

    task = started(small(skip_dropout=0.3))
    task.modules["unet_vae"] = Recorder(task.modules["unet_vae"])
    for step in range(8):
        task.step(pairs(16), step)
    task.evaluate(pairs(4))
    assert opened.pop() is None
    share = torch.cat(opened).mean().item()
    assert share == pytest.approx(0.7, abs=0.15)


def test_after_a_little_training_the_latent_says_something_and_swapping_it_changes_the_image() -> None:
    torch.set_num_threads(1)
    task = started(small(), 120)
    train = pairs(64, 1)
    for step in range(120):
        rows = np.arange(16) + 16 * (step % 4)
        task.step({name: values[rows] for name, values in train.items()}, step)
    metrics = task.evaluate(train)
    assert metrics["active_latents"] >= 2
    assert metrics["kl"] > 1
    shares = [metrics[f"kl_latent_{which}"] for which in ("min", "median", "max")]
    assert shares == sorted(shares)
    assert shares[0] < metrics["kl"] / small().num_latent < shares[-1] <= metrics["kl"]
    use = latent_use(task, small(), [train])
    assert use["kl"] == metrics["kl"]
    assert use["swap_db"] > 0.1
    assert len(use["kl_latents"]) == small().num_latent
    assert sum(use["kl_latents"]) == pytest.approx(metrics["kl"], rel=1e-4)
    assert max(use["kl_latents"]) == pytest.approx(metrics["kl_latent_max"], rel=1e-4)
    model = task.modules["unet_vae"].eval()
    assert isinstance(model, UNetVAE)
    images = seen(train)
    with torch.no_grad():
        levels, latent, _ = model.encode(images)
        closed = torch.zeros(64)
        own, swapped = (model.decode(z, levels, closed)[0] for z in (latent, latent.flip(0)))
        clean = model.stretch(torch.tensor(train["clean"]).view(images.science.shape))
        assert not torch.equal(model.decode(latent, levels)[0], model.decode(latent.flip(0), levels)[0])
    error, swapped_error = ((image - clean).square().mean().item() for image in (own, swapped))
    assert swapped_error > 1.3 * error
    assert metrics["psnr"] > started(small()).evaluate(train)["psnr"] + 3


@pytest.mark.parametrize("config", [small(), small(stretch="linear"), bernoulli()])
def test_values_under_the_mask_change_neither_loss_nor_output(config: UNetVAEConfig) -> None:
    batch = pairs(6) if config.num_bands == 6 else colour_pairs(6)
    mask = np.random.default_rng(0).random(batch["mask"].shape) < 0.2
    batch["mask"] = mask
    changed = {name: values.copy() for name, values in batch.items()}
    for name, value in (("science", 1e4), ("error", 7.0), ("clean", -1e4)):
        changed[name][mask] = value
    changed["science"][0, np.flatnonzero(mask[0])[0]] = np.nan
    first, second = started(config), started(config)
    assert first.evaluate(batch) == second.evaluate(changed)
    assert first.step(batch, 0) == second.step(changed, 0)
    outputs = [SPEC.predictor(config, network(config), {}, CPU)(b) for b in (batch, changed)]
    for name, values in outputs[0].items():
        np.testing.assert_array_equal(values, outputs[1][name], err_msg=name)


def test_pixels_of_the_target_that_are_not_numbers_do_not_count() -> None:
    batch, other = pairs(4), pairs(4)
    batch["clean"][1, 5] = np.nan
    other["mask"] = other["mask"].copy()
    assert np.isfinite(started(small()).step(batch, 0)["loss"])
    batch["clean"][:] = np.nan
    metrics = started(small()).evaluate(batch)
    assert metrics["reconstruction"] == 0
    assert "psnr" not in metrics, "no image has light to compare with"


def test_same_seed_and_step_repeat_and_state_survives() -> None:
    batch = pairs(8)
    whole, first, second = (started(small(), seed=2) for _ in range(3))
    wanted = [whole.step(batch, step) for step in range(4)]
    found = [first.step(batch, step) for step in range(2)]
    second.load_state_dict(first.state_dict())
    found += [second.step(batch, step) for step in range(2, 4)]
    assert found == wanted
    assert started(small(), seed=3).step(batch, 0)["loss"] != wanted[0]["loss"]
    assert first.step(batch, 7)["loss"] != first.step(batch, 8)["loss"]


def test_predictions_are_what_their_columns_say() -> None:
    config, batch = small(max_flux_njy=1e9), pairs(5)
    hide_band(batch, 3, S, 5)
    batch["mask"][4] = True
    model = network(config)
    out = SPEC.predictor(config, model, {}, CPU)(batch)
    images = seen(batch)
    with torch.no_grad():
        output = model(images, torch.zeros(5, 8))
        flux = model.flux(output).numpy()
    np.testing.assert_array_equal(out["denoised"][:4], flux[:4].reshape(4, -1))
    usable = images.usable.numpy()
    pull = (images.science.numpy() - flux) / images.error.numpy()
    for row in range(4):
        assert out["residual_chi2"][row] == pytest.approx((pull[row][usable[row]] ** 2).mean(), rel=1e-4)
    y, x = np.mgrid[:S, :S] - S // 2
    inside = np.hypot(x - batch["dx"][0], y - batch["dy"][0]) < 10
    good = inside & usable[0, 5]
    wanted = flux[0, 5][good].sum() / images.science[0, 5].numpy()[good].sum()
    assert out["denoised_fraction"][0] == pytest.approx(wanted, rel=0.05), "pixels count whole here"
    assert list(out["flags"] & NOT_SCORED.value > 0) == [False, False, False, True, True]
    assert np.isnan(out["denoised_fraction"][3:]).all()
    assert np.isfinite(out["residual_chi2"][3]), "other bands are there"
    assert np.isnan(out["denoised"][4]).all()


def gives_back(config: UNetVAEConfig, keep: float) -> UNetVAE:
    """A network that keeps part `keep` of each stretched pixel and adds nothing."""
    model = network(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.last.bias[-config.num_bands :] = math.log(keep / (1 - keep))
    return model


def blobs(*places: tuple[float, float]) -> dict[str, np.ndarray]:
    """One cutout with compact objects at `places` [pixel from the middle], and noise."""
    batch = pairs(1)
    batch["dx"], batch["dy"] = np.zeros((2, 1), np.float32)
    y, x = np.mgrid[:S, :S] - S // 2
    light = sum((np.exp(-0.5 * ((x - dx) ** 2 + (y - dy) ** 2)) for dx, dy in places), np.zeros((S, S)))
    error = by_band(batch["error"], S)
    grain = np.random.default_rng(3).standard_normal(error.shape)
    science = light * 100 * np.median(error) + error * grain
    return batch | {
        "science": science.reshape(1, -1).astype(np.float32),
        "mask": np.zeros(batch["mask"].shape, bool),
    }


@pytest.mark.parametrize("keep", [1e-9, 0.6])
def test_objects_whose_neighbour_is_removed_are_flagged_as_blended_and_dimmed_ones_are_not(
    keep: float,
) -> None:
    config = small(skip_gate="full", aperture_radius_arcsec=0.12)
    predict = SPEC.predictor(config, gives_back(config, keep), {}, CPU)
    rows = [blobs((0, 0)), blobs((0, 0), (6, 0)), blobs()]
    out = predict({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})
    assert out["denoised_fraction"][0] < 0.6, "dimmed in its centre"
    assert ((out["flags"] & BLENDED.value) != 0).tolist() == [False, True, False]


def test_an_object_with_a_negative_flux_is_scored_without_a_fraction() -> None:
    batch = pairs(2)
    batch["science"][0] = -np.abs(batch["science"][0])
    out = SPEC.predictor(small(), network(small()), {}, CPU)(batch)
    assert not (out["flags"] & NOT_SCORED.value).any()
    assert np.isfinite(out["denoised"]).all()
    assert np.isnan(out["denoised_fraction"]).tolist() == [True, False]


def test_reconstruction_has_the_scatter_of_the_likelihood() -> None:
    batch = colour_pairs(3)
    out = SPEC.reconstruct(bernoulli(), network(bernoulli()), batch) if SPEC.reconstruct else {}
    assert ((out["recon"] > 0) & (out["recon"] < 1)).all()
    np.testing.assert_allclose(out["sigma"], np.sqrt(out["recon"] * (1 - out["recon"])), rtol=1e-4)


def test_images_outside_of_0_to_1_are_refused_for_cross_entropy() -> None:
    config = bernoulli()
    task = started(config)
    assert np.isfinite(task.step(colour_pairs(4), 0)["loss"])
    bright = colour_pairs(4)
    bright["clean"][0, 0] = 1.5
    with pytest.raises(ValueError, match=r"clean is between .* and 1.5, must be in \[0, 1\]"):
        task.step(bright, 0)
    negative = colour_pairs(4)
    negative["science"][0] = -0.25
    with pytest.raises(ValueError, match=r"science is between -0.25 and .*, must be in \[0, 1\]"):
        SPEC.predictor(config, network(config), {}, CPU)(negative)


def test_bad_batches_are_refused_with_what_was_expected() -> None:
    batch = pairs(2)
    without = {name: values for name, values in batch.items() if name != "clean"}
    with pytest.raises(ValueError, match="batch has no column clean"):
        started(small()).step(without, 0)
    with pytest.raises(ValueError, match=r"clean is \(2, 5\), must be \(2, 3456\) as science"):
        started(small()).step(batch | {"clean": batch["clean"][:, :5]}, 0)
    with pytest.raises(ValueError, match=r"science is \(2, 3456\), must be \[rows, 6144\]"):
        started(small(size=32)).step(batch, 0)
    fewer = {n: by_band(batch[n], S)[:, :4].reshape(2, -1) for n in ("science", "error", "mask")}
    with pytest.raises(ValueError, match=r"science is \(2, 2304\), must be \[rows, 3456\]"):
        SPEC.predictor(small(), network(small()), {}, CPU)(batch | fewer)
    with pytest.raises(TypeError, match="module is a Linear, expected UNetVAE"):
        SPEC.predictor(small(), torch.nn.Linear(1, 1), {}, CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 30}, "size is 30, must be a multiple of 2"),
        ({"scale_njy": (1.0,)}, "scale_njy is .* must be 6 values"),
        ({"scale_njy": (0.0,) * 6}, "scale_njy is .* must be positive"),
        ({"skip_levels": (0, 2)}, "skip_levels is .* must be different levels of 0 to 1"),
        ({"skip_levels": ()}, "skip_levels is .* must be one or more unless skip_gate is none"),
        ({"skip_gate": "half"}, "skip_gate is half, must be learned or full or none"),
        ({"skip_gate_start": 0.0}, "skip_gate_start is 0.0"),
        ({"skip_dropout": 1.0}, "skip_dropout is 1.0"),
        ({"likelihood": "bernoulli"}, "stretch is asinh, must be linear if likelihood is bernoulli"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"num_latent": -1}, "num_latent is -1"),
        ({"min_aperture_fraction": 0.0}, "min_aperture_fraction is 0.0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_presets_are_what_is_published_and_what_fits_a_cpu() -> None:
    published = PRESETS["published"]
    assert (published.size, published.num_bands, published.likelihood) == (256, 3, "bernoulli")
    assert {column.name: column.length for column in SPEC.reads(published)}["science"] == 3 * 256 * 256
    assert SPEC.trains_on is not None
    assert [column.name for column in SPEC.trains_on(published)] == ["clean"]
    assert sum(p.numel() for p in UNetVAE(PRESETS["small"]).parameters()) < 500_000


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    task = started(small(), steps=20)
    losses = [task.step(pairs(8, step), step)["loss"] for step in range(20)]
    what = "loss of the first 20 steps of a small U-Net VAE on simple galaxies"
    compare("unet_vae", losses, rewrite_golden, what, COMMAND)


def test_bright_images_are_cleaned_as_faint_ones_and_keep_their_flux() -> None:
    """Above the limit the network is equivariant to brightness."""
    config = small(max_flux_njy=50.0)
    model, batch = network(config).eval(), pairs(4)
    batch["science"], batch["error"] = (30 * batch[name] for name in ("science", "error"))
    brighter = batch | {name: 7 * batch[name] for name in ("science", "error")}
    predict = SPEC.predictor(config, model, {}, torch.device("cpu"))
    one, other = predict(batch), predict(brighter)
    np.testing.assert_allclose(other["denoised"], 7 * one["denoised"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(other["latent_kl"], one["latent_kl"], rtol=1e-3)
    faint = small(max_flux_njy=1e9)
    untouched = SPEC.predictor(faint, model, {}, torch.device("cpu"))(batch)
    assert (np.abs(untouched["denoised"] - one["denoised"]).max(1) > 1e-3).all()
