"""Cards as astropy reads them."""

import math

import pytest
from astropy.io import fits

from engine.fitscards import read_cards


def test_values_are_those_of_astropy() -> None:
    header = fits.Header()
    values = {"INT": -42, "BIG": 2**62, "REAL": 1.5e-300, "YES": True, "NO": False, "TEXT": "it's / one",
              "EMPTY": "", "PADDED": "x  "}  # fmt: skip
    for key, value in values.items():
        header[key] = value, "a comment / with 'quotes'"
    header["COMMENT"] = "= not a value"
    header["HISTORY"] = "neither"
    cards = read_cards(header.tostring().encode())
    assert cards == {key: header[key] for key in values}
    assert {key: type(value) for key, value in cards.items()} == {k: type(v) for k, v in values.items()}


@pytest.mark.parametrize(
    ("card", "value"),
    [
        ("KEY     = 1.0D3", 1000.0),
        ("KEY     =", None),
        ("KEY     = / only a comment", None),
        ("KEY     = 'never closed", "'never closed"),
        ("KEY     = twelve / not a number", "twelve"),
    ],
)
def test_odd_values(card: str, value: object) -> None:
    assert read_cards(card.ljust(80).encode() + b"END".ljust(80)) == {"KEY": value}


def test_the_first_of_equal_keywords_counts_and_nothing_behind_the_end() -> None:
    text = b"".join(c.ljust(80) for c in (b"KEY     =  1", b"KEY     =  2", b"END", b"OTHER   =  3"))
    assert read_cards(text) == {"KEY": 1}


def test_bytes_that_are_no_text_are_no_error() -> None:
    cards = read_cards(bytes(range(256)) * 10)
    assert not any(isinstance(value, float) and math.isnan(value) for value in cards.values())
