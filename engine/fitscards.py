"""Keywords of a FITS header in one pass over its bytes.

astropy looks up its configuration for each card that is asked for: 60 us, and a coadd asks for a thousand. What
decides how bytes are read comes from here; who wants more of a header (WCS) makes an `astropy.io.fits.Header`.

References
----------
FITS Standard 4.0 (IAU FITS Working Group, 2018): sections 4.1 (cards) and 4.2 (values).
"""

import re
from collections.abc import Mapping

CARD_BYTES = 80

Value = str | bool | int | float | None
Cards = Mapping[str, Value]
"""Keyword to value, None where it has none; of equal keywords the first."""

COMMENTARY = ("", "COMMENT", "HISTORY", "CONTINUE")
"""Keywords without a value, whatever stands there."""

_STRING = re.compile(r"'((?:[^']|'')*)'")


def read_cards(text: bytes) -> dict[str, Value]:
    """Return the values of a header, up to END; commentary and CONTINUE cards are left out.

    A value that is none of the standard's types comes as its text, so that a check can name it.
    """
    cards: dict[str, Value] = {}
    for start in range(0, len(text), CARD_BYTES):
        card = text[start : start + CARD_BYTES].decode("latin-1")
        if card.startswith("END     "):
            break
        keyword = card[:8].rstrip()
        if card[8:10] == "= " and keyword not in cards and keyword not in COMMENTARY:
            cards[keyword] = _value(card[10:].strip())
    return cards


def _value(text: str) -> Value:
    if text.startswith("'"):
        match = _STRING.match(text)
        return match[1].replace("''", "'").rstrip() if match else text
    word = text.partition("/")[0].rstrip()
    if word in ("T", "F"):
        return word == "T"
    for kind in (int, float):
        try:
            return kind(word.replace("D", "E"))
        except ValueError:
            continue
    return word or None
