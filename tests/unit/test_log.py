import io

from engine.log import ProgressLine


def test_line_tells_units_rows_and_rejected() -> None:
    stream = io.StringIO()
    with ProgressLine("infer", 2, stream) as line:
        line.advance(1500, 10)
        assert "1/2 units  1.5k rows" in line.text()
        assert "ETA" in line.text()
        line.advance(500, 0)
    text = stream.getvalue()
    assert text.count("\n") == 1, "one line at the end, none before a minute has passed"
    assert text.startswith("infer  2/2 units  2k rows")
    assert "rejected 10 (0.498%)" in text


def test_nothing_to_do_says_nothing() -> None:
    stream = io.StringIO()
    with ProgressLine("infer", 0, stream):
        pass
    assert stream.getvalue() == ""
