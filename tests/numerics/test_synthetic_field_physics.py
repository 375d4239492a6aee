"""Synthetic NIRCam skies against GalSim's own drawing, closed forms, statistics, and real CEERS cutouts."""

from functools import cache

import galsim
import numpy as np
import pytest
from astropy.cosmology import Planck18
from astropy.io import fits
from photutils.aperture import CircularAperture, aperture_photometry
from scipy.stats import ks_2samp, kstest, uniform

from engine.errors import SourceError
from engine.storage import Storage
from engine.synthetic import lines
from engine.synthetic.field import anomalies, galaxies, noise, psf, seds
from engine.synthetic.field.bands import (
    BANDS,
    DETECTOR_PIXEL_ARCSEC,
    EDGES_MICRON,
    PIVOT_MICRON,
    RMS_MJY_SR,
    background_rms_njy,
    electrons_per_njy,
    fluxes,
    magnitudes,
    njy_per_mjy_sr,
)
from engine.synthetic.field.config import KINDS, FieldConfig
from engine.synthetic.field.mosaic import draw_light, pixel_error
from engine.synthetic.field.population import draw_sources, galaxy_density, random_places, star_fluxes
from engine.synthetic.field.render import Renderer, sersic_transform
from engine.synthetic.field.sources import POINT, Blobs, Profile, Source, half_light_radius

SW, LW = slice(0, 3), slice(3, 6)
SCALE = 0.03
FLAT = np.full((1, 6), 100.0)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def renderer(bands: tuple[int, ...] = (0, 1, 2), scale: float = SCALE) -> Renderer:
    psfs = psf.load_psfs("", Storage())
    return Renderer([psfs[band] for band in bands], bands, scale)


def source(profiles=(), blobs=(), flux=FLAT, u: float = 6.0123, v: float = 5.9871) -> Source:
    return Source(1, u, v, "galaxy", 1.0, flux, profiles, blobs)


def drawn_by_galsim(
    shape: galsim.GSObject, band: int, one: Source, num: int, scale: float = SCALE
) -> np.ndarray:
    """The same object drawn by GalSim's convolution, on pixels 0 to num - 1 of a mosaic."""
    image = galsim.ImageD(num, num, scale=scale)
    centre = galsim.PositionD(one.u / scale + 0.5, one.v / scale + 0.5)
    effective = galsim.Convolve(shape, psf.pupil_psf(band), galsim.Pixel(scale))
    return effective.drawImage(image, method="no_pixel", center=centre).array


@pytest.mark.parametrize("band", [0, 2, 4])
def test_light_is_that_of_galsims_convolution(band):
    profile = Profile(0, 1.0, 0.25, 1.0, 0.5, 30.0, dx=0.05, dy=-0.02)
    bulge = Profile(0, 1.0, 0.15, 4.0, 0.8, 110.0)
    flux = 2e4 * np.ones((2, 6))  # bright: a large stamp
    one = source((profile, Profile(1, 1.0, 0.15, 4.0, 0.8, 110.0)), flux=flux)
    light = draw_light([one], renderer(tuple(range(3)) if band < 3 else (3, 4, 5)), (0, 400), 400)[band % 3]
    disk = galsim.Exponential(half_light_radius=0.25 * 0.5**0.5).shear(q=0.5, beta=30 * galsim.degrees)
    core = galsim.Sersic(4.0, half_light_radius=0.15 * 0.8**0.5).shear(
        q=bulge.axis_ratio, beta=110 * galsim.degrees
    )
    expected = drawn_by_galsim(2e4 * (disk.shift(0.05, -0.02) + core), band, one, 400)
    np.testing.assert_allclose(light, expected, atol=2e-3 * expected.max())


def test_undersampled_point_sources_alias_as_they_should():
    one = source(blobs=(POINT,))
    light = draw_light([one], renderer(), (0, 400), 400)[0]
    expected = drawn_by_galsim(galsim.DeltaFunction(100.0), 0, one, 400)
    np.testing.assert_allclose(light, expected, atol=5e-3 * expected.max())


@pytest.mark.parametrize("index", [2.5, 4.0])
def test_transform_of_a_profile_is_galsims(index):
    part = Profile(0, 1.0, 0.3, index, 0.4, 25.0)
    along, across = np.linspace(0, 150, 40, dtype=np.float32), np.linspace(-150, 150, 61, dtype=np.float32)
    shape = galsim.Sersic(index, half_light_radius=0.3 * 0.4**0.5).shear(q=0.4, beta=25 * galsim.degrees)
    expected = [[shape.kValue(float(x), float(y)).real for x in along] for y in across]
    np.testing.assert_allclose(sersic_transform(part, along, across), expected, atol=2e-4)


def test_a_stamp_holds_all_of_the_flux_and_sits_where_it_should():
    flux = np.array([[10.0, 20.0, 30.0, 1, 1, 1], [1.0, 2.0, 3.0, 1, 1, 1]])
    blobs = Blobs(1, 0.03, np.array([0.5, 0.5]), np.array([-0.1, 0.1]), np.array([0.05, -0.05]))
    stamp = renderer().draw(source((Profile(0, 1.0, 0.1, 1.0, 0.7, 10.0),), (blobs,), flux))
    np.testing.assert_allclose(stamp.light.sum(axis=(1, 2)), flux.sum(0)[SW], rtol=1e-5)
    y, x = np.indices(stamp.light.shape[1:])
    for image in stamp.light:
        core = np.where(image > 0.02 * image.max(), image, 0.0)
        assert (core * x).sum() / core.sum() + stamp.x == pytest.approx(6.0123 / SCALE - 0.5, abs=0.05)
        assert (core * y).sum() / core.sum() + stamp.y == pytest.approx(5.9871 / SCALE - 0.5, abs=0.05)


@pytest.mark.parametrize("radius", [0.15, 0.30, 0.6])
def test_magnitude_in_is_aperture_flux_out(radius):
    """Loss from GalSim's own image of the same object, of finer pixels: neither transform nor grid is shared."""
    profile, fine = Profile(0, 1.0, 0.12, 1.0, 0.8, 70.0), 0.01
    one = source((profile,), flux=np.full((1, 6), float(fluxes(24.0))))
    light = draw_light([one], renderer(), (0, 400), 400)[2]
    place = (one.u / SCALE - 0.5, one.v / SCALE - 0.5)
    found = aperture_photometry(light, CircularAperture(place, radius / SCALE))["aperture_sum"][0]
    shape = galsim.Exponential(half_light_radius=0.12 * 0.8**0.5).shear(q=0.8, beta=70 * galsim.degrees)
    blurred = galsim.Convolve(shape, psf.pupil_psf(2), galsim.Pixel(SCALE))
    image = blurred.drawImage(nx=801, ny=801, scale=fine, method="no_pixel").array
    offset = np.hypot(*(np.indices(image.shape) - 400)) * fine
    expected = 24.0 - 2.5 * np.log10(image[offset <= radius].sum())
    assert magnitudes(found) == pytest.approx(expected, abs=0.02)


def test_psf_is_as_sharp_as_the_telescope_and_six_fold():
    for band in (0, 5):
        optics = galsim.Convolve(psf.pupil_psf(band), galsim.Gaussian(sigma=1e-4))
        image = optics.drawImage(nx=128, ny=128, scale=0.01, method="no_pixel")
        diffraction = np.degrees(1e-6 * PIVOT_MICRON[band] / 6.5) * 3600  # lambda / D
        pixel = DETECTOR_PIXEL_ARCSEC[band]
        assert image.calculateFWHM() == pytest.approx(np.hypot(diffraction, 0.6 * pixel), rel=0.12)
    pupil = psf.pupil()
    assert pupil.sum() * psf.PUPIL_STEP_M**2 == pytest.approx(18 * np.sqrt(0.75) * psf.SEGMENT_M**2, rel=0.01)
    np.testing.assert_array_equal(pupil, pupil[::-1, ::-1])


def test_given_psfs_are_used_and_checked(shared_data, tmp_path):
    given = psf.load_psfs(str(shared_data / "psf"), Storage())
    for band, one in enumerate(given):
        path = next((shared_data / "psf").glob(f"*{BANDS[band]}*"))
        image = fits.getdata(path, "DET_DIST")
        scale = float(DETECTOR_PIXEL_ARCSEC[band])
        drawn = one.drawImage(nx=21, ny=21, scale=scale, method="no_pixel").array
        np.testing.assert_allclose(drawn, image[90:111, 90:111] / image.sum(), atol=0.01 * drawn.max())
    with pytest.raises(SourceError, match="0 files for f115w"):
        psf.load_psfs(str(tmp_path), Storage())


def test_a_psf_of_the_wrong_pixel_scale_is_refused(tmp_path):
    for band in BANDS:
        hdu = fits.ImageHDU(np.ones((5, 5), np.float32), name="DET_DIST")
        hdu.header["PIXELSCL"] = 0.0075
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / f"psf_{band}.fits")
    with pytest.raises(SourceError, match=r"PIXELSCL = 0.0075; expected 0.031"):
        psf.load_psfs(str(tmp_path), Storage())


@pytest.mark.parametrize("band", [0, 5])
def test_noise_keeps_its_variance_and_is_correlated_as_drizzling_says(band):
    unit = noise.unit_noise((1, 2), (0, 900), 900, band, SCALE)
    assert unit.std() == pytest.approx(1.0, abs=0.01)
    assert abs(unit.mean()) < 0.01
    ratio = DETECTOR_PIXEL_ARCSEC[band] / SCALE
    for lag in (1, 2, 3):
        measured = (unit[:, lag:] * unit[:, :-lag]).mean()
        assert measured == pytest.approx(drizzle_correlation(ratio, lag), abs=0.012)


def drizzle_correlation(ratio: float, lag: int) -> float:
    """Of averaged drizzled noise: by Monte Carlo of the overlap of a detector pixel with two output pixels."""
    place = seeded(3).uniform(-6, 6, 400_000)

    def overlap(centre: float) -> np.ndarray:
        low, high = np.maximum(place - ratio / 2, centre - 0.5), np.minimum(place + ratio / 2, centre + 0.5)
        return np.clip(high - low, 0.0, None)

    return float((overlap(0.0) * overlap(float(lag))).sum() / np.square(overlap(0.0)).sum())


def test_real_mosaics_are_as_correlated_as_ours(shared_data):
    """Sky of CEERS cutouts, F200W: correlation of neighbours, by the median over cutouts of sky-only corners."""
    found = []
    for path in sorted((shared_data / "jwst/ceers/f200w").glob("*.fits"))[:40]:
        image = np.asarray(fits.getdata(path), float)[:30, :30]
        if np.isfinite(image).all() and 0 < image.std() < 1.3 * RMS_MJY_SR[2]:
            sky = image - image.mean()
            found.append((sky[:, 1:] * sky[:, :-1]).mean() / sky.var())
    ours = noise.unit_noise((1, 2), (0, 500), 500, 2, SCALE)
    assert len(found) >= 5
    assert np.median(found) == pytest.approx((ours[:, 1:] * ours[:, :-1]).mean(), abs=0.15)


def test_background_has_the_rms_of_ceers_and_photons_add():
    for band in range(6):
        dark = pixel_error(np.zeros((1, 1), np.float32), band, SCALE)[0, 0]
        assert dark / njy_per_mjy_sr(SCALE) == pytest.approx(RMS_MJY_SR[band], rel=1e-6)
        bright = pixel_error(np.full((1, 1), 1000.0, np.float32), band, SCALE)[0, 0]
        assert bright**2 - dark**2 == pytest.approx(1000.0 / electrons_per_njy()[band], rel=1e-4)
    # finer pixels: the same noise in an aperture of fixed size
    assert background_rms_njy(0.015) * 2 == pytest.approx(background_rms_njy(0.03))


def test_blackbodies_have_wiens_colours():
    """Rayleigh-Jeans limit: f_nu falls as the inverse square of the wavelength."""
    colours = seds.blackbody_colours(np.array([1e6]))[0]
    expected = (EDGES_MICRON.prod(axis=1)[2]) / EDGES_MICRON.prod(
        axis=1
    )  # mean over ln(lambda) of lambda^-2, nearly
    np.testing.assert_allclose(colours, expected, rtol=0.02)


def test_a_line_adds_its_equivalent_width():
    """H alpha at z = 2.0 (F200W): flux rises by EW (1 + z) over the photon-weighted width of the band."""
    z, zero = np.array([2.0]), np.zeros(1)
    without, with_lines = (
        seds.SedParams(np.array([0.4]), zero, np.array([ew]), np.array([8.4]), z) for ew in (0.0, 40.0)
    )
    boost = seds.galaxy_colours(without, seeded())[0] / seds.galaxy_colours(with_lines, seeded())[0]
    ratio = lines.ratios(np.array([8.4]), np.zeros(1, bool), seeded())[0]
    inside = lambda band: [  # noqa: E731
        n for n, w in lines.LINES.items() if EDGES_MICRON[band, 0] < 3e-4 * w < EDGES_MICRON[band, 1]
    ]
    assert "Halpha" in inside(2)
    assert inside(4) == []
    rest = np.array([5500.0, lines.LINES["Hbeta"]])
    grid = seds.GRID.wave
    mixed = np.exp(-0.5 * ((np.array([a for a, _ in seds.AGES]) - 0.4) / seds.AGE_SIGMA) ** 2)
    star = mixed @ seds.populations() / mixed.sum()
    hbeta = np.interp(rest[1], grid, star)
    flux = sum(40.0 * hbeta * ratio[lines.column(n)] * 3.0 * 3.0 * lines.LINES[n] for n in inside(2))
    wave = np.linspace(*EDGES_MICRON[2] * 1e4, 4000)
    continuum = np.trapezoid(np.interp(wave / 3.0, grid, star) * wave, wave)
    # F356W has no line here: the ratio to it undoes the normalisation to F200W
    assert boost[4] == pytest.approx(1.0 + flux / continuum, rel=0.01)


def test_old_galaxies_are_redder_and_have_a_break():
    z, zero, oh = np.full(2, 3.0), np.zeros(2), np.full(2, 8.4)
    young, old = seds.galaxy_colours(seds.SedParams(np.array([0.1, 0.75]), zero, zero, oh, z), seeded())
    assert old[1] / old[2] < 0.6 * young[1] / young[2]  # 4000 Angstrom lies between F150W and F200W
    dusty = seds.galaxy_colours(seds.SedParams(np.full(2, 0.1), np.full(2, 0.4), zero, oh, z), seeded())
    assert (dusty[0, :2] < young[:2]).all()
    assert (dusty[0, 3:] > young[3:]).all()


def test_no_light_passes_the_lyman_limit():
    far = seds.SedParams(np.array([0.1]), np.zeros(1), np.zeros(1), np.array([8.0]), np.array([13.5]))
    colours = seds.galaxy_colours(far, seeded())[0]
    assert colours[0] == 0.0  # ends at 884 Angstrom
    assert colours[1] < 0.05
    assert (colours[3:] > 0).all()


def test_counts_rise_to_the_limit_as_stated():
    config = FieldConfig(faintest_mag=28.0)
    mag = galaxies.draw_magnitudes(200_000, 28.0, seeded())
    for limit in (24.0, 26.0):
        expected = galaxy_density(config, limit) / galaxy_density(config, 28.0)
        assert (mag < limit).mean() == pytest.approx(expected, rel=0.03)
    bright = (galaxy_density(config, 26.5) - galaxy_density(config, 25.5)) * 3600
    assert bright == pytest.approx(45 * 3600, rel=0.02)  # a square degree and magnitude


def test_long_wavelengths_follow_from_short_ones():
    """A linear fit of LW on SW colours leaves 0.05 to 0.3 mag for normal galaxies; permuted bands do not fit."""
    drawn = galaxies.draw(galaxies.draw_magnitudes(4000, 27.0, seeded(1)), seeded(2))
    mag = magnitudes(drawn.flux.sum(axis=1))
    basis = np.stack([np.ones(len(mag)), mag[:, 0] - mag[:, 1], mag[:, 1] - mag[:, 2]], axis=1)
    basis = np.concatenate([basis, basis[:, 1:] ** 2, basis[:, 1:2] * basis[:, 2:]], axis=1)
    for band in (3, 4, 5):
        colour = mag[:, band] - mag[:, 2]
        fit = basis @ np.linalg.lstsq(basis, colour, rcond=None)[0]
        scatter = 1.4826 * np.median(np.abs(colour - fit))
        assert 0.03 < scatter < 0.35
        assert scatter < 0.8 * colour.std()


@cache
def injected(kind: str) -> tuple[Source, ...]:
    return tuple(anomalies.make(kind, i, (6.0, 6.0), seeded(i)) for i in range(200))


def test_eros_are_points_flat_at_short_and_steep_at_long_wavelengths():
    mag = magnitudes(np.array([s.total_flux for s in injected("ero")]))
    assert (mag[:, 3] - mag[:, 5] > 1.5).all()
    assert np.abs(mag[:, 1] - mag[:, 2]).max() < 0.25
    assert abs((mag[:, 1] - mag[:, 2]).mean()) < 0.02
    assert (mag[:, 5] < 28.0).all()
    assert all(half_light_radius(s) == 0 and s.blobs == (POINT,) for s in injected("ero"))
    np.testing.assert_allclose(mag[:, 3] - mag[:, 5], [s.strength for s in injected("ero")], atol=1e-6)


def test_dropouts_have_no_light_at_short_wavelengths():
    flux = np.array([s.total_flux for s in injected("dropout")])
    assert (flux[:, SW] == 0).all()
    assert (magnitudes(flux[:, 5]) < 26.5).all()
    stamp = renderer().draw(injected("dropout")[0])
    assert np.abs(stamp.light).max() == 0


def test_band_swaps_permute_the_long_wavelengths():
    for i, swapped in enumerate(injected("band_swap")[:50]):
        plain = anomalies.make("snowball", i, (6.0, 6.0), seeded(i))  # the same host
        np.testing.assert_array_equal(swapped.flux[:, SW], plain.flux[:, SW])
        np.testing.assert_allclose(np.sort(swapped.total_flux[LW]), np.sort(plain.total_flux[LW]))
        assert np.abs(2.5 * np.log10(swapped.total_flux / plain.total_flux)).max() == pytest.approx(
            swapped.strength
        )


def test_mergers_are_two_galaxies_of_different_colour_with_a_tail():
    for one in injected("merger")[:50]:
        first, second = one.profiles
        apart = np.hypot(first.dx - second.dx, first.dy - second.dy)
        assert 0.5 < apart / (first.half_light + second.half_light) < 2.0
        colours = 2.5 * np.log10(one.flux[:2, 5] / one.flux[:2, 0])
        assert colours[0] - colours[1] > 0.5
        assert one.flux[1, 2] / one.flux[0, 2] == pytest.approx(one.strength)
        assert np.hypot(one.blobs[0].dx, one.blobs[0].dy).max() > 0.9 * apart


def test_arcs_lie_on_the_einstein_ring_and_are_bluer_than_the_lens():
    for one in injected("lens")[:50]:
        radius = np.hypot(one.blobs[0].dx, one.blobs[0].dy) / one.strength
        np.testing.assert_allclose(np.unique(radius.round(6)), [0.8, 1.1])
        lens, arc = one.flux[:, 1] / one.flux[:, 2]
        assert arc > lens


@pytest.mark.parametrize("kind", ["snowball", "wisp", "bad_column"])
def test_artefacts_are_in_one_band_of_a_normal_galaxy(kind):
    bands = {s.artefact.band for s in injected(kind) if s.artefact}
    assert bands == set(range(6))
    assert all(s.kind == "galaxy" and s.strength > 0 for s in injected(kind))


def test_all_kinds_come_about_equally_often():
    config = FieldConfig(anomaly_fraction=0.5)
    places = random_places(1550, np.zeros(2), 30.0, seeded())
    found = draw_sources(config, places, 50, seeded(), 1)
    names, counts = np.unique([s.anomaly for s in found if s.anomaly], return_counts=True)
    assert set(names) == set(KINDS)
    assert counts.sum() == pytest.approx(775, abs=80)
    assert counts.min() > 0.6 * counts.max()


def test_half_light_radius_of_one_profile_is_its_circularised_own():
    one = source((Profile(0, 1.0, 0.3, 4.0, 0.64, 0.0),))
    assert half_light_radius(one) == pytest.approx(0.3 * 0.8, rel=5e-3)


def test_stars_have_stellar_colours():
    mag = magnitudes(star_fluxes(500, seeded()))
    assert (mag[:, 5] - mag[:, 3] > 0).all()  # beyond the peak of all of them
    assert 18 <= mag[:, 2].min() < 20
    assert mag[:, 2].max() <= 28


def test_redshifts_of_a_range_follow_the_law_of_all_cut_off_at_its_ends() -> None:
    mag = np.full(20_000, 26.0)
    every = galaxies.draw_redshifts(mag, np.random.default_rng(1))
    some = galaxies.draw_redshifts(mag, np.random.default_rng(2), (0.5, 3.0))
    assert some.min() >= 0.5
    assert some.max() <= 3.0
    inside = every[(every > 0.5) & (every < 3.0)]
    assert ks_2samp(some, inside).pvalue > 1e-3
    far = galaxies.draw_redshifts(np.full(100, 20.0), np.random.default_rng(3), (9.0, 11.0))
    assert np.isfinite(far).all()
    assert ((far >= 9.0) & (far <= 11.0)).all()


def test_uniform_redshifts_are_uniform_whatever_the_magnitude() -> None:
    config = FieldConfig(z_min=0.5, z_max=7.0, redshifts="uniform", anomaly_fraction=0.0, faintest_mag=26.0)
    found = draw_sources(config, np.zeros((2000, 2)), 0, np.random.default_rng(1), 0)
    z = [source.z for source in found]
    assert kstest(z, uniform(0.5, 6.5).cdf).pvalue > 1e-3
    sky = draw_sources(config.model_copy(update={"redshifts": "sky"}), np.zeros((2000, 2)), 0, seeded(), 0)
    assert np.mean([source.z > 4 for source in sky]) < 0.1 < np.mean(np.array(z) > 4)


def test_galaxies_of_a_field_are_in_its_range_of_redshifts() -> None:
    config = FieldConfig(z_min=0.5, z_max=2.0, anomaly_fraction=0.0)
    found = draw_sources(config, np.zeros((200, 2)), 0, np.random.default_rng(1), 0)
    z = [source.z for source in found]
    assert 0.5 <= min(z) < 0.7
    assert 1.8 < max(z) <= 2.0
    with pytest.raises(ValueError, match="z_min is 2, must be below z_max, which is 1"):
        FieldConfig(z_min=2.0, z_max=1.0)


def test_mergers_follow_uniform_redshifts_and_the_sky_otherwise() -> None:
    made = {
        z_range: np.array([anomalies.make("merger", i, (6.0, 6.0), seeded(i), z_range).z for i in range(300)])
        for z_range in ((0.5, 7.0), None)
    }
    assert kstest(made[0.5, 7.0], uniform(0.5, 6.5).cdf).pvalue > 0.01
    assert (made[None] > 4.0).mean() < 0.05


def test_disks_of_one_magnitude_hardly_differ_in_size_with_redshift() -> None:
    """Why sizes follow magnitudes alone: late types have R ~ L^0.22 (1 + z)^-0.75 (van der Wel et al. 2014)."""
    z = np.linspace(0.5, 7.0, 50)
    luminosity = Planck18.luminosity_distance(z).value ** 2
    angle = luminosity**0.22 * (1 + z) ** -0.75 / Planck18.angular_diameter_distance(z).value
    assert np.log10(angle).std() < 0.07
    assert np.ptp(np.log10(angle)) < 0.2, "the scatter of sizes at one magnitude and redshift"
