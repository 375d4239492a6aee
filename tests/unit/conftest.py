"""Fixtures that several modules of unit tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.fits import FitsContents, read_hdus
from engine.storage import Storage
from tests.toy import ToyCatalogue


@pytest.fixture
def catalogue(tmp_path: Path) -> ToyCatalogue:
    """Four toy units, written and not yet published."""
    return ToyCatalogue(tmp_path)


@pytest.fixture
def read_fits(tmp_path: Path) -> Callable[..., FitsContents]:
    """Write bytes to a file and read HDUs of it."""

    def call(data: bytes, images=(), tables=None, size: int | None = None) -> FitsContents:
        path = tmp_path / "x.fits"
        path.write_bytes(data)
        return read_hdus(Storage(), str(path), len(data) if size is None else size, images, tables or {})

    return call
