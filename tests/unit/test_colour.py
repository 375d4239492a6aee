"""Folders of colour pictures and stamps of one band, and contaminated realisations of them."""

import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import validate
from engine.errors import ConfigError
from engine.schema import matrix, to_arrays
from engine.sources.galaxy_colour import ColourConfig, ColourSource
from engine.sources.galaxy_cosmos import CosmosConfig, CosmosSource
from engine.stage import UnitTable
from engine.synthetic.contaminate.optics import gaussian_optics
from engine.synthetic.contaminate.rows import Realisations, RealisationsConfig
from engine.synthetic.contaminate.sources import Library
from engine.synthetic.contaminate.target import Target
from models.unet_vae import SPEC
from models.unet_vae_config import PRESETS

COLOURS = validate(
    RealisationsConfig, {"images": "colour", "saturates_at": 1.0, "realisations": 2, "seed": 3}, "here"
)


SHIPPED = tomllib.loads(Path("jobs/configs/denoiser_colour.toml").read_text())


def picture(size: int = 48, seed: int = 0) -> Image.Image:
    """A reddish blob on black."""
    at = np.arange(size) - size / 2
    blob = np.exp(-0.5 * (at[:, None] ** 2 + at**2) / (size / 8) ** 2)
    colours = np.array([0.9, 0.6, 0.3]) * blob[..., None]
    grain = np.random.default_rng(seed).uniform(0, 0.02, colours.shape)
    return Image.fromarray(((colours + grain).clip(0, 1) * 255).astype(np.uint8))


def read(folder: Path, **settings: object) -> UnitTable:
    source = ColourSource(str(folder), config=validate(ColourConfig, {"size": 32, **settings}, "here"))
    (unit,) = source.plan()
    return source.read(unit)


def test_pictures_are_cropped_and_smaller_ones_framed(tmp_path):
    picture(48).save(tmp_path / "587722.jpg", quality=95)
    picture(31).save(tmp_path / "587723.jpg", quality=95)
    table = read(tmp_path)
    images = matrix(table.rows, "image").reshape(2, 3, 32, 32)
    assert table.rows["object_id"].to_pylist() == [587722, 587723]
    assert table.rows["pixel_scale"].to_pylist() == pytest.approx([0.396] * 2)
    assert images.min() >= 0
    assert images.max() <= 1
    red, green, blue = images[0, :, 16, 16]
    assert red > green > blue
    assert not images[1, :, -1].any(), "a frame of one row on one side"
    assert images[1, 0, 0].any()


def test_pictures_of_efigi_are_taken_by_ending_and_by_a_list_of_names(tmp_path):
    folder, listed = tmp_path / "efigi", tmp_path / "clean.txt"
    folder.mkdir()
    for seed, name in enumerate(("PGC0000212", "PGC0000218", "PGC0000243", "PGC0000255")):
        picture(31, seed).save(folder / f"{name}.png")
    picture().save(folder / "PGC0000300.jpg")
    whole = read(folder, ending=".png")
    assert whole.rows["object_id"].to_pylist() == [212, 218, 243, 255]
    listed.write_text("# Contamination = 0\nPGC0000212\n\nPGC0000243.png\nPGC0009999\n")
    chosen = read(folder, ending=".png", names_uri=str(listed))
    assert chosen.rows["object_id"].to_pylist() == [212, 243]
    np.testing.assert_array_equal(matrix(chosen.rows, "image"), matrix(whole.rows, "image")[[0, 2]])
    listed.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="list of pictures has no name"):
        read(folder, ending=".png", names_uri=str(listed))
    with pytest.raises(ConfigError, match="list of pictures is no text"):
        read(folder, ending=".png", names_uri=str(folder / "PGC0000212.png"))


def test_what_is_no_picture_is_rejected(tmp_path):
    picture().save(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(b"not a picture")
    whole = io.BytesIO()
    picture().save(whole, "JPEG")
    (tmp_path / "3.jpg").write_bytes(whole.getvalue()[:300])
    Image.new("RGB", (48, 48)).save(tmp_path / "4.jpg")
    table = read(tmp_path)
    assert table.rows["object_id"].to_pylist() == [1]
    reasons = dict(
        zip(table.rejected["object_id"].to_pylist(), table.rejected["reason"].to_pylist(), strict=True)
    )
    assert reasons == {2: "unreadable_file", 3: "unreadable_file", 4: "constant_image"}


def test_damaged_pictures_are_rejected_whatever_the_decoder_raises_of_them(tmp_path):
    """Pillow calls a chunk of no name a SyntaxError, a header that is cut short a ValueError."""
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    whole = whole.getvalue()
    last = whole.rindex(b"IDAT")
    assert last > whole.index(b"IDAT"), "the first chunk of pixels stays"
    (tmp_path / "1.png").write_bytes(whole)
    (tmp_path / "2.png").write_bytes(whole[:last] + b"A\x10\xe5," + whole[last + 4 :])
    (tmp_path / "3.png").write_bytes(whole[:8] + (5).to_bytes(4) + whole[12:])
    table = read(tmp_path, ending=".png")
    assert table.rows["object_id"].to_pylist() == [1]
    assert table.rejected["object_id"].to_pylist() == [2, 3]
    assert table.rejected["reason"].to_pylist() == ["unreadable_file"] * 2
    first, second = table.rejected["detail"].to_pylist()
    assert "broken PNG file" in first
    assert "Truncated IHDR" in second


def test_realisations_of_pictures_are_what_the_published_denoiser_learns_from(tmp_path):
    for seed in range(3):
        picture(seed=seed).save(tmp_path / f"{seed}.png")
    rows = read(tmp_path, ending=".png").rows
    make = Realisations(COLOURS)
    config = SPEC.config(**{**vars(PRESETS["published"]), "size": 32, "levels": 3, "skip_levels": (0, 1, 2), "width": 4,
                            "num_latent": 4})  # fmt: skip
    names = [column.name for column in SPEC.learns_from(config)]
    assert set(make.reads(names)) == {"pixel_scale", "field", "object_id", "image"}
    one, other = make(rows, 0), make(rows, 1)
    np.testing.assert_array_equal(matrix(one, "clean"), matrix(rows, "image"))
    assert (matrix(one, "science") != matrix(other, "science")).any(axis=1).all()
    assert 0 <= matrix(one, "science").min() <= matrix(one, "science").max() <= 1
    task = SPEC.task(config, 0)
    task.start(torch.device("cpu"), 2)
    assert np.isfinite(task.step(to_arrays(one, names), 0)["loss"])


def test_realisations_of_cosmos_stamps_are_what_a_denoiser_of_one_band_learns_from(shared_data):
    settings = CosmosConfig(size=32, catalogue="real_galaxy_catalog_26_extension_example.fits", unit_rows=6)
    source = CosmosSource(str(shared_data / "cosmos_f814w"), config=settings)
    rows = source.read(next(iter(source.plan()))).rows
    make = Realisations(validate(RealisationsConfig, {"images": "stamps", "snr": [5.0]}, "here"))
    one, other = make(rows, 0), make(rows, 1)
    np.testing.assert_array_equal(matrix(one, "clean"), matrix(rows, "image"))
    assert (matrix(one, "science") != matrix(other, "science")).any(axis=1).all()
    small = {"size": 32, "num_bands": 1, "scale_njy": (0.003,), "levels": 2, "width": 4, "num_latent": 4,
             "skip_levels": (0, 1)}  # fmt: skip
    config = SPEC.config(**small)
    names = [column.name for column in SPEC.learns_from(config)]
    assert set(make.reads(names)) == {"pixel_scale", "field", "object_id", "image"}
    task = SPEC.task(config, 0)
    task.start(torch.device("cpu"), 2)
    assert np.isfinite(task.step(to_arrays(one, names), 0)["loss"])


def test_contaminating_galaxies_of_pictures_are_wider_than_the_psf_and_mostly_smaller_than_the_target():
    config = validate(RealisationsConfig, SHIPPED["contaminate"] | {"star_fraction": 0.0}, "here")
    optics = gaussian_optics(
        [config.colour_fwhm_px] * 3, [config.colour_noise] * 3, config.colour_pixel_arcsec
    )
    library, rng = Library(config, optics), np.random.default_rng(0)
    target = Target(128.0, 128.0, 0, 4000.0, 40.0, 0.9)  # of a picture of Galaxy Zoo
    drawn = [one.source for _ in range(100) for one in library.draw(target, 256, rng)]
    sizes = [max(part.half_light for part in source.profiles) / optics.pixel_arcsec for source in drawn]
    least, median, most = np.percentile(sizes, [5, 50, 95])
    assert least > config.colour_fwhm_px / 2
    assert 2 * config.colour_fwhm_px < median < target.half_light_px < most


def test_the_shipped_configuration_is_the_published_preset():
    """The TOML stands for itself, so that both must be changed together."""
    assert SPEC.config(**SHIPPED["model"]["settings"]) == PRESETS["published"]
    sizes = [SHIPPED["prepare"]["size"], SHIPPED["release"]["settings"]["size"]]
    assert sizes == [PRESETS["published"].size] * 2


def test_the_advice_of_the_shipped_configuration_for_a_cpu_is_taken():
    lowered = {"size": 64, "levels": 3, "skip_levels": [0, 1, 2]}
    assert SPEC.config(**SHIPPED["model"]["settings"] | lowered).levels == 3
    comments = " ".join(
        line.lstrip("# ")
        for line in Path("jobs/configs/denoiser_colour.toml").read_text().splitlines()
        if line.startswith("#")
    )
    for said in ("model.settings.size to 64", "levels to 3", "model.settings.skip_levels to [0, 1, 2]"):
        assert said in comments


def test_pictures_saturate():
    with pytest.raises(ConfigError, match=r"saturates_at is 0, must be 1"):
        validate(RealisationsConfig, {"images": "colour"}, "here")


def test_real_pictures(shared_data):
    folder = shared_data / "galaxyzoo_spirals" / "spirals"
    source = ColourSource(str(folder), config=ColourConfig(size=256, unit_rows=5))
    rows = source.read(next(iter(source.plan()))).rows
    assert rows.num_rows == 5
    images = matrix(rows, "image").reshape(5, 3, 256, 256)
    assert images[:, :, 118:138, 118:138].mean() > 2 * images[:, :, :20, :20].mean(), (
        "the galaxy is in the middle"
    )
