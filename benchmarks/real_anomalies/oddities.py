"""The hand-made list: which real spectrum is made odd, by what, and why that is odd."""

from dataclasses import dataclass

from benchmarks.real_anomalies import transformations as made
from benchmarks.real_anomalies.transformations import Transformation


@dataclass(frozen=True)
class Oddity:
    """A transformation and the spectra [plate-mjd-fibre] that it is done to; of pairs the second is added.

    `seen_by_redshift`: flux and noise stay as they are, only a model that is told the redshift can see it.
    """

    make: Transformation
    why: str
    sources: tuple[str | tuple[str, str], ...]
    seen_by_redshift: bool = False


QSOS = ("7102-56666-0466", "7102-56666-0182", "7102-56666-0354", "7102-56666-0904")
STARS = ("7102-56666-0216", "7102-56666-0491", "7102-56666-0398")
GALAXIES = ("4055-55359-0006", "4055-55359-0012", "7102-56666-0348", "7102-56666-0474")
EMISSION = ("7102-56666-0348", "7102-56666-0474", "7102-56666-0598", "7102-56666-0558")
NEAR_QSOS = ("7102-56666-0656", "7102-56666-0960", "7102-56666-0478")

ODDITIES: dict[str, Oddity] = {
    "red_scaled": Oddity(made.red_scaled, "calibration of one camera off by half", (*QSOS[:2], *STARS[:2], *GALAXIES[:2])),
    "red_offset": Oddity(
        made.red_offset, "background of one camera off by two sigma a pixel", (*QSOS[:2], *STARS[1:], *GALAXIES[2:])
    ),
    "sky_left": Oddity(made.sky_left, "sky lines left at three sigma", (*QSOS[:2], *STARS[:2], *EMISSION[:2])),
    "hot_pixels": Oddity(made.hot_pixels, "five groups of hot pixels", (*QSOS[2:], *STARS[:2], *GALAXIES[2:])),
    "dropout": Oddity(made.dropout, "500 Angstrom without light that no mask tells of", (*QSOS[:2], *STARS[:2], *GALAXIES[:2])),
    "reversed": Oddity(made.reversed_wave, "wavelengths run backwards", (*QSOS[:2], *STARS[:2], *EMISSION[:2])),
    "star_on_quasar": Oddity(
        made.blend, "two objects in one fibre", tuple(zip(QSOS, ("7102-56666-0491", *STARS), strict=True))
    ),
    "galaxy_on_quasar": Oddity(
        made.blend, "two objects in one fibre", tuple(zip(NEAR_QSOS, GALAXIES[:3], strict=True))
    ),
    "hot_and_cool_star": Oddity(
        made.blend, "a binary of an M giant and a hot star",
        (("10000-57346-0021", "7102-56666-0286"), ("10000-57346-0021", "7102-56666-0208"),
         ("10000-57346-0005", "7102-56666-0604")),
    ),
    "broadened": Oddity(made.broadened, "lines of 19,000 km/s", (*QSOS, *NEAR_QSOS)),
    "without_lines": Oddity(made.without_lines, "a quasar without lines", (*QSOS, *NEAR_QSOS)),
    "lines_inverted": Oddity(made.lines_inverted, "emission has become absorption", (*QSOS, *EMISSION[:2])),
    "double_peaked": Oddity(made.double_peaked, "lines in two, 600 km/s apart", EMISSION),
    "oxygen_enhanced": Oddity(made.oxygen_enhanced, "[OIII] six times as strong as its H beta allows", EMISSION),
    "no_h_alpha": Oddity(made.no_h_alpha, "H beta and [OIII], and H alpha in absorption", EMISSION),
    "broad_absorption": Oddity(made.broad_absorption, "absorbed over 13,000 km/s beside C IV", (*QSOS, "7102-56666-0594")),
    "damped_absorber": Oddity(
        made.damped_absorber, "damped Lyman alpha of 10^21.7 cm^-2", (*QSOS[:2], "7102-56666-0778", "7102-56666-0584")
    ),
    "dusty": Oddity(made.dusty, "reddened by E(B-V) = 1", (*QSOS[:2], *NEAR_QSOS[:1], *GALAXIES[1:])),
    "supernova": Oddity(made.with_supernova, "a type Ia supernova as bright as its host", GALAXIES),
    "carbon_bands": Oddity(made.carbon_bands, "bands of C2 in a star that has none",
                           ("7102-56666-0491", "7102-56666-0660", "7102-56666-0688")),
    "wrong_redshift": Oddity(made.wrong_redshift, "redshift off by 0.25 (1 + z)", (*QSOS, *GALAXIES[:2], *EMISSION),
                             seen_by_redshift=True),
}  # fmt: skip
"""By name of the transformation."""
