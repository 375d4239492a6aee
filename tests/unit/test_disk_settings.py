"""Settings of the disk classifier: which are refused, and what the published ones are."""

import pytest

from models.disk_classifier_config import PRESETS, DiskClassifierConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": ("f150w", "f277w")}, "bands is .* 3 of f115w"),
        ({"bands": ("f277w", "f150w", "f444w")}, "from blue to red"),
        ({"bands": ("f150w", "f277w", "f999w")}, "bands is"),
        ({"network_pixels": 64}, "network_pixels is 64, must be odd"),
        ({"network_pixels": 63}, "a multiple of 2\\^halvings = 16"),
        ({"network_pixels": 97}, "at most 95"),
        ({"network_pixels": 17}, "need 33"),
        ({"size": 60}, "network_pixels is 65, must be at most 59"),
        ({"rotations": 6}, "rotations is 6, must be 4 or 8 or 16"),
        ({"kernel_pixels": 4}, "kernel_pixels is 4, must be 3 or 5"),
        ({"architecture": "resnet"}, "architecture is resnet"),
        ({"fields": ()}, "fields is"),
        ({"halvings": (1, 9)}, "halvings is"),
        ({"halvings": (2, 1)}, "halvings is"),
        ({"softening": 0.0}, "softening is 0.0, must be positive"),
        ({"blur_sigma": 0.0}, "blur_sigma is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"denoised_share": 1.5}, "denoised_share is 1.5"),
        ({"min_aperture_fraction": 0.0}, "min_aperture_fraction is 0.0"),
        ({"centre_pixels": 0.5}, "centre_pixels is 0.5"),
        ({"num_bins": 0}, "num_bins is 0"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiskClassifierConfig(**settings)


def test_published_sees_what_pandya_et_al_see_after_their_first_block() -> None:
    published = PRESETS["published"]
    assert (published.pixels + 1) // 2 == 129
    assert len(published.fields) == 11
