"""Files damaged in two hundred ways are rows or rejections with the right reason; and the fuzzer sees what is not.

`python -m benchmarks.fuzz_fits` tries two thousand, real files among them.
"""

import random
from typing import Any, ClassVar

import pytest

from benchmarks.faults.child import Child
from benchmarks.faults.corpus import Release, releases
from benchmarks.faults.fuzz import Case, judge, make_cases, run
from benchmarks.faults.mutations import (
    MUTATIONS,
    Mutation,
    Sound,
    change_type,
    lie_about_size,
    lose_block,
    many_axes,
    nonsense_values,
)
from tests.fitsbytes import coadd_bytes


def test_every_damaged_file_is_rows_or_rejections() -> None:
    verdicts = run(releases(real=False), num_cases=200, seed=7, workers=1)
    assert len(verdicts) == 200
    assert len({verdict.kind for verdict in verdicts}) >= 16
    assert any(verdict.reasons for verdict in verdicts)
    assert any(verdict.num_rows for verdict in verdicts)
    assert [(v.number, v.kind, v.problems) for v in verdicts if v.problems] == []


def test_a_case_can_be_made_again_alone() -> None:
    release = Release("x", "desi", {"coadd-1.fits": coadd_bytes(1, 1)}, ("coadd-1.fits",))
    first, second = (next(make_cases([release], [41], seed=5)) for _ in range(2))
    assert first.mutation == second.mutation
    assert next(make_cases([release], [41], seed=6)).mutation != first.mutation


@pytest.mark.parametrize("mutation", dict.fromkeys(MUTATIONS))
def test_every_mutation_changes_a_file(mutation) -> None:
    sound = Sound(coadd_bytes(1, 1, is_tiled=True))
    changed = [mutation(random.Random(seed), sound).data != sound.data for seed in range(4)]
    assert any(changed)


@pytest.mark.parametrize(
    ("mutation", "never"),
    [
        (many_axes, {"bad_wcs", "no_usable_pixel", "not_found", "zwarn"}),
        (lie_about_size, {"bad_wcs", "bad_unit", "not_fits"}),
        (change_type, {"bad_wcs", "bad_unit", "not_fits"}),
        (nonsense_values, {"truncated_file", "bad_wcs", "no_camera"}),
    ],
)
def test_a_mutation_allows_no_reason_that_it_cannot_be(mutation, never: set[str]) -> None:
    sound = Sound(coadd_bytes(1, 1, is_tiled=True))
    assert not any(mutation(random.Random(seed), sound).reasons & never for seed in range(20))


def test_axes_of_the_first_header_cannot_pass_in_silence() -> None:
    sound = Sound(coadd_bytes(1, 1))
    made = [many_axes(random.Random(seed), sound) for seed in range(60)]
    second = sound.headers[1][0]
    assert {one.must_reject for one in made} == {True, False}
    assert all(one.must_reject == (one.data[:second] != sound.data[:second]) for one in made)


def test_lost_blocks_are_told_apart_by_what_lay_there() -> None:
    sound = Sound(coadd_bytes(1, 1))
    made = [lose_block(random.Random(seed), sound) for seed in range(80)]
    reasons = {one.kind: one.reasons for one in made}
    assert set(reasons) == {"blocks of headers lost", "blocks of data lost", "blocks of data blank"}
    assert "bad_wcs" in reasons["blocks of headers lost"] - reasons["blocks of data lost"]
    assert "truncated_file" in reasons["blocks of data lost"] - reasons["blocks of data blank"]


class TestJudge:
    CASE = Case(
        1,
        Release("x", "desi", {}, ()),
        "a/x.fits",
        Mutation("truncated", b"", frozenset({"truncated_file"}), True, True),
    )
    SOUND: ClassVar[dict[str, Any]] = {"problems": [], "num_rows": 3, "rows": "abc", "rejected": []}

    def problems(self, **answer: object) -> str:
        return "; ".join(judge(self.CASE, {"peak": 0, **self.SOUND, **answer}, self.SOUND).problems)

    def rejection(self, reason: str, uri: str = "a/x.fits") -> list[dict[str, Any]]:
        return [{"uri": uri, "row": None, "reason": reason, "detail": "what"}]

    def test_the_right_reason_is_no_problem(self) -> None:
        assert self.problems(rejected=self.rejection("truncated_file")) == ""

    def test_another_reason_is_one(self) -> None:
        assert self.problems(rejected=self.rejection("bad_wcs")) == "wrong reason bad_wcs: what"

    def test_what_the_sound_release_rejects_does_not_count(self) -> None:
        sound = {**self.SOUND, "rejected": self.rejection("zwarn")}
        answer = {"peak": 0, **sound, "rejected": [*sound["rejected"], *self.rejection("truncated_file")]}
        assert judge(self.CASE, answer, sound).problems == ()

    def test_silence_is_one(self) -> None:
        assert "nothing was rejected" in self.problems()
        assert "rows changed" in self.problems(rows="xyz")

    def test_a_rejection_of_another_file_is_one(self) -> None:
        assert "names x.fits" in self.problems(rejected=self.rejection("truncated_file", "a/y.fits"))

    def test_memory_is_one(self) -> None:
        assert "MiB" in self.problems(rejected=self.rejection("truncated_file"), peak=5 << 30)


class TestChild:
    @pytest.mark.parametrize(
        ("do", "problem"), [("crash", "crash: SIGSEGV"), ("exit", "crash: exit code 3"), ("hang", "hang")]
    )
    def test_what_it_does_wrong_is_told_and_it_is_replaced(self, do: str, problem: str) -> None:
        child = Child("tests.misbehaving")
        try:
            first = child.ask({"do": "well"}, 30)
            assert first["did"] == "well"
            assert child.ask({"do": do}, 0.3 if do == "hang" else 30) == {"problems": [problem]}
            assert child.ask({"do": "well"}, 30)["pid"] != first["pid"]
        finally:
            child.close()
