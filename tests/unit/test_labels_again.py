"""Labels that go out, are added to and come back, again and again: who said what stays as it was."""

from pathlib import Path

import pytest

from catalogs import labels
from engine.storage import Storage
from jobs.__main__ import main
from tests.catalogue import CatalogueMaker
from tests.unit.test_rerank import KEY, csv_of, objects, run


@pytest.fixture
def root(tmp_path: Path) -> str:
    maker = CatalogueMaker(str(tmp_path / "catalogue"), Storage())
    maker.publish((40, 0))
    return maker.root


def exported(root: str, path: Path, changes: dict[int, object]) -> str:
    """Write a file with `labels --out`, fill in labels by TARGETID, and return its name."""
    run("labels", root, "--out", str(path), "--limit", "2")
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line[2] = str(changes.get(int(line[0].rpartition("/")[2]), line[2]))
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    return str(path)


def in_force(root: str) -> list[tuple[str, int, float, str]]:
    """Who labelled what, as what and why."""
    rows = objects(root, f"{labels.each_label_sql(KEY)} ORDER BY labelled_by, targetid")
    return [(row["labelled_by"], row["targetid"], row["human_label"], row["reason"]) for row in rows]


def test_a_mean_over_people_that_is_handed_back_is_nobodys_label(root, tmp_path):
    """Ada said 4 and Ben 1: who hands in the file that `--out` wrote does not say 2.5."""
    first, second = (row["targetid"] for row in objects(root)[:2])
    for who, label in (("Ada", 4), ("Ben", 1)):
        run("labels", root, "--labels", csv_of(tmp_path / "l.csv", objects(root)[:1], [label]), "--who", who)
    before = in_force(root)
    done = run("labels", root, "--labels", exported(root, tmp_path / "out.csv", {second: 3}), "--who", "Ada")
    assert (done["labels"], done["unchanged"]) == (1, 1)
    assert in_force(root) == sorted([*before, ("Ada", second, 3.0, "")])
    done = run("labels", root, "--labels", exported(root, tmp_path / "out.csv", {}), "--who", "Cem")
    assert (done["labels"], done["unchanged"], done["label_version"]) == (0, 2, None)
    changed = exported(root, tmp_path / "out.csv", {first: 0})
    assert run("labels", root, "--labels", changed, "--who", "Cem")["labels"] == 1
    assert in_force(root)[-1] == ("Cem", first, 0.0, "")


def test_labels_of_earlier_rounds_keep_their_reason(root, tmp_path):
    first, second = (row["targetid"] for row in objects(root)[:2])
    for label, why in (({first: 4}, "round one"), ({second: 2}, "round two")):
        file = exported(root, tmp_path / "out.csv", label)
        run("labels", root, "--labels", file, "--who", "Ada", "--why", why)
    assert in_force(root) == sorted([("Ada", first, 4.0, "round one"), ("Ada", second, 2.0, "round two")])
    done = run("labels", root, "--labels", file, "--who", "Ada", "--why", "once more")
    assert (done["unchanged"], done["label_version"]) == (2, None)
    assert len(run("labels", root)["submissions"]) == 2


def test_a_file_that_is_older_than_a_label_does_not_take_it_back(root, tmp_path):
    """Its -1 is what it was written with; one that was put there takes back."""
    one = objects(root)[:1]
    old = exported(root, tmp_path / "old.csv", {objects(root)[1]["targetid"]: 2})
    run("labels", root, "--labels", csv_of(tmp_path / "l.csv", one, [5]), "--who", "Ada")
    assert run("labels", root, "--labels", old, "--who", "Ada")["taken_back"] == 0
    assert len(in_force(root)) == 2
    back = exported(root, tmp_path / "out.csv", {one[0]["targetid"]: -1})
    done = run("labels", root, "--labels", back, "--who", "Ada")
    assert (done["labels"], done["taken_back"], done["unchanged"]) == (0, 1, 1)


def test_two_people_who_agree_have_both_said_it(root, tmp_path):
    """Labels of a file of one's own count, whatever others said; the same again does not."""
    file = csv_of(tmp_path / "l.csv", objects(root)[:1], [4])
    for who in ("Ada", "Ben", "Ada"):
        done = run("labels", root, "--labels", file, "--who", who)
    assert (done["labels"], done["unchanged"]) == (0, 1)
    assert [who for who, *_ in in_force(root)] == ["Ada", "Ben"]
    assert run("rerank", root, "--labels", file, "--who", "Ada", "-o", "rerank.num_trees=3")["labels"] == 1


def test_a_label_before_that_is_none_is_told(root, tmp_path, capsys):
    file = tmp_path / "l.csv"
    file.write_text(",human_label,label_before\nmain/dark/1,3,old\n")
    assert main(["labels", root, "--labels", str(file)]) == 2
    assert "line 2: label_before is 'old', no number" in capsys.readouterr().err
