"""Settings of a source: refused with their key where they are wrong, and in the ids of units where they count."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import validate
from engine.errors import ConfigError
from engine.images.morphology import PUBLISHED, MorphologyConfig
from engine.sources import SOURCES, DesiSource
from engine.storage import Storage
from engine.units import FileRef, Unit, with_ids
from jobs.config import AugmentConfig, JobConfig, Place, ReleaseConfig, load, load_scorings, model_of
from jobs.job import Options
from models import MODELS
from models.generators import flow_config
from tests.servers import S3Server

UNITS = [
    Unit(f"coadd-{i}", (FileRef(f"/release/coadd-{i}.fits", 100 + i, "etag", "coadd"),)) for i in range(3)
]


def load_release(folder: Path, *lines: str) -> JobConfig:
    """Read a file whose [release] has these lines beside its `uri`."""
    path = folder / "job.toml"
    path.write_text("\n".join(["[release]", 'uri = "release"', *lines]))
    return load(Options(target=str(path)))


def ids(**settings: Any) -> list[str]:
    """Ids of the same units, read with these settings of a DESI release."""
    source = ReleaseConfig(uri="/release", settings=settings).open()
    assert isinstance(source, DesiSource)
    return [unit.id for unit in with_ids(UNITS, source.salt)]


@pytest.mark.parametrize(
    ("line", "key", "nearest"),
    [
        ('settings.layuot = "flat"', "release.settings.layuot", "layout"),
        ("settings.cuts.min_exposure = 2", "release.settings.cuts.min_exposure", "min_exposures"),
        ('settings.survey = "main"', "release.settings.survey", "surveys"),
    ],
)
def test_typo_in_the_settings_is_refused_with_the_nearest_key(
    tmp_path: Path, line: str, key: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_release(tmp_path, line)
    assert f"{key}: unknown key (did you mean '{nearest}'?)" in str(caught.value)
    assert str(tmp_path / "job.toml") in str(caught.value)


def test_value_that_a_setting_cannot_have_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release\.settings\.layout: .*'tile'"):
        load_release(tmp_path, 'settings.layout = "tile"')


def test_unknown_source_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_release(tmp_path, 'source = "dessi"', 'settings.layout = "flat"')
    text = str(caught.value)
    assert "release.source" in text
    assert "'dessi'" in text
    assert ", ".join(SOURCES) in text
    assert "release.settings" not in text, "what settings mean is not known without the source"


def test_settings_are_refused_by_a_source_that_has_none(tmp_path: Path) -> None:
    assert load_release(tmp_path, 'source = "sdss"').release is not None
    with pytest.raises(ConfigError, match=r"release\.settings\.layout: unknown key"):
        load_release(tmp_path, 'source = "sdss"', 'settings.layout = "auto"')


@pytest.mark.parametrize(
    "cuts",
    [
        {"targets_only": False},
        {"keep_negative_targetid": True},
        {"allowed_fiberstatus": 8},
        {"good_redshift_only": True},
        {"allowed_zwarn": 4},
        {"min_exposures": 2},
    ],
    ids=lambda cuts: next(iter(cuts)),
)
def test_other_cuts_make_other_units(cuts: dict[str, Any]) -> None:
    assert not set(ids(cuts=cuts)) & set(ids())


@pytest.mark.parametrize(
    "selection",
    [
        {"surveys": ["main"]},
        {"programs": ["dark"]},
        {"surveys": ["main"], "programs": ["dark"], "pixels": [1, 2]},
        {"layout": "tiles", "tiles": [80605]},
        {"index_uri": "tilepix.fits"},
        {"layout": "flat"},
    ],
    ids=lambda selection: "-".join(selection),
)
def test_another_selection_leaves_the_ids_of_units(selection: dict[str, Any]) -> None:
    assert ids(**selection) == ids()
    cuts = {"min_exposures": 2}
    assert ids(**selection, cuts=cuts) == ids(cuts=cuts)


def test_cuts_written_out_as_their_defaults_are_the_defaults() -> None:
    assert ids(cuts={"targets_only": True, "min_exposures": 1}) == ids()
    assert len(set(ids())) == len(UNITS)


def test_models_are_said_in_one_place(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    entry = '[[models]]\ncheckpoint.uri = "c"\noutput.uri = "{}"\n'
    path.write_text('release.uri = "r"\n' + entry.format("one") + entry.format("two"))
    first, second = load_scorings(Options(target=str(path)))
    assert (first.output, second.output) == (Place(uri="one"), Place(uri="two"))
    assert first.catalog.key == ("survey", "program", "targetid")
    with pytest.raises(ConfigError, match="models is given, so output belong into its entries"):
        load_scorings(Options(target=str(path), overrides=("output.uri=three",)))
    with pytest.raises(ConfigError, match="so model says nothing"):
        load_scorings(Options(target=str(path), overrides=("model.settings.size=64",)))
    with pytest.raises(ConfigError, match="an output of its own"):
        load_scorings(Options(target=str(path), overrides=('models=[{checkpoint.uri="c", output.uri="o"}, '
                                                           '{checkpoint.uri="d", output.uri="o"}]',)))  # fmt: skip


def test_settings_of_a_published_set_are_known_by_its_name() -> None:
    for name, wanted in PUBLISHED.items():
        assert AugmentConfig.model_validate({"morphology": name}).morphology == wanted
    assert AugmentConfig.model_validate({"morphology": {"gain": 2.0}}).morphology == MorphologyConfig(
        gain=2.0
    )
    with pytest.raises(ConfigError, match=r"augment\.morphology: .*there are sersic, cosmos, skirt.*'tng'"):
        validate(JobConfig, {"augment": {"morphology": "tng"}}, "here")


def model_settings(**model: Any) -> Any:
    return model_of(JobConfig.model_validate({"model": model}))[1]


def test_a_preset_is_what_settings_begin_with() -> None:
    published = flow_config.PRESETS["published256"]
    found = model_settings(name="image_flow", preset="published256", settings={"width": 48, "softening": 9.0})
    assert found == replace(published, width=48, softening=9.0)
    assert model_settings(name="image_flow", settings={"width": 48}) == replace(
        flow_config.PRESETS["cpu64"], width=48
    )
    six = model_settings(name="image_vae", preset="tiny", settings={"num_channels": 6})
    assert six.stretched_mean == (0.0,) * 6, "what is measured is not the preset's"


def test_settings_inside_of_a_preset_are_set_one_by_one() -> None:
    name, base = next(iter(MODELS["spectral_vae"].presets.items()))
    found = model_settings(preset=name, settings={"scoring": {"num_neighbours": 7}})
    assert found == replace(base, scoring=replace(base.scoring, num_neighbours=7))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_preset_that_there_is_not_is_refused_with_those_that_there_are(name: str) -> None:
    spec = MODELS[name]
    for preset, wanted in spec.presets.items():
        assert model_settings(name=name, preset=preset) == wanted
    expected = ", ".join(spec.presets) or "none: redshift_vae has no presets"
    with pytest.raises(ConfigError, match=rf"model\.preset: .*'huge'; expected {expected}"):
        model_settings(name=name, preset="huge")


def test_configuration_on_object_storage_is_read_with_the_environment_alone(
    moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint_url)
    bucket, storage = moto_server.bucket(), Storage(moto_server.options)
    storage.put(f"{bucket}/job.toml", b'[release]\nuri = "s3://release"\n')
    storage.put(f"{bucket}/bad.toml", b"[release")
    storage.put(f"{bucket}/packed.toml", b"\xff\xfe")
    config = load(Options(target=f"{bucket}/job.toml", overrides=("seed=7",)))
    assert config.release is not None
    assert (config.release.uri, config.seed) == ("s3://release", 7)
    for name, problem in {
        "bad": "is not TOML",
        "packed": "is not text",
        "gone": "no such configuration",
    }.items():
        with pytest.raises(ConfigError, match=rf"{name}\.toml: .*{problem}"):
            load(Options(target=f"{bucket}/{name}.toml"))
