"""The files of synthetic Sersic sets: layout, truth, and the same whoever writes them and in what order."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from engine.schema import arrow_schema, matrix
from engine.sources import SOURCES
from engine.storage import Storage
from engine.synthetic import sersic
from engine.synthetic.sersic import TRUTH_COLUMNS, SersicConfig, write_cube
from engine.synthetic.sersic_render import RANGES, SersicParameters, render

SMALL = SersicConfig(num_images=5, size=16, images_per_file=3, seed=4)


def write(config: SersicConfig, folder: Path, tasks) -> Path:
    folder.mkdir(exist_ok=True)
    truth = [sersic.write_task(config, task, str(folder), Storage()) for task in tasks]
    sersic.write_truth(truth, str(folder), Storage())
    return folder


def test_files_hold_what_was_asked_for_and_astropy_reads_them(tmp_path: Path) -> None:
    assert sersic.task_count(SMALL) == 2
    assert sersic.describe(SMALL, 2) == {"files": 2, "images": 5, "pixels_a_side": 16}
    write(SMALL, tmp_path, range(2))
    with fits.open(tmp_path / "sersic-00001.fits") as file:
        file.verify("exception")
        assert file["IMAGES"].data.shape == (2, 16, 16)
        assert file["PARAMETERS"].data["OBJECT_ID"].tolist() == [3, 4]
        assert file["IMAGES"].header["PIXSCALE"] == pytest.approx(0.64)


def test_files_are_the_same_in_any_order_and_other_seeds_give_others(tmp_path: Path) -> None:
    one = write(SMALL, tmp_path / "one", [0, 1])
    two = write(SMALL, tmp_path / "two", [1, 0])
    other = write(SMALL.model_copy(update={"seed": 5}), tmp_path / "other", [0])
    for name in ("sersic-00000.fits", "sersic-00001.fits"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (one / "sersic-00000.fits").read_bytes() != (other / "sersic-00000.fits").read_bytes()


def test_truth_is_what_the_source_reads_and_the_images_are_drawn_from_it(tmp_path: Path) -> None:
    write(SMALL, tmp_path, range(2))
    truth = pq.read_table(tmp_path / "truth.parquet")
    assert truth.schema.equals(arrow_schema(TRUTH_COLUMNS), check_metadata=True)
    source = SOURCES["sersic"](str(tmp_path), config=SOURCES["sersic"].config_class(size=16))
    rows = [source.read(unit).rows for unit in source.plan()]
    assert [i for part in rows for i in part["object_id"].to_pylist()] == truth["object_id"].to_pylist()
    for name in RANGES:
        assert [v for part in rows for v in part[name].to_pylist()] == truth[name].to_pylist()
    drawn = render(SersicParameters(*(truth[name].to_numpy() for name in RANGES)), 16)
    assert np.array_equal(np.concatenate([matrix(part, "image") for part in rows]), drawn.reshape(5, -1))


def test_task_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task 2 of 2"):
        sersic.write_task(SMALL, 2, str(tmp_path), Storage())


def test_cube_needs_as_many_images_as_it_says(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 images for a cube of 2"):
        write_cube(tmp_path / "a.fits", (2, 4, 4), [np.zeros((4, 4))], {"object_id": np.arange(2)}, {})
    with pytest.raises(ValueError, match=r"image 0 has shape \(3, 4\)"):
        write_cube(tmp_path / "a.fits", (1, 4, 4), [np.zeros((3, 4))], {"object_id": np.arange(1)}, {})
