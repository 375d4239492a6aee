import pytest

from engine.spectra.lines import LINES, lines_within


def test_lines_are_in_order_and_have_a_reference() -> None:
    waves = [line.wave_angstrom for line in LINES]
    assert waves == sorted(waves)
    assert len(set(waves)) == len(waves)
    assert all(line.reference and line.kind in ("emission", "absorption") for line in LINES)


@pytest.mark.parametrize(("name", "wave_air"), [("H α", 6562.80), ("H β", 4861.33), ("[O III]", 5006.84)])
def test_wavelengths_are_vacuum(name: str, wave_air: float) -> None:
    """Vacuum is longer than air by 1.0003 - 2.9e-4 in the optical (Ciddor 1996)."""
    near = min(
        (line for line in LINES if line.name == name), key=lambda line: abs(line.wave_angstrom - wave_air)
    )
    assert near.wave_angstrom / wave_air - 1 == pytest.approx(2.77e-4, abs=0.05e-4)


def test_window_is_in_the_observed_frame() -> None:
    names = [line.name for line in lines_within(6500, 6600)]
    assert names == ["[N II]", "H α", "[N II]"]
    assert [line.name for line in lines_within(13000, 13200, redshift=1.0)] == names
    assert lines_within(1, 2) == []
