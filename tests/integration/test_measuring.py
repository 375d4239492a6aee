"""Images are measured alike by Ray and without it."""

import os

import numpy as np
import pytest

from benchmarks.measuring import mapper, measures_of
from benchmarks.sersic_generators import pieces, sersic_images
from engine.images.morphology import PUBLISHED

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_measures_are_the_same_with_and_without_ray() -> None:
    parts = list(pieces(sersic_images(5, 64, 1), 64, 2))
    alone = measures_of(parts, PUBLISHED["sersic"], map, "here")
    with mapper(2, by_ray=True) as mapped:
        assert os.getpid() not in mapped(lambda _: os.getpid(), range(2)), "other processes measure"
        shared = measures_of(parts, PUBLISHED["sersic"], mapped, "by Ray")
    np.testing.assert_array_equal(shared.spectra, alone.spectra)
    assert shared.morphology.keys() == alone.morphology.keys()
    for name, values in alone.morphology.items():
        np.testing.assert_array_equal(shared.morphology[name], values, err_msg=name)
    assert np.isfinite(alone.morphology["gini"]).all()
