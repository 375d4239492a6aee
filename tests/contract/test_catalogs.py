"""What every catalogue promises: columns that say what they are, queries that run, the page in the docs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from catalogs import CATALOGS
from catalogs.check import check_catalog
from catalogs.columns_page import columns_page
from catalogs.query import open_catalog, run_query
from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.flags import FLAGS, REASONS
from engine.images.morphology import MeasureMorphology
from engine.images.nearest import NearestReal
from engine.partition import HEALPIX
from engine.sampling import SampleStage
from engine.schema import arrow_type
from engine.sources.seeds import SEED, SeedSource
from engine.spectra.explain import NameLines
from engine.storage import Storage
from jobs import augment
from jobs.ingest import AddSplit
from models import MODELS
from models.generators.sampling import drawn_conditions
from models.spec import ModelSpec
from tests.catalogue import COLUMNS, MODEL_COLUMNS, CatalogueMaker

PAIRS = [pytest.param(catalog, MODELS[catalog.model], id=name) for name, catalog in CATALOGS.items()]

RESERVED = {"norder", "dir", "npix", "anomaly_rank", "disk_rank", "rowid", "file_row_number", "filename"}
"""Names of HATS partitioning, of what views add, and of what DuckDB adds."""

DOCS = Path(__file__).parents[2] / "docs" / "columns.md"


def columns_of(catalog: CatalogSpec, model: ModelSpec) -> tuple[Column, ...]:
    return catalog.columns(model.writes(model.config()))


@pytest.mark.parametrize(("catalog", "model"), PAIRS)
def test_every_column_says_what_it_is(catalog, model):
    for column in columns_of(catalog, model):
        assert len(column.description) > 5, column.name
        assert column.name == column.name.lower()
        assert column.name.isidentifier()
        assert arrow_type(column)


@pytest.mark.parametrize(("catalog", "model"), PAIRS)
def test_names_are_unique_and_none_is_reserved(catalog, model):
    names = [column.name for column in columns_of(catalog, model)]
    assert len(set(names)) == len(names)
    assert not RESERVED & set(names)
    assert names[0] == HEALPIX.name


@pytest.mark.parametrize(("catalog", "model"), PAIRS)
def test_key_score_and_checked_columns_are_there_and_never_null(catalog, model):
    columns = {column.name: column for column in columns_of(catalog, model)}
    if catalog.classes:
        classes = catalog.classes
        assert {classes.probability, classes.predicted, classes.label, classes.redshift} <= {*columns}
    optional = [catalog.latent] if catalog.latent else []
    for name in (*catalog.key, catalog.score, *catalog.score_parts, *optional, *catalog.finite):
        assert name in columns, name
        assert not columns[name].nullable, name
    assert any(name.endswith(catalog.percentile_suffix) for name in columns) == bool(catalog.score_parts)


@pytest.mark.parametrize(("catalog", "model"), PAIRS)
def test_pixels_are_not_published(catalog, model):
    assert all(column.length < 1000 for column in columns_of(catalog, model))


def test_identity_columns_follow_the_desi_data_model():
    types = {column.name: column.dtype for column in COLUMNS}
    assert types["targetid"] == "int64"
    assert {
        "survey",
        "program",
        "z",
        "zwarn",
        "spectype",
        "tileid",
        "fiber",
        "petal",
        "night",
    } <= types.keys()


def test_a_model_cannot_replace_the_flags():
    flags = Column("flags", "int64", "Not the flags of the source")
    found = [
        column
        for column in CATALOGS["spectral_anomaly"].columns((*MODEL_COLUMNS, flags))
        if column.name == "flags"
    ]
    assert [column.dtype for column in found] == ["int32"]


def test_example_queries_run_on_a_published_catalogue(tmp_path):
    maker = CatalogueMaker(str(tmp_path), Storage())
    maker.publish((400, 5))
    with open_catalog(maker.root) as con:
        for question, sql in CATALOGS["spectral_anomaly"].examples:
            assert run_query(con, sql).read_all().num_columns, question
    assert check_catalog(maker.root).ok


def test_flags_have_one_bit_each_and_reasons_a_kind():
    assert len({flag.bit for flag in FLAGS}) == len({flag.name for flag in FLAGS}) == len(FLAGS)
    assert all(reason.code == code and reason.kind in ("cut", "fault") for code, reason in REASONS.items())


def test_catalogs_import_neither_ray_nor_torch():
    code = (
        "import sys, catalogs.check, catalogs.report, catalogs.columns_page; "
        "sys.exit(any(name in sys.modules for name in ('ray', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SHIPPED = {"disk_classifier": {"use_denoised": True}}
"""Settings of the checkpoints that come with the project that change which columns there are."""


def written_by(catalog: CatalogSpec) -> list[Column]:
    """Columns that the models of a catalogue write, without images, and what explains them."""
    models = [MODELS[name] for name in (*catalog.upstream, catalog.model)]
    configs = [model.config(**SHIPPED.get(model.name, {})) for model in models]
    made = zip(models, configs, strict=True)
    written = [column for model, config in made for column in model.writes(config) if not column.packed]
    named = NameLines.of("observed", written)
    return [*written, *(named.provides if named else ())]


def sample_columns() -> tuple[Column, ...]:
    """Columns of samples of the VAE that is told a size, with all measures."""
    spec = MODELS["image_vae"]
    told = {"conditions": ("half_light_radius_arcsec",), "condition_low": (1.0,), "condition_high": (4.0,)}
    config = spec.config(**told)
    generate = SampleStage(spec, config, "", "", config.num_latent, drawn_conditions)
    near = NearestReal(config.size, 1, np.zeros((2, 64)), np.arange(2))
    stages = (generate, MeasureMorphology(config.size), near, AddSplit(SEED))
    return augment.columns_of(SeedSource(""), stages)


def test_columns_of_samples_say_what_they_are_and_what_makes_a_sample_again():
    columns = sample_columns()
    names = [column.name for column in columns]
    assert len(set(names)) == len(names)
    assert not RESERVED & set(names)
    assert {"seed", "checkpoint_id", "half_light_radius_arcsec", "latent", "image", "split_hash"} <= {*names}
    for column in columns:
        assert len(column.description) > 5, column.name
        assert column.name == column.name.lower()


def test_the_page_of_columns_is_up_to_date(rewrite_golden):
    page = columns_page({name: written_by(catalog) for name, catalog in CATALOGS.items()}, sample_columns())
    if rewrite_golden:
        DOCS.write_text(page)
    assert DOCS.read_text() == page, "run `make golden`"
