"""The disk classifier's symmetry, exact on the pixel grid and nearly so off it; export, stretch, golden losses."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from models.disk_classifier import DiskClassifierTask, exported, trainable
from models.disk_classifier_config import PRESETS, DiskClassifierConfig, group_parameters, plain_parameters
from models.disk_equivariant import symmetry
from models.disk_networks import Blur, DiskNetwork, Preparation, disc
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import sigmoid
from models.symmetry import NUM_SYMMETRIES, turned
from tests.disks import make_disks
from tests.goldenlosses import compare

CPU = torch.device("cpu")
COMMAND = "python -m pytest tests/numerics/test_disk_networks.py --rewrite-golden"
SMALL = PRESETS["small"]
VARIANTS = {
    "small": SMALL,
    "65 pixels": dataclasses.replace(SMALL, network_pixels=65, halvings=(1, 2, 3, 4)),
    "oversampled": dataclasses.replace(SMALL, oversampling=2),
    "5 x 5": dataclasses.replace(SMALL, kernel_pixels=5, halvings=(1, 2)),
    "4 rotations": dataclasses.replace(SMALL, rotations=4),
    "16 rotations": dataclasses.replace(SMALL, rotations=16, fields=(1, 2, 2), halvings=(1, 2)),
    "noise": dataclasses.replace(SMALL, stretch="noise"),
}


def images(flux: np.ndarray) -> Cutouts:
    """Images [B, 3, N, N] all of whose pixels are usable."""
    science = torch.tensor(flux, dtype=torch.float32)
    return Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))


def galaxies(rows: int, pixels: int, seed: int = 0) -> np.ndarray:
    """Smooth, well resolved, without a symmetry: an ellipse and a companion of another colour, [rows, 3, N, N]."""
    rng = np.random.default_rng(seed)
    at = np.arange(pixels) - pixels // 2
    y, x = np.meshgrid(at, at, indexing="ij")
    result = np.empty((rows, 3, pixels, pixels))
    for row in result:
        ratio, sigma = rng.uniform(0.3, 0.9), rng.uniform(0.08, 0.14) * pixels
        dx, dy = rng.uniform(-0.15, 0.15, 2) * pixels
        ellipse = np.exp(-0.5 * ((x / sigma) ** 2 + (y / (ratio * sigma)) ** 2))
        companion = np.exp(-0.5 * ((x - dx) ** 2 + (y - dy) ** 2) / (0.05 * pixels) ** 2)
        row[:] = [100 * (a * ellipse + b * companion) for a, b in rng.uniform(0.3, 1, (3, 2))]
    return result


def random_network(config: DiskClassifierConfig, seed: int = 0) -> nn.Module:
    """Network as it is trained, with random weights and normalisation as after training on galaxies."""
    torch.manual_seed(seed)
    network = trainable(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        network(images(galaxies(24, config.network_pixels, seed=99)))
    return network.eval()


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def predicting(config: DiskClassifierConfig, network: nn.Module) -> nn.Module:
    """The network that predicts, with the weights of the one that was trained."""
    built = DiskNetwork(config).eval()
    weights = exported(config, arrays(network))
    built.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return built


def logits(network: nn.Module, inputs: Cutouts) -> np.ndarray:
    with torch.no_grad():
        return network(inputs).numpy()


def features(network: nn.Module, flux: np.ndarray) -> np.ndarray:
    """What the last layer sees."""
    found: list[np.ndarray] = []
    hook = network.head.linear.register_forward_pre_hook(lambda _, given: found.append(given[0].numpy()))
    logits(network, images(flux))
    hook.remove()
    return found[0]


def rotated(flux: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(flux, degrees, axes=(2, 3), reshape=False, order=3)


def change(network: nn.Module, before: np.ndarray, after: np.ndarray) -> float:
    """Rms change of the features between two images of each object, in units of their spread among objects."""
    first, second = features(network, before), features(network, after)
    spread = first.std(0)
    used = spread > 0.02 * spread.max()
    return float(np.sqrt(np.mean(((second - first) / spread)[:, used] ** 2)))


@pytest.mark.parametrize("rotations", [4, 8, 16])
def test_the_group_has_as_many_reflections_as_rotations(rotations: int) -> None:
    group = symmetry(rotations).fibergroup
    reflects = [element.value[0] for element in group.elements]
    assert group.order() == 2 * rotations
    assert (reflects.count(0), reflects.count(1)) == (rotations, rotations)
    assert DiskClassifierConfig(rotations=rotations).group_order == group.order()


def test_what_the_papers_call_d16_has_16_elements_and_escnn_calls_it_d8() -> None:
    group = symmetry(DiskClassifierConfig().rotations).fibergroup
    assert (group.order(), group.name) == (16, "D8")


@pytest.mark.parametrize("variant", VARIANTS)
def test_export_says_what_the_trained_network_says(variant: str) -> None:
    config = VARIANTS[variant]
    network = random_network(config)
    inputs = images(galaxies(6, config.network_pixels))
    wanted = logits(network, inputs)
    assert wanted.std(0).min() > 1e-3
    np.testing.assert_allclose(logits(predicting(config, network), inputs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_quarter_turns_and_flips_change_nothing(variant: str) -> None:
    config = VARIANTS[variant]
    network = predicting(config, random_network(config))
    noisy = galaxies(4, config.network_pixels) + np.random.default_rng(1).normal(size=(4, 3, 1, 1))
    noisy += np.random.default_rng(2).normal(size=noisy.shape)
    inputs = images(noisy)
    wanted = logits(network, inputs)
    for element in range(NUM_SYMMETRIES):
        found = logits(network, Cutouts(*(turned(part, element) for part in inputs)))
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0, err_msg=str(element))


def test_averaging_over_the_symmetries_of_the_square_changes_no_probability() -> None:
    """Test-time averaging is not needed: the network is its own average. The plain one is not."""

    def averaged_and_one(network: nn.Module) -> tuple[np.ndarray, np.ndarray]:
        inputs = images(galaxies(8, SMALL.network_pixels))
        turns = [
            logits(network, Cutouts(*(turned(part, n) for part in inputs))) for n in range(NUM_SYMMETRIES)
        ]
        found = [sigmoid(one[:, 1] - one[:, 0]) for one in turns]
        return np.mean(found, 0), found[0]

    averaged, one = averaged_and_one(predicting(SMALL, random_network(SMALL)))
    np.testing.assert_allclose(averaged, one, atol=1e-6)
    averaged, one = averaged_and_one(random_network(dataclasses.replace(SMALL, architecture="plain")))
    assert np.abs(averaged - one).max() > 1e-3


def test_the_plain_network_has_no_such_symmetry() -> None:
    config = dataclasses.replace(SMALL, architecture="plain")
    network, flux = random_network(config), galaxies(12, SMALL.network_pixels)
    assert change(network, flux, rotated(flux, 90)) > 0.3


def test_rotations_off_the_grid_change_little_and_less_than_in_the_plain_network() -> None:
    # Of networks with random weights on objects that are well sampled. The rest is aliasing: smaller kernels and
    # smaller objects have more of it, and what a network learns can have more or less.
    config, flux = VARIANTS["65 pixels"], galaxies(12, 65)
    turned_by = {degrees: rotated(flux, degrees) for degrees in (22.5, 45)}

    def changes(config: DiskClassifierConfig) -> np.ndarray:
        networks = [random_network(config, seed) for seed in range(3)]
        return np.median([[change(net, flux, after) for after in turned_by.values()] for net in networks], 0)

    group, wide, plain = (
        changes(dataclasses.replace(config, **setting))
        for setting in ({}, {"kernel_pixels": 5}, {"architecture": "plain"})
    )
    assert (group < 0.3).all()
    assert (wide < 0.2).all()
    assert (group < 0.5 * plain).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_free_parameters_are_what_escnn_has_and_the_plain_network_has_as_many(variant: str) -> None:
    config = VARIANTS[variant]
    num = sum(p.numel() for p in trainable(config).parameters())
    assert num == group_parameters(config)
    plain = dataclasses.replace(config, architecture="plain")
    num_plain = sum(p.numel() for p in trainable(plain).parameters())
    assert num_plain == plain_parameters(plain.widths, config.kernel_pixels)
    assert num_plain == pytest.approx(num, rel=0.05)


@pytest.mark.parametrize("name", PRESETS)
def test_plain_networks_of_all_presets_have_as_many_parameters(name: str) -> None:
    plain = dataclasses.replace(PRESETS[name], architecture="plain")
    assert len(plain.widths) == len(plain.fields)
    found = plain_parameters(plain.widths, plain.kernel_pixels)
    assert found == pytest.approx(group_parameters(plain), rel=0.05)


def test_weights_of_another_network_are_refused_with_what_was_expected() -> None:
    weights = arrays(trainable(SMALL))
    other = dataclasses.replace(SMALL, rotations=4)
    with pytest.raises(
        ValueError, match=r"sampled_basis is \(6, 16, 1, 9\), expected \(6, 8, 1, 9\).* rotations 4"
    ):
        exported(other, weights)
    with pytest.raises(ValueError, match=r"expected \(36,\).* fields \(2, 2, 4, 6\)"):
        exported(
            dataclasses.replace(SMALL, fields=(2, 2, 4, 6)),
            weights | {"blocks.0.convolution.weights": weights["blocks.0.convolution.weights"][:-1]},
        )
    with pytest.raises(ValueError, match=r"convolution.weight is nothing, expected .* plain network"):
        exported(dataclasses.replace(SMALL, architecture="plain"), weights)
    with pytest.raises(ValueError, match="must be plain"):
        DiskNetwork(SMALL, normalised=True)


def test_networks_of_one_process_share_nothing() -> None:
    first, second = trainable(SMALL), trainable(SMALL)
    for network in (first, second):
        assert len({value.data_ptr() for value in network.state_dict().values()}) == len(network.state_dict())
    shared = {value.data_ptr() for value in first.state_dict().values()}
    assert not shared & {value.data_ptr() for value in second.state_dict().values()}


def test_blur_is_a_gaussian_of_which_every_second_pixel_is_kept() -> None:
    values = np.random.default_rng(0).normal(size=(1, 2, 17, 17))
    found = Blur(1.0)(torch.tensor(values, dtype=torch.float32)).numpy()
    for channel in range(2):
        wanted = ndimage.gaussian_filter(values[0, channel], 1.0, mode="constant", truncate=3.0)
        np.testing.assert_allclose(found[0, channel], wanted[::2, ::2], atol=1e-6)


def test_disc_has_the_area_of_a_circle() -> None:
    assert float(disc(65, 20).sum()) == pytest.approx(np.pi * 20**2, rel=2e-3)


def test_brightness_is_divided_out_and_colours_stay() -> None:
    prepare, noise = Preparation(SMALL), torch.tensor(SMALL.noise_njy)[:, None, None].numpy()
    flux = 100 * noise * galaxies(5, SMALL.network_pixels)
    inputs = prepare(images(flux))
    torch.testing.assert_close(prepare(images(30 * flux)), inputs, rtol=1e-5, atol=1e-6)
    redder = flux * np.array([1, 1, 3])[:, None, None]
    assert not torch.allclose(prepare(images(redder)), inputs, atol=0.05)
    shown = Preparation(dataclasses.replace(SMALL, stretch="noise"))
    assert (shown(images(30 * flux)) - shown(images(flux))).max() > 2


def test_stretch_is_asinh_in_units_of_brightness_but_never_of_less_than_the_noise() -> None:
    # Constant images: brightness is the flux itself, in units of the noise.
    noise = torch.tensor(SMALL.noise_njy)[:, None, None].numpy()
    middle = SMALL.network_pixels // 2
    for brightness in (0.3, 5.0, 200.0):
        flux = brightness * noise * np.ones((1, 3, SMALL.network_pixels, SMALL.network_pixels))
        wanted = np.arcsinh(brightness) / np.arcsinh(max(brightness, 1)) if brightness < 10 else 1.0
        found = Preparation(SMALL)(images(flux))
        np.testing.assert_allclose(found[0, :, middle, middle], wanted, rtol=1e-5)
        assert (found[0, :, 0, 0] == 0).all()


def test_unusable_pixels_are_nothing_and_no_pixel_is_no_error() -> None:
    flux = 50 * galaxies(2, SMALL.network_pixels)
    inputs = images(flux)
    inputs.usable[0, :, 10:14, 12] = False
    wild = inputs._replace(science=torch.where(inputs.usable, inputs.science, 1e9))
    np.testing.assert_array_equal(Preparation(SMALL)(wild), Preparation(SMALL)(inputs))
    inputs.usable[:] = False
    assert (Preparation(SMALL)(inputs) == 0).all()


def test_images_of_other_bands_or_another_size_are_refused() -> None:
    network = DiskNetwork(SMALL)
    with pytest.raises(
        ValueError, match=r"images are \(6, 33, 33\), must be \(3, 33, 33\): bands f150w f277w f444w"
    ):
        network(images(np.zeros((1, 6, 33, 33))))
    with pytest.raises(ValueError, match=r"images are \(3, 32, 32\)"):
        network(images(np.zeros((1, 3, 32, 32))))


def test_golden_losses(rewrite_golden: bool) -> None:
    torch.set_num_threads(1)
    # Of the plain network: escnn's basis may have other signs where LAPACK is another, and then the group network
    # starts elsewhere. What it computes is held by the tests above.
    task = DiskClassifierTask(dataclasses.replace(SMALL, size=40, architecture="plain"), 0)
    task.start(CPU, 20)
    losses = [task.step(make_disks(16, 40, seed=step), step)["loss"] for step in range(20)]
    compare(
        "disk_classifier",
        losses,
        rewrite_golden,
        "cross-entropy of the first 20 steps of a small plain disk classifier on toy disks",
        COMMAND,
    )
