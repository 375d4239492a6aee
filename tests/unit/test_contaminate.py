"""Contaminated images: what was added is what the truth says, and the target stays visible."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import (
    Optics,
    gaussian_optics,
    gaussian_psf,
    nircam_optics,
    sampled_psf,
)
from engine.synthetic.contaminate.simulate import Contaminated, Contaminator
from engine.synthetic.contaminate.sources import keep_off_px
from engine.synthetic.contaminate.target import half_light_snr, measure_target, radii

S, B, C = 48, 6, 3
RMS = 0.1
QUIET = {"trail_probability": 0.0, "hits_per_channel": 0.0, "edge_probability": 0.0}
"""Galaxies, stars and noise only."""


def optics() -> Optics:
    return gaussian_optics((2.5, 2.5, 2.5), (RMS,) * C, 0.03)


def clean_images(rows: int = B) -> tuple[np.ndarray, np.ndarray]:
    """Round Gaussians in the middle, brightest in the second channel, and a flat error map."""
    width = np.linspace(2, 4, rows)[:, None, None]
    shape = np.exp(-0.5 * np.square(radii(S, S // 2, S // 2) / width)) / (2 * np.pi * width**2)
    flux = np.array([100, 300, 200])[:, None, None]
    clean = (shape[:, None] * flux).astype(np.float32)
    return clean, np.full(clean.shape, RMS, np.float32)


def contaminated(epoch: int = 0, rows: slice = slice(None), **settings) -> Contaminated:
    clean, error = clean_images()
    keys = np.arange(100, 100 + B)[rows]
    return Contaminator(ContaminateConfig(**settings), optics())(clean[rows], error[rows], keys, epoch)


BUSY = {"trail_probability": 0.5, "hits_per_channel": 2.0, "edge_probability": 0.5}


def test_same_key_and_epoch_give_the_same_image_whatever_the_batch() -> None:
    whole, again = contaminated(**BUSY), contaminated(**BUSY)
    reversed_rows = contaminated(rows=slice(None, None, -1), **BUSY)
    alone = contaminated(rows=slice(2, 3), **BUSY)
    for name in ("science", "error", "mask", "added"):
        values = getattr(whole, name)
        np.testing.assert_array_equal(values, getattr(again, name))
        np.testing.assert_array_equal(values, getattr(reversed_rows, name)[::-1])
        np.testing.assert_array_equal(values[2:3], getattr(alone, name))


def test_another_epoch_key_or_seed_gives_another_image() -> None:
    clean, error = clean_images(1)
    make = Contaminator(ContaminateConfig(), optics())
    images = [make(clean, error, [key], epoch).science for key, epoch in ((1, 0), (1, 1), (2, 0))]
    images += [make(clean, error, [key], 0).science for key in ("a", "b")]
    images += [Contaminator(ContaminateConfig(seed=2), optics())(clean, error, [1], 0).science]
    assert len({image.tobytes() for image in images}) == len(images)
    assert make(clean, error, [-5], 0).science.shape == (1, C, S, S), "identifiers may be negative"


def test_science_is_clean_plus_added_plus_noise() -> None:
    quiet = contaminated(noise="none", **BUSY)
    wanted = np.where(quiet.mask, 0, quiet.clean + quiet.added)
    np.testing.assert_allclose(quiet.science, wanted, rtol=1e-6)
    noisy = contaminated(**BUSY)
    pull = ((noisy.science - noisy.clean - noisy.added) / np.where(noisy.mask, 1, noisy.error))[~noisy.mask]
    assert pull.std() == pytest.approx(1, abs=0.02)
    assert pull.mean() == pytest.approx(0, abs=0.02)


def test_added_flux_equals_the_truth() -> None:
    out = contaminated(**BUSY)
    assert {c.kind for row in out.contaminants for c in row} == {"galaxy", "star", "trail", "hit", "edge"}
    for added, found in zip(out.added, out.contaminants, strict=True):
        np.testing.assert_allclose(added.sum((1, 2)), sum(c.flux for c in found), rtol=1e-4, atol=1e-3)


def test_a_contaminant_has_the_magnitude_relative_to_the_target_that_is_asked_for() -> None:
    settings = {"min_sources": 1, "max_sources": 1, "star_fraction": 1.0, "max_centre_share": 1.0}
    offsets = {"brightest_mag_offset": 1.0, "faintest_mag_offset": 1.0}
    inside = 0
    for epoch in range(4):
        out = contaminated(epoch, **settings, **offsets, **QUIET)
        for clean, (star,) in zip(out.clean, out.contaminants, strict=True):
            if min(star.x, star.y) > 8 and max(star.x, star.y) < S - 8 and star.mag_offset == 1.0:
                inside += 1
                assert star.flux.max() == pytest.approx(10**-0.4 * clean.sum((1, 2)).max(), rel=0.05)
    assert inside


def test_number_of_sources_is_within_the_limits() -> None:
    counts = {len(row) for epoch in range(4) for row in contaminated(epoch, **QUIET).contaminants}
    assert counts == {1, 2, 3}
    assert not any(contaminated(min_sources=0, max_sources=0, **QUIET).contaminants)


@pytest.mark.parametrize("epoch", range(3))
def test_contaminants_never_hide_the_centre_of_the_target(epoch: int) -> None:
    config = ContaminateConfig(brightest_mag_offset=-4.0, **{**BUSY, "trail_sigma": (50.0, 60.0)})
    clean, error = clean_images()
    out = Contaminator(config, optics())(clean, error, range(B), epoch)
    middle = (slice(None), 1, S // 2, S // 2)
    trail_at_3_sigma = 60 * RMS * math.exp(-4.5)
    assert (out.added[middle] <= config.max_centre_share * clean[middle] + trail_at_3_sigma).all()
    assert not out.mask[:, :, S // 2, S // 2].any()
    for row, found in enumerate(out.contaminants):
        nearest = keep_off_px(config, measure_target(clean[row], error[row]), S)
        for one in found:
            if one.kind != "hit":  # its start may be nearer, its pixels are not
                assert math.hypot(one.x - S // 2, one.y - S // 2) >= nearest - 1e-6


def test_hits_are_masked_in_the_share_that_is_asked_for_and_lie_in_one_channel() -> None:
    clean, error = clean_images()
    settings = {**QUIET, "hits_per_channel": 3.0, "max_sources": 0, "min_sources": 0}
    for share in (0.0, 1.0):
        make = Contaminator(ContaminateConfig(masked_hits=share, **settings), optics())
        out = make(clean, error, range(B), 0)
        assert (out.added > 0).any()
        np.testing.assert_array_equal(out.mask, (out.added > 0) & (share > 0))
    make = Contaminator(ContaminateConfig(masked_hits=0.5, **settings), optics())
    out = make(clean, error, range(B), 0)
    assert 0.2 < out.mask.sum() / (out.added > 0).sum() < 0.8


@pytest.mark.parametrize("is_masked", [True, False])
def test_trails_are_masked_only_if_asked_for(is_masked: bool) -> None:
    settings = {**QUIET, "trail_probability": 1.0, "max_sources": 0, "min_sources": 0}
    out = contaminated(mask_trails=is_masked, noise="none", **settings)
    for added, mask, (trail,) in zip(out.added, out.mask, out.contaminants, strict=True):
        other = np.delete(added, trail.channel, axis=0)
        assert not other.any(), "a trail is in one channel"
        assert mask.any() == is_masked
        ridge = added[trail.channel].max()
        assert (
            mask[trail.channel] == (added[trail.channel] > ridge / 16 * 1.02)
        ).mean() > 0.97 or not is_masked
        low, high = (RMS * s for s in ContaminateConfig().trail_sigma)
        assert 0.9 * low < ridge <= high


def test_edges_are_masked_in_all_channels_and_have_no_values() -> None:
    out = contaminated(**{**QUIET, "edge_probability": 1.0})
    assert (out.mask == out.mask[:, :1]).all()
    assert (out.mask.mean((1, 2, 3)) < 0.5).all()
    assert out.mask.any()
    assert not out.science[out.mask].any()
    assert not out.error[out.mask].any()
    assert (out.error[~out.mask] > 0).all()


def test_pixels_masked_before_stay_masked_and_do_not_count() -> None:
    clean, error = clean_images(1)
    mask = np.zeros(clean.shape, bool)
    mask[0, :, :5] = True
    clean[mask] = np.nan
    out = Contaminator(ContaminateConfig(**QUIET), optics())(clean, error, [1], 0, mask)
    np.testing.assert_array_equal(out.mask, mask)
    assert np.isfinite(out.science).all()


@pytest.mark.parametrize("snr", [3.0, 40.0])
def test_signal_to_noise_is_what_was_asked_for(snr: float) -> None:
    clean, error = clean_images()
    settings = {**QUIET, "max_sources": 0, "min_sources": 0}
    out = Contaminator(ContaminateConfig(snr=(snr,), **settings), optics())(clean, error, range(B), 0)
    for row in range(B):
        target = measure_target(clean[row], error[row])
        assert half_light_snr(clean[row], out.error[row], target) == pytest.approx(snr, rel=1e-4)
        # Closed form: a round Gaussian of width s has half of its flux F within s sqrt(2 ln 2), and noise
        # sigma per pixel gives S/N = F / 2 / (sigma sqrt(pi 2 ln 2) s).
        width = np.linspace(2, 4, B)[row]
        sigma = float(out.error[row, 1, 0, 0])
        closed = 150 / (sigma * math.sqrt(2 * math.pi * math.log(2)) * width)
        assert closed == pytest.approx(snr, rel=0.12), "pixels count whole"


def test_scatter_of_aperture_fluxes_is_that_of_the_stated_signal_to_noise() -> None:
    clean, error = clean_images(1)
    make = Contaminator(
        ContaminateConfig(snr=(10.0,), **{**QUIET, "max_sources": 0, "min_sources": 0}), optics()
    )
    inside = radii(S, S // 2, S // 2) <= measure_target(clean[0], error[0]).half_light_px
    flux = [make(clean, error, [1], epoch).science[0, 1, inside].sum() for epoch in range(400)]
    light = clean[0, 1, inside].sum()
    # 400 draws know a standard deviation to 3.5 %.
    assert light / np.std(flux) == pytest.approx(10, rel=0.12)
    assert np.mean(flux) == pytest.approx(light, rel=0.02)


def test_range_of_signal_to_noise_is_drawn_from() -> None:
    out = contaminated(snr=(5.0, 50.0), **{**QUIET, "max_sources": 0, "min_sources": 0})
    clean, error = clean_images()
    found = [
        half_light_snr(c, e, measure_target(c, f)) for c, e, f in zip(clean, out.error, error, strict=True)
    ]
    assert min(found) >= 5 * 0.999
    assert max(found) <= 50 * 1.001
    assert np.ptp(found) > 5


def test_half_light_radius_and_flux_of_a_gaussian() -> None:
    clean, error = clean_images()
    for row, width in enumerate(np.linspace(2, 4, B)):
        target = measure_target(clean[row], error[row])
        assert target.channel == 1
        assert target.flux == pytest.approx(300, rel=0.01)
        assert target.half_light_px == pytest.approx(width * math.sqrt(2 * math.log(2)), abs=0.6)


def test_image_without_light_is_contaminated_too() -> None:
    clean, error = clean_images(1)
    out = Contaminator(ContaminateConfig(snr=(10.0,)), optics())(0 * clean, error, [1], 0)
    assert np.isfinite(out.science).all()
    np.testing.assert_allclose(out.error[~out.mask], RMS)


def test_colour_images_stay_in_their_range() -> None:
    clean, error = clean_images()
    clean /= clean.max()
    settings = {**BUSY, "saturates_at": 1.0, "brightest_mag_offset": -3.0}
    out = Contaminator(ContaminateConfig(**settings), optics())(clean, 0.1 * error, range(B), 0)
    assert out.science.min() >= 0
    assert out.science.max() <= 1


def test_nircam_noise_is_correlated_and_contaminants_bring_photon_noise() -> None:
    clean, error = np.zeros((1, 6, 64, 64), np.float32), np.full((1, 6, 64, 64), RMS, np.float32)
    none = ContaminateConfig(**{**QUIET, "max_sources": 0, "min_sources": 0})
    make = Contaminator(none, nircam_optics())
    noise = np.concatenate([make(clean, error, [1], epoch).science for epoch in range(8)]) / RMS
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean((0, 2, 3))
    assert (neighbours[3:] > 0.5).all(), "0.063 arcsec pixels on a grid of 0.03"
    assert (np.abs(neighbours[:3] - 0.25) < 0.1).all()
    np.testing.assert_allclose(noise.std((0, 2, 3)), 1, atol=0.05)
    one = Contaminator(
        ContaminateConfig(min_sources=3, faintest_mag_offset=-1.0, max_centre_share=1.0, **QUIET),
        nircam_optics(),
    )
    clean[:, :, 32, 32] = 5000.0
    out = one(clean, error, [1], 0)
    optics = nircam_optics()
    variance = RMS**2 + np.maximum(out.added[0], 0) / np.array(optics.electrons)[:, None, None]
    np.testing.assert_allclose(out.error[0], np.sqrt(variance), rtol=1e-5)


def test_stars_have_spikes_and_the_flux_of_their_psf() -> None:
    image = gaussian_psf(0.1).drawImage(nx=65, ny=65, scale=0.03, method="no_pixel").array
    assert image.sum() == pytest.approx(1, abs=0.01)
    assert image[32, 52] > 20 * image[32 + 14, 32 + 14], "along an axis, against the diagonal at one radius"
    again = sampled_psf(image, 0.03).drawImage(nx=65, ny=65, scale=0.03, method="no_pixel").array
    np.testing.assert_allclose(again, image / image.sum(), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_sources": 4}, "min_sources is 4, must be at most max_sources = 3"),
        ({"brightest_mag_offset": 5.0}, "brightest_mag_offset is 5.0, must be at most"),
        ({"snr": (3.0, 2.0)}, "snr is .* must be positive and rising"),
        ({"snr": (1.0, 2.0, 3.0)}, "two values at most"),
        ({"trail_sigma": (0.0, 2.0)}, "trail_sigma is"),
        ({"spikes": 4}, "spikes"),
    ],
)
def test_bad_settings_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ContaminateConfig(**settings)


def test_bad_images_are_refused_with_what_was_expected() -> None:
    clean, error = clean_images(2)
    make = Contaminator(ContaminateConfig(), optics())
    with pytest.raises(ValueError, match=r"clean is \(2, 3, 48, 48\), must be .* B = 3 keys, C = 3 PSFs"):
        make(clean, error, [1, 2, 3], 0)
    with pytest.raises(ValueError, match=r"error is \(1, 3, 48, 48\), must be \(2, 3, 48, 48\)"):
        make(clean, error[:1], [1, 2], 0)
    with pytest.raises(ValueError, match="epoch is -1"):
        make(clean, error, [1, 2], -1)
    clean[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        make(clean, error, [1, 2], 0)
    with pytest.raises(ValueError, match="num_spikes is 3"):
        gaussian_psf(0.1, 3)
    with pytest.raises(ValueError, match=r"PSF of shape \(4,\)"):
        sampled_psf(np.ones(4), 0.03)
    with pytest.raises(ValueError, match="rms has 1 values, must have 3"):
        gaussian_optics((2.0, 2.0, 2.0), (0.1,), 0.03)


def test_some_targets_are_taken_away_if_so_wished():
    config = ContaminateConfig(seed=3, empty_fraction=0.5, max_sources=1)
    shape = (40, 6, 32, 32)
    light, error = np.full(shape, 2.0, np.float32), np.ones(shape, np.float32)
    seen = Contaminator(config, nircam_optics())(light, error, range(40), 0)
    is_empty = ~seen.clean.any(axis=(1, 2, 3))
    assert 8 < is_empty.sum() < 32
    assert (seen.clean[~is_empty] == 2).all()
    assert (light == 2).all(), "what was given is left alone"
    usual = Contaminator(config.model_copy(update={"empty_fraction": 0.0}), nircam_optics())
    kept = usual(light, error, range(40), 0)
    np.testing.assert_array_equal(kept.science[~is_empty], seen.science[~is_empty])


def test_what_is_added_where_the_target_is_taken_away_is_what_it_would_have_had() -> None:
    settings = {**BUSY, "snr": (20.0,), "noise": "none"}
    whole, emptied = contaminated(**settings), contaminated(empty_fraction=1.0, **settings)
    assert not emptied.clean.any()
    assert [[c.kind for c in row] for row in emptied.contaminants] == [
        [c.kind for c in row] for row in whole.contaminants
    ]
    for name in ("added", "error", "mask"):
        np.testing.assert_array_equal(getattr(emptied, name), getattr(whole, name))
    np.testing.assert_array_equal(emptied.science, np.where(emptied.mask, 0, emptied.added))
    assert (emptied.added.max((1, 2, 3)) > 3 * RMS).all(), "brighter than the noise"


def test_where_the_target_is_taken_away_so_is_its_photon_noise() -> None:
    optics, shape = nircam_optics(), (1, 6, 32, 32)
    clean = np.zeros(shape, np.float32)
    clean[:, :, 14:19, 14:19] = 500.0
    electrons = np.array(optics.electrons, np.float32)[:, None, None]
    error = np.sqrt(RMS**2 + clean / electrons)
    config = ContaminateConfig(empty_fraction=1.0, min_sources=0, max_sources=0, **QUIET)
    mask = np.zeros(shape, bool)
    mask[:, :, :3] = True
    out = Contaminator(config, optics)(clean, error, [1], 0, mask)
    np.testing.assert_allclose(out.error[~mask], RMS, rtol=1e-4)
    assert not out.error[mask].any()
