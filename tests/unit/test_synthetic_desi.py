"""The files of a synthetic release: real layout, true truth, faults as ordered."""

import io
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from cdshealpix.nested import lonlat_to_healpix

from engine.column import Column
from engine.config import validate
from engine.errors import ConfigError
from engine.schema import arrow_schema, conform, matrix
from engine.sources.desi import DesiConfig, DesiSource
from engine.sources.desi_config import DesiCuts
from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS
from engine.storage import Storage
from engine.synthetic.desi import write_task, write_truth
from engine.synthetic.release import (
    DAMAGES,
    FAULTY_FIBERS,
    TRUTH_COLUMNS,
    SynthesizeConfig,
    plan_file,
    task_count,
)
from engine.synthetic.templates import load_bases
from engine.synthetic.truth import write_table

SMALL = SynthesizeConfig(
    num_spectra=70, spectra_per_file=30, anomaly_fraction=0.2, bad_fiber_fraction=0.1, sky_fraction=0.1
)
STORAGE = Storage()


def write(config: SynthesizeConfig, folder) -> pa.Table:
    return pa.concat_tables([write_task(config, i, str(folder), STORAGE) for i in range(task_count(config))])


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return folder, write(SMALL, folder)


def test_layout_is_that_of_a_released_coadd(release):
    folder, _ = release
    plan = plan_file(SMALL, 1)
    with fits.open(folder / plan.path) as hdus:
        cameras = [f"{c}_{q}" for c in "BRZ" for q in ("WAVELENGTH", "FLUX", "IVAR", "MASK")]
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "FIBERMAP", "EXP_FIBERMAP", *cameras, "SCORES"]
        assert hdus[0].header["HPXPIXEL"] == plan.cell
        assert (hdus[0].header["SURVEY"], hdus[0].header["PROGRAM"]) == ("main", "bright")
        for camera, where in CAMERA_SLICES.items():
            name = camera.upper()
            np.testing.assert_array_equal(hdus[f"{name}_WAVELENGTH"].data, WAVE_OBS[where])
            assert hdus[f"{name}_FLUX"].shape == (30, where.stop - where.start)
            assert hdus[f"{name}_FLUX"].data.dtype == ">f4"
            assert hdus[f"{name}_MASK"].data.dtype == ">i4"
            assert hdus[f"{name}_FLUX"].header["BUNIT"] == "10**-17 erg/(s cm2 Angstrom)"


def test_path_is_that_of_a_release(release):
    plan = plan_file(SMALL, 0)
    assert plan.path == f"healpix/main/dark/{plan.cell // 100}/{plan.cell}/coadd-main-dark-{plan.cell}.fits"
    assert (release[0] / plan.redrock_path).is_file()


def test_tables_agree_with_each_other_and_with_the_truth(release):
    folder, truth = release
    rows = truth.slice(0, 30).to_pydict()
    plan = plan_file(SMALL, 0)
    with fits.open(folder / plan.path) as coadd, fits.open(folder / plan.redrock_path) as redrock:
        fibermap, exposures = coadd["FIBERMAP"].data, coadd["EXP_FIBERMAP"].data
        for table in (fibermap, coadd["SCORES"].data, redrock["REDSHIFTS"].data, redrock["TSNR2"].data):
            np.testing.assert_array_equal(table["TARGETID"], rows["targetid"])
        np.testing.assert_array_equal(fibermap["OBJTYPE"], rows["objtype"])
        assert Counter(exposures["TARGETID"]) == dict(
            zip(rows["targetid"], fibermap["COADD_NUMEXP"], strict=True)
        )
        target = np.array(rows["objtype"]) == "TGT"
        good = target & (np.array(rows["fiberstatus"]) == 0)
        np.testing.assert_array_equal(
            redrock["REDSHIFTS"].data["Z"][good], np.array(rows["z_reported"])[good]
        )
        np.testing.assert_array_equal(
            redrock["REDSHIFTS"].data["SPECTYPE"][good], np.array(rows["spectype"])[good]
        )
        np.testing.assert_array_equal(redrock["REDSHIFTS"].data["ZWARN"], rows["zwarn"])


def test_targetids_are_unique_large_and_differ_between_seeds(release, tmp_path):
    ids = release[1]["targetid"].to_numpy()
    other = write_task(SMALL.model_copy(update={"seed": 2}), 0, str(tmp_path), STORAGE)["targetid"].to_numpy()
    assert len(np.unique(np.concatenate([ids, other]))) == len(ids) + len(other)
    assert (ids > 2**53).all()
    assert len(np.unique(ids.astype(np.float64))) < len(ids)  # a reader that goes through float is caught


def test_positions_lie_in_the_pixel_of_the_file(release):
    from astropy import units
    from astropy.coordinates import Latitude, Longitude

    for index in range(3):
        rows = release[1].slice(index * 30, 30)
        lon, lat = (Longitude(rows["ra"].to_numpy(), units.deg), Latitude(rows["dec"].to_numpy(), units.deg))
        assert set(lonlat_to_healpix(lon, lat, 6, num_threads=1)) == {plan_file(SMALL, index).cell}


def test_last_file_holds_what_is_left(release):
    assert release[1].num_rows == 70
    assert plan_file(SMALL, 2).num_rows == 10
    with pytest.raises(ValueError, match="file 3 of 3"):
        plan_file(SMALL, 3)


def test_a_file_does_not_depend_on_the_others_nor_on_when_it_is_written(release, tmp_path):
    write_task(SMALL, 2, str(tmp_path), STORAGE)
    for path in (plan_file(SMALL, 2).path, plan_file(SMALL, 2).redrock_path):
        assert (tmp_path / path).read_bytes() == (release[0] / path).read_bytes()
    assert not (tmp_path / plan_file(SMALL, 0).path).exists()


def test_source_reads_every_row_or_rejects_it(release):
    folder, truth = release
    source = DesiSource(str(folder), config=DesiConfig(cuts=DesiCuts(targets_only=False)))
    tables = [source.read(unit) for unit in source.plan()]
    rows = pa.concat_tables([table.rows for table in tables])
    rejected = pa.concat_tables([table.rejected for table in tables])
    assert rows.num_rows + rejected.num_rows == truth.num_rows
    bad = set(truth.filter(pa.array(truth["fiberstatus"].to_numpy() != 0))["targetid"].to_pylist())
    assert bad
    assert set(rejected["targetid"].to_pylist()) == bad
    expected = dict(zip(truth["targetid"].to_pylist(), truth["z_reported"].to_pylist(), strict=True))
    sky = set(
        truth.filter(pa.array(truth["objtype"].to_numpy(zero_copy_only=False) == "SKY"))[
            "targetid"
        ].to_pylist()
    )
    for targetid, z in zip(rows["targetid"].to_pylist(), rows["z"].to_pylist(), strict=True):
        assert targetid in sky or z == expected[targetid]
    fibers = dict(zip(truth["targetid"].to_pylist(), truth["fiber"].to_pylist(), strict=True))
    assert [fibers[t] for t in rows["targetid"].to_pylist()] == rows["fiber"].to_pylist()


def test_sky_fibres_hold_noise_only(release):
    folder, truth = release
    source = DesiSource(str(folder), config=DesiConfig(cuts=DesiCuts(targets_only=False)))
    rows = pa.concat_tables([source.read(unit).rows for unit in source.plan()])
    sky = truth.filter(pa.array(truth["objtype"].to_numpy(zero_copy_only=False) == "SKY"))[
        "targetid"
    ].to_pylist()
    is_sky = np.isin(rows["targetid"].to_numpy(), sky)
    assert is_sky.any()
    mean = (matrix(rows, "flux") * np.sqrt(matrix(rows, "ivar")))[is_sky].mean(axis=1)
    assert np.abs(mean).max() < 5 / np.sqrt(WAVE_OBS.size)


@pytest.mark.parametrize(
    ("layout", "pattern"),
    [("uniqpix", "spectra/main/*/*/*/coadd-main-*.fits"), ("flat", "coadd-main-*.fits"),
     ("tiles", "tiles/cumulative/1000/*/coadd-?-1000-thru*.fits")],
)  # fmt: skip
def test_other_layouts_are_read_too(tmp_path, layout, pattern):
    config = SMALL.model_copy(
        update={"layout": layout, "num_spectra": 40, "compress_mask": True, "negative_targetids": True}
    )
    truth = write(config, tmp_path)
    assert len(list(tmp_path.glob(pattern))) == 2
    source = DesiSource(str(tmp_path))
    tables = [source.read(unit) for unit in source.plan()]
    assert sum(t.rows.num_rows + t.rejected.num_rows for t in tables) == 40
    bad = truth["fiberstatus"].to_numpy() != 0
    ids = truth["targetid"].to_numpy()
    assert (ids[bad] < 0).all()
    assert (ids[~bad] > 0).all()
    reasons = Counter(reason for t in tables for reason in t.rejected["reason"].to_pylist())
    assert reasons["negative_targetid"] == bad.sum()


def test_tiles_hold_fibres_of_one_petal(tmp_path):
    config = SMALL.model_copy(update={"layout": "tiles", "num_spectra": 400, "spectra_per_file": 20})
    truth = write_task(config, 14, str(tmp_path), STORAGE)
    assert set(truth["fiber"].to_numpy() // 500) == {4}
    assert plan_file(config, 14).path.startswith("tiles/cumulative/1001/")


def test_arm_offsets_crowd_on_the_faulty_fibres(tmp_path):
    config = SynthesizeConfig(
        num_spectra=60, anomaly_fraction=1.0, anomaly_kinds=("arm_offset",), hardware_fraction=0.5
    )
    truth = write(config, tmp_path)
    assert set(truth["anomaly"].to_pylist()) == {"arm_offset"}
    assert 0.3 < np.isin(truth["fiber"].to_numpy(), FAULTY_FIBERS).mean() < 0.7


def test_damaged_files_are_rejected_for_what_they_are(tmp_path):
    config = SynthesizeConfig(
        num_spectra=80, spectra_per_file=10, num_broken_files=4, sky_fraction=0, bad_fiber_fraction=0
    )
    truth = write(config, tmp_path)
    assert Counter(truth["damage"].to_pylist()) == {"": 40} | dict.fromkeys(DAMAGES, 10)
    source = DesiSource(str(tmp_path))
    tables = {unit.file("coadd").uri: source.read(unit) for unit in source.plan()}
    for index in range(8):
        plan = plan_file(config, index)
        (found,) = [t for uri, t in tables.items() if uri.endswith(plan.path)]
        reasons = set(found.rejected["reason"].to_pylist())
        assert reasons == {"truncated_coadd": {"truncated_file"}, "not_fits": {"not_fits"}}.get(
            plan.damage, set()
        )
        if plan.damage == "missing_redrock":
            assert found.rows["z"].null_count == 10
        if plan.damage == "missing_camera":
            assert not matrix(found.rows, "ivar")[:, 3000:4800].any()


def test_resolution_is_normalised_where_it_is_written(tmp_path):
    config = SMALL.model_copy(update={"num_spectra": 3, "with_resolution": True})
    write(config, tmp_path)
    with fits.open(tmp_path / plan_file(config, 0).path) as hdus:
        resolution = hdus["Z_RESOLUTION"].data
    assert resolution.shape == (3, 11, 2881)
    np.testing.assert_allclose(resolution.sum(axis=1), 1.0, rtol=1e-5)


def test_truth_is_one_parquet_file_with_units(release, tmp_path):
    truth = release[1]
    uri = write_truth((truth.slice(i * 30, 30) for i in range(3)), str(tmp_path), STORAGE)
    read = pq.read_table(io.BytesIO(STORAGE.read(uri)))
    assert read.equals(truth)
    assert read.schema.equals(arrow_schema(TRUTH_COLUMNS), check_metadata=True)


def test_unknown_kind_of_anomaly_is_refused():
    with pytest.raises(ConfigError, match=r"anomaly_kinds.*unknown kind alien; known: arm_offset"):
        validate(SynthesizeConfig, {"anomaly_kinds": ["alien"]}, "t.toml")


def test_more_files_than_pixels_are_refused():
    config = SynthesizeConfig(num_spectra=60_000, spectra_per_file=1)
    with pytest.raises(ValueError, match="has room for 49152 files"):
        plan_file(config, 0)


def test_no_pixel_comes_twice():
    config = SynthesizeConfig(num_spectra=49152, spectra_per_file=1)
    assert len({plan_file(config, index).cell for index in range(49152)}) == 49152


def test_folder_without_templates_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no template of GALAXY, QSO-HIZ"):
        load_bases(str(tmp_path), STORAGE)


@pytest.mark.data
def test_real_bases_give_spectra_of_their_class(shared_data, tmp_path):
    config = SMALL.model_copy(
        update={"bases_uri": str(shared_data / "templates"), "bases_fraction": 1.0, "anomaly_fraction": 0.0}
    )
    bases = load_bases(config.bases_uri, STORAGE)
    truth = write_task(config, 0, str(tmp_path), STORAGE, bases)
    assert truth.num_rows == 30
    star = bases.table["STAR-A"]
    mean = star.coefficients.mean(axis=0) @ star.vectors
    wave = star.grid.wave
    line = mean[np.abs(wave - 4862.7) < 4].mean() / mean[np.abs(wave - 4950) < 20].mean()
    assert line < 0.75  # H beta of an A star
    galaxies = bases.table["GALAXY"]
    red, blue = galaxies.coefficients[:50] @ galaxies.vectors, galaxies.coefficients[-50:] @ galaxies.vectors
    window = np.abs(galaxies.grid.wave - 3750) < 100
    optical = np.abs(galaxies.grid.wave - 5300) < 200
    breaks = [(flux[:, window].mean(1) / flux[:, optical].mean(1)).mean() for flux in (red, blue)]
    assert breaks[0] < 0.5 * breaks[1]


def test_truth_of_a_large_release_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.synthetic.truth.GROUP_ROWS", 40_000)
    num_files, num_rows, held = 50, 20_000, []
    key = [Column("targetid", "int64", "Key")]

    def files():
        for index in range(num_files):
            held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes())
            ids = pa.array(np.random.default_rng(index).integers(0, 2**62, num_rows))
            yield conform(pa.table({"targetid": ids}), key, "truth")

    tracemalloc.start()
    try:
        target = write_table(files(), key, str(tmp_path), STORAGE)
    finally:
        tracemalloc.stop()
    assert max(held[10:]) - max(held[:10]) < 8 * num_rows * 4  # four of fifty files
    written = pq.ParquetFile(target.removeprefix("file://"))
    assert written.metadata.num_rows == num_files * num_rows
    assert written.metadata.num_row_groups == num_files // 2
