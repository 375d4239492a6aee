"""The files of synthetic NIRCam fields: real layouts, true truth, the same however they are divided."""

import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from engine.column import Column
from engine.config import validate
from engine.errors import ConfigError
from engine.schema import arrow_schema, matrix
from engine.storage import Storage
from engine.synthetic import nircam
from engine.synthetic.field.artefacts import draw_artefact
from engine.synthetic.field.bands import BANDS, RMS_MJY_SR
from engine.synthetic.field.config import KINDS, STRIP_PIXELS, TRUTH_COLUMNS, FieldConfig
from engine.synthetic.field.cosmos import Stamps
from engine.synthetic.field.cutouts import CHUNK, CutoutMaker, training_cutouts
from engine.synthetic.field.layout import wcs_header
from engine.synthetic.field.mosaic import channel_grid
from engine.synthetic.field.population import row_sources
from engine.synthetic.field.sources import Source

STORAGE = Storage()
SMALL = FieldConfig(
    width_px=300, height_px=260, strip_rows=260, density_factor=3.0, anomaly_fraction=0.3, seed=7
)  # a seed with every kind of anomaly
DJA = SMALL.model_copy(update={"layout": "dja"})


def write(config: FieldConfig, folder) -> dict[str, str]:
    """Write all tasks; return paths by name."""
    tasks = range(nircam.task_count(config))
    nircam.write_truth(
        (nircam.write_task(config, t, str(folder), STORAGE) for t in tasks), str(folder), STORAGE
    )
    uris = sorted(str(path) for path in folder.rglob("*") if path.suffix in (".fits", ".gz"))
    return {uri.rpartition("/")[2]: uri for uri in uris}


@pytest.fixture(scope="module")
def stsci(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stsci")
    return folder, write(SMALL, folder)


@pytest.fixture(scope="module")
def dja(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dja")
    return folder, write(DJA, folder)


@pytest.fixture(scope="module")
def field():
    return nircam.simulate_field(SMALL)


def test_stsci_files_are_laid_out_as_i2d(stsci):
    _, paths = stsci
    assert sorted(paths) == [f"hlsp_synthetic_nircam_nircam1_{band}_i2d.fits" for band in BANDS]
    for band, path in zip(BANDS, sorted(paths.values()), strict=True):
        with warnings.catch_warnings(), fits.open(path) as hdus:
            warnings.simplefilter("error")
            hdus.verify("exception")
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "WHT"]
            assert hdus[0].data is None
            assert (hdus[0].header["TELESCOP"], hdus[0].header["INSTRUME"]) == ("JWST", "NIRCAM")
            assert hdus[0].header["FILTER"] == band.upper()
            assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
            assert hdus["SCI"].header["PIXAR_SR"] == pytest.approx((0.03 / 206264.806) ** 2)
            for name in ("SCI", "ERR", "WHT"):
                assert hdus[name].shape == (260, 300)
                assert hdus[name].data.dtype == ">f4"


def test_files_hold_what_the_simulation_says(stsci, field):
    _, paths = stsci
    for number, band in enumerate(BANDS):
        with fits.open(paths[f"hlsp_synthetic_nircam_nircam1_{band}_i2d.fits"]) as hdus:
            to_njy = 1e15 * hdus["SCI"].header["PIXAR_SR"]
            np.testing.assert_allclose(hdus["SCI"].data * to_njy, field[band].science, rtol=2e-6, atol=1e-6)
            np.testing.assert_allclose(hdus["ERR"].data * to_njy, field[band].error, rtol=2e-6)
            np.testing.assert_allclose(hdus["WHT"].data ** -0.5, RMS_MJY_SR[number], rtol=1e-6)


def test_errors_are_those_of_the_noise(field):
    """(observed - truth) / ERR has unit variance, with and without the light of objects."""
    quiet = nircam.simulate_field(SMALL.model_copy(update={"anomaly_fraction": 0.0, "width_px": 600}))
    for band in BANDS:
        one = quiet[band]
        deviation = (one.science - one.noiseless) / one.error
        is_sky = one.noiseless < 0.05 * one.error
        assert deviation[is_sky].std() == pytest.approx(1.0, abs=0.03)
        assert deviation.std() == pytest.approx(1.0, abs=0.02)
        assert one.error.max() > 1.2 * one.error.min()


def test_galaxies_on_a_grid_are_alone_in_their_squares_and_without_noise_if_so_wished():
    config = FieldConfig(width_px=300, height_px=260, spacing_px=64, noise=False, anomaly_fraction=0.0)
    truth = nircam.field_truth(config)
    cells = {
        (round(x + 0.5) // 64, round(y + 0.5) // 64)
        for x, y in zip(*(truth[n].to_numpy() for n in "xy"), strict=True)
    }
    assert len(cells) == truth.num_rows == 5 * 5 - 5  # 300 x 260 pixels hold the middles of 5 x 4 squares
    off = np.abs(np.stack([truth[n].to_numpy() for n in "xy"]) + 0.5 - 32) % 64
    assert np.minimum(off, 64 - off).max() <= 0.5
    assert set(truth["kind"].to_pylist()) == {"galaxy"}
    one = nircam.simulate_field(config)["f200w"]
    np.testing.assert_array_equal(one.science, one.noiseless)
    assert one.error.min() > 0


def test_truth_tells_disks_from_spheroids_and_mergers():
    config = FieldConfig(width_px=2048, height_px=2048, spacing_px=64, old_fraction=0.5,
                         anomaly_fraction=0.2, anomaly_kinds=("merger", "ero"))  # fmt: skip
    truth = nircam.field_truth(config).to_pandas()
    shares = truth.groupby("morphology", dropna=False).bulge_fraction.agg(["size", "min", "max"])
    assert shares.loc["disk", "max"] < 0.4 < 0.6 < shares.loc["spheroid", "min"]
    assert shares["size"].loc[["disk", "spheroid", "irregular"]].min() > 60
    assert (truth.morphology[truth.anomaly == "merger"] == "irregular").all()
    assert truth.morphology[truth.anomaly == "ero"].isna().all()


def test_truth_is_where_the_wcs_says(stsci):
    folder, paths = stsci
    truth = pq.read_table(folder / "truth.parquet")
    assert truth.drop_columns("mag").equals(nircam.field_truth(SMALL).drop_columns("mag"))  # mag holds NaN
    assert nircam.field_truth(SMALL).schema.equals(arrow_schema(TRUTH_COLUMNS), check_metadata=True)
    ra, dec, x, y = (truth[name].to_numpy() for name in ("ra", "dec", "x", "y"))
    with fits.open(paths["hlsp_synthetic_nircam_nircam1_f444w_i2d.fits"]) as hdus:
        found = WCS(hdus["SCI"].header).world_to_pixel_values(ra, dec)
    np.testing.assert_allclose(found, (x, y), atol=0.01)
    assert (x > -0.5).all()
    assert (x < 299.5).all()
    assert (y < 259.5).all()


def test_light_lies_at_the_position_of_truth(field):
    truth = nircam.field_truth(SMALL)
    points = np.flatnonzero(np.isin(truth["kind"].to_pylist(), ["star", "ero"]))
    assert len(points) >= 2
    for row in points:
        x, y = round(truth["x"][row].as_py()), round(truth["y"][row].as_py())
        patch = field["f444w"].noiseless[y - 2 : y + 3, x - 2 : x + 3]
        assert patch.max() == patch[1:4, 1:4].max()


def test_position_angle_turns_the_y_axis_to_the_east():
    config = SMALL.model_copy(update={"position_angle_deg": 30.0, "dec_deg": 0.0})
    wcs = WCS(wcs_header(config, 0, channel_grid(config, 0)))
    (ra0, dec0), (ra1, dec1), (ra2, dec2) = (
        wcs.pixel_to_world_values(*p) for p in ((150, 100), (150, 110), (160, 100))
    )
    assert np.degrees(np.arctan2(ra1 - ra0, dec1 - dec0)) == pytest.approx(30.0, abs=1e-3)
    assert np.degrees(np.arctan2(ra2 - ra0, dec2 - dec0)) == pytest.approx(
        -60.0, abs=1e-3
    )  # left of +y: east
    assert np.hypot(ra1 - ra0, dec1 - dec0) * 3600 == pytest.approx(0.3, rel=1e-4)


def test_dja_files_are_laid_out_as_grizlis(dja):
    _, paths = dja
    assert set(paths) == {
        f"nircam1-{band}-clear_drc_{kind}.fits" for band in BANDS for kind in ("sci", "wht")
    }
    for number, band in enumerate(BANDS):
        with fits.open(paths[f"nircam1-{band}-clear_drc_sci.fits"]) as hdus:
            hdus.verify("exception")
            assert len(hdus) == 1
            assert hdus[0].header["BUNIT"] == "10.0*nanoJansky"
            assert hdus[0].shape == ((260, 300) if number < 3 else (130, 150))
            with fits.open(paths[f"nircam1-{band}-clear_drc_wht.fits"]) as weights:
                low, middle = np.percentile(hdus[0].data, [16, 50])  # the side without objects
                sky = middle - low
                assert np.median(weights[0].data) ** -0.5 == pytest.approx(sky, rel=0.25)


def test_dja_grids_are_aligned_by_a_factor_of_two(dja):
    _, paths = dja
    short, long = (
        WCS(fits.getheader(paths[f"nircam1-{band}-clear_drc_sci.fits"])) for band in ("f150w", "f444w")
    )
    x, y = np.meshgrid(np.arange(0, 150, 30.0), np.arange(0, 130, 30.0))
    sky = long.pixel_to_world_values(x, y)
    np.testing.assert_allclose(short.world_to_pixel_values(*sky), (2 * x + 0.5, 2 * y + 0.5), atol=1e-6)


def test_layouts_show_the_same_sky():
    """The same objects, whose light, noise apart, is the same in either layout."""
    config = FieldConfig(width_px=400, height_px=400, anomaly_fraction=0.0)
    other = config.model_copy(update={"layout": "dja", "width_px": 600, "height_px": 600})
    first, second = nircam.simulate_field(config), nircam.simulate_field(other)
    assert nircam.field_truth(config)["object_id"].equals(nircam.field_truth(other)["object_id"])
    for band, bins in (("f150w", (60, 90)), ("f444w", (60, 45))):  # 1.8 arcsec
        sums = []
        for one, size in zip((first[band], second[band]), bins, strict=True):
            num = one.noiseless.shape[0] // size
            blocks = one.noiseless[: num * size, : num * size].reshape(num, size, num, size)
            sums.append(blocks.sum(axis=(1, 3), dtype=float))
        np.testing.assert_allclose(sums[0], sums[1], rtol=0.02, atol=0.01 * sums[0].max())


@pytest.mark.parametrize("config", [SMALL, DJA], ids=["stsci", "dja"])
def test_strips_give_the_undivided_field_bit_for_bit(config):
    config = config.model_copy(update={"uncovered_px": 20})
    whole = nircam.simulate_field(config)
    for rows in (100,):
        parts = nircam.simulate_field(config.model_copy(update={"strip_rows": rows}))
        for band in BANDS:
            for plane in ("noiseless", "science", "error", "covered"):
                np.testing.assert_array_equal(getattr(parts[band], plane), getattr(whole[band], plane), plane)


def test_a_larger_field_has_the_objects_of_a_smaller_one():
    larger = SMALL.model_copy(update={"width_px": 2000, "height_px": 1100})
    few, many = row_sources(SMALL, 0, 0), row_sources(larger, 0, 0)
    ids = {s.object_id: s for s in many}
    assert len({s.object_id for row in (0, 1) for s in row_sources(larger, 0, row)}) == sum(
        len(row_sources(larger, 0, row)) for row in (0, 1)
    )
    for one in few:
        assert (ids[one.object_id].u, ids[one.object_id].v) == (one.u, one.v)
        np.testing.assert_array_equal(ids[one.object_id].flux, one.flux)


def test_fields_and_seeds_differ():
    pair = SMALL.model_copy(update={"num_fields": 2})
    first, second = (nircam.field_truth(pair, index) for index in (0, 1))
    assert second["field"][0].as_py() == "nircam2"
    assert set(first["ra"].to_pylist()).isdisjoint(second["ra"].to_pylist())
    assert np.min(second["ra"].to_numpy()) > np.max(first["ra"].to_numpy())
    other = nircam.field_truth(SMALL.model_copy(update={"seed": 2}))
    assert not np.isin(other["ra"].to_numpy(), first["ra"].to_numpy()).any()
    assert nircam.task_count(pair) == 4
    with pytest.raises(ValueError, match="task 4 of 4"):
        nircam.write_task(pair, 4, "nowhere", STORAGE)


@pytest.mark.parametrize(("fill", "value"), [("nan", np.nan), ("zero", 0.0)])
def test_uncovered_pixels_are_filled_as_stsci_does(tmp_path, fill, value):
    config = SMALL.model_copy(update={"uncovered_px": 30, "fill": fill})
    paths = write(config, tmp_path)
    uncovered = {}
    for band in ("f115w", "f444w"):
        with fits.open(paths[f"hlsp_synthetic_nircam_nircam1_{band}_i2d.fits"]) as hdus:
            sci, err, wht = (hdus[name].data for name in ("SCI", "ERR", "WHT"))
        empty = wht == 0
        np.testing.assert_array_equal(sci[empty], np.full(empty.sum(), value, np.float32))
        np.testing.assert_array_equal(err[empty], np.full(empty.sum(), value, np.float32))
        assert np.isfinite(sci[~empty]).all()
        assert (err[~empty] > 0).all()
        assert empty[:8].all()
        assert not empty[130, 150]
        uncovered[band] = empty
    assert uncovered["f115w"].sum() > uncovered["f444w"].sum()
    assert (uncovered["f115w"] | ~uncovered["f444w"]).all()


def test_artefacts_touch_their_band_only(field):
    """Observed minus expected: beyond the noise exactly where an artefact was put."""
    clean = nircam.simulate_field(SMALL)  # the same noise: remove artefacts by hand
    truth = [s for s in row_sources(SMALL, 0, 0) if s.artefact]
    assert {s.artefact.kind for s in truth if s.artefact} == {"snowball", "wisp", "bad_column"}
    for number, band in enumerate(BANDS):
        deviation = (clean[band].science - clean[band].noiseless) / clean[band].error
        expected = np.zeros_like(deviation)
        for one in truth:
            if one.artefact is not None and one.artefact.band == number:
                x, y, patch = draw_artefact(one, 0.03)
                inner = patch[max(-y, 0) : 260 - y, max(-x, 0) : 300 - x]
                expected[max(y, 0) : max(y, 0) + len(inner), max(x, 0) : max(x, 0) + inner.shape[1]] += inner
        rest = deviation - expected / clean[band].error
        assert np.abs(rest).max() < 6.0
        assert rest.std() == pytest.approx(1.0, abs=0.05)


def test_truth_names_what_was_injected():
    truth = nircam.field_truth(SMALL)
    kinds = truth["anomaly"].to_pylist()
    assert set(kinds) == {*KINDS, None}
    for anomaly, band, kind, z in zip(
        kinds,
        truth["anomaly_band"].to_pylist(),
        truth["kind"].to_pylist(),
        truth["z"].to_pylist(),
        strict=True,
    ):
        assert (band in BANDS) == (anomaly in ("snowball", "wisp", "bad_column"))
        assert kind == (anomaly if anomaly in ("ero", "dropout") else "star" if z is None else "galaxy")
    flux, mag = matrix(truth, "flux"), matrix(truth, "mag")
    np.testing.assert_allclose(mag[flux > 0], 31.4 - 2.5 * np.log10(flux[flux > 0]), rtol=1e-6)
    assert np.isnan(mag[flux == 0]).all()


def test_cutouts_are_those_of_the_interfaces():
    chunks = list(training_cutouts(70, SMALL, size_px=48))
    assert [len(chunk.science) for chunk in chunks] == [CHUNK, 70 - CHUNK]
    first = chunks[0]
    assert first.science.shape == first.error.shape == first.mask.shape == (CHUNK, 6, 48, 48)
    assert first.science.dtype == first.error.dtype == np.float32
    assert not first.mask.any()
    assert np.abs(first.dx).max() <= 0.5
    assert np.abs(first.dy).max() <= 0.5
    deviation = (first.science - first.noiseless) / first.error
    plain = np.array([s.artefact is None for s in first.sources])
    assert deviation[plain].std() == pytest.approx(1.0, abs=0.01)
    points = [i for i, s in enumerate(first.sources) if s.kind == "ero"]
    for row in points:
        image = first.noiseless[row, 5, 22:27, 22:27]
        y, x = np.unravel_index(image.argmax(), image.shape)
        assert abs(y - 2 - first.dy[row]) < 0.75
        assert abs(x - 2 - first.dx[row]) < 0.75
    assert points


def test_cutouts_depend_on_seed_and_number_only():
    again = next(iter(training_cutouts(5, SMALL, size_px=48)))
    maker = CutoutMaker(SMALL, size_px=48)
    maker.chunk(1)
    np.testing.assert_array_equal(maker.chunk(0).science[:5], again.science)
    other = next(iter(training_cutouts(5, SMALL.model_copy(update={"seed": 9}), size_px=48)))
    assert not np.array_equal(other.science, again.science)


def test_real_morphology_is_used_where_there_is_some(shared_data):
    config = SMALL.model_copy(
        update={
            "cosmos_uri": str(shared_data / "cosmos_f814w"),
            "cosmos_fraction": 1.0,
            "anomaly_fraction": 0.0,
        }
    )
    field = nircam.simulate_field(config)
    found: list[Source] = [
        s for s in row_sources(config, 0, 0, len(Stamps(config.cosmos_uri))) if s.kind == "galaxy"
    ]
    stamps = {s.profiles[0].stamp for s in found}
    assert len(stamps) > 15
    total = sum(s.total_flux[2] for s in found if 40 < s.u / 0.03 < 260 and 40 < s.v / 0.03 < 220)
    assert field["f200w"].noiseless.sum() > 0.9 * total
    assert (field["f200w"].noiseless > -2 * field["f200w"].error).all()  # deconvolved, yet no deep ringing


def test_a_folder_without_cosmos_galaxies_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no COSMOS galaxies"):
        nircam.simulate_field(SMALL.model_copy(update={"cosmos_uri": str(tmp_path)}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anomaly_kinds": ["merger", "ghost"]}, "ghost"),
        ({"anomaly_kinds": ["ero", "ero"]}, "twice"),
        ({"layout": "dja", "width_px": 301}, "even"),
        ({"uncovered_px": 1024}, "leaves nothing"),
        ({"sead": 1}, "did you mean 'seed'"),
    ],
)
def test_impossible_fields_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        validate(FieldConfig, settings, "test")


def test_strips_have_about_as_many_pixels_whatever_the_width():
    for width in (500, 2048, 20_001, 40_000):
        rows = FieldConfig(width_px=width).rows_at_once
        assert rows % 2 == 0
        assert 0.9 * STRIP_PIXELS < rows * width <= STRIP_PIXELS
    assert SMALL.rows_at_once == 260


def test_columns_say_their_units():
    units = {column.name: column.unit for column in TRUTH_COLUMNS}
    assert (units["flux"], units["mag"], units["half_light_radius"]) == ("nJy", "mag", "arcsec")
    assert all(isinstance(column, Column) and column.description for column in TRUTH_COLUMNS)
