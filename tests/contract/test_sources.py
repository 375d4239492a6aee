"""What every source promises, whatever the files look like; parametrised over the registry."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from engine.flags import REASONS
from engine.images.bands import BANDS
from engine.schema import arrow_schema
from engine.sources import SOURCES
from engine.sources.base import Source
from engine.stage import REJECTED
from engine.storage import Storage
from engine.synthetic import sersic
from engine.synthetic.sersic import SersicConfig
from engine.units import Unit, with_ids
from tests.coadds import write_release
from tests.galaxies import write_broadband, write_real_galaxies, write_shera_stamps
from tests.mosaics import Field, grid, header
from tests.unit.test_sdss import Spectrum


def write_desi(root: Path) -> None:
    paths = write_release(root, [10, 205])
    paths[1].write_bytes(paths[1].read_bytes()[:20_000])


def write_sdss(root: Path) -> None:
    Spectrum().write(root / "spec-7102-56666-0001.fits")
    (root / "spec-7103-56666-0001.fits").write_bytes(b"SIMPLE  =")


def write_nircam(root: Path) -> None:
    for name in ("good", "broken"):
        field = Field(root / name, name, grid((80, 90)))
        field.images["f150w"][38:43, 43:48] += 60.0
        field.write()
    last = field.path("f444w")
    last.write_bytes(last.read_bytes()[:20_000])


def write_stamps(root: Path) -> None:
    image = np.random.default_rng(1).normal(size=(40, 40))
    (ra,), (dec,) = grid((40, 40)).to_sky([20.0], [20.0])
    (root / "index.csv").write_text(f"id,ra,dec\n1,{ra},{dec}\n2,{ra},{dec}\n")
    for band in BANDS:
        (root / band).mkdir()
        for number in (1, 2):
            path = root / band / f"stamp_{number}.fits"
            fits.PrimaryHDU(image, header(grid((40, 40)))).writeto(path)
    path.write_bytes(b"SIMPLE  =")


def write_sersic(root: Path) -> None:
    config = SersicConfig(num_images=5, size=16, images_per_file=3)
    for task in range(2):
        sersic.write_task(config, task, str(root), Storage())
    last = root / "sersic-00001.fits"
    last.write_bytes(last.read_bytes()[:9_000])


def write_cosmos(root: Path) -> None:
    write_real_galaxies(root, [20, 15, 18, 20])


def write_shera(root: Path) -> None:
    write_shera_stamps(root, [20, 16, 12])
    (root / "4_processed.fits.gz").write_bytes(b"\x1f\x8b nothing")


def write_skirt(root: Path) -> None:
    write_broadband(root, [80, 64, 60])
    (root / "broadband_9.fits").write_bytes(b"SIMPLE  =")


def write_colour(root: Path) -> None:
    for number, size in enumerate((20, 16, 12)):
        pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.jpg")
    (root / "4.jpg").write_bytes(b"no picture")


WRITERS: dict[str, Callable[[Path], None]] = {
    "desi": write_desi,
    "sdss": write_sdss,
    "nircam": write_nircam,
    "stamps": write_stamps,
    "sersic": write_sersic,
    "cosmos": write_cosmos,
    "shera": write_shera,
    "skirt": write_skirt,
    "colour": write_colour,
}
"""One good file and one broken one of each kind."""

SETTINGS: dict[str, dict[str, Any]] = {
    "nircam": {"size": 16},
    "stamps": {"size": 16, "unit": "MJy/sr", "unit_rows": 1},
    "sersic": {"size": 16},
    "cosmos": {"size": 16, "unit_rows": 2},
    "shera": {"size": 16, "unit_rows": 2},
    "skirt": {"size": 16, "unit_rows": 2},
    "colour": {"size": 16, "unit_rows": 2},
}
"""What is set to read them; nothing where it is not here."""


def open_source(name: str, root: Path | str) -> Source:
    kind = SOURCES[name]
    return kind(str(root), config=kind.config_class(**SETTINGS.get(name, {})))


source_name = pytest.mark.parametrize("name", sorted(SOURCES))


@source_name
def test_every_kind_is_tested(name: str) -> None:
    assert name in WRITERS


@source_name
def test_settings_are_those_of_its_class_and_give_the_salt(name: str) -> None:
    source = SOURCES[name]("/nowhere")
    assert source.config == source.config_class()
    assert set(source.salt) <= set(source.config_class.model_fields)


@source_name
def test_plan_is_the_same_every_time(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    units = [list(open_source(name, tmp_path).plan()) for _ in range(2)]
    assert units[0] == units[1]
    assert len(units[0]) == 2
    assert all(unit.id == "" and unit.key for unit in units[0])
    assert [Unit.from_json(unit.to_json()) for unit in units[0]] == units[0]
    assert len({unit.id for unit in with_ids(units[0], {})}) == 2


@source_name
def test_nothing_there_is_no_unit(name: str, tmp_path: Path) -> None:
    assert list(open_source(name, tmp_path).plan()) == []


@source_name
def test_read_gives_declared_columns_and_loses_nothing(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    source = pickle.loads(pickle.dumps(open_source(name, tmp_path)))
    num_rows = 0
    for unit in source.plan():
        table, again = source.read(unit), source.read(unit)
        assert table.rows.schema.equals(arrow_schema(source.columns), check_metadata=True)
        assert table.rejected.schema.equals(arrow_schema(REJECTED))
        assert table.rows.equals(again.rows)
        assert table.rejected.equals(again.rejected)
        assert table.rows_in == len(table.rows) + len(table.rejected) - table.rejected["row"].null_count
        assert set(table.rejected["reason"].to_pylist()) <= set(REASONS)
        assert table.stats["bytes_fetched"] >= table.stats["bytes_used"] >= 0
        num_rows += len(table.rows)
    assert num_rows > 0


@source_name
def test_missing_files_are_rejected(name: str) -> None:
    table = SOURCES[name]("/nowhere").read(Unit("x", (), missing=("/nowhere/a.fits", "/nowhere/b.fits")))
    assert table.rows.num_rows == table.rows_in == 0
    assert table.rows.schema.equals(arrow_schema(SOURCES[name]("/nowhere").columns))
    assert table.rejected["uri"].to_pylist() == ["/nowhere/a.fits", "/nowhere/b.fits"]
