"""Answers of many runs beside each other: the figures, their intervals, and what does not belong together."""

from __future__ import annotations

import json
import pathlib
import sys

import pytest

from frozen_jax.errors import UserError
from frozen_jax.runs.compare_answers import compare_answers

ANSWERS = ["Paris", "the blue whale", "yes", "1912"]


@pytest.fixture
def _trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[compare_answers.__module__], "_trained", lambda path: "123")


def written(folder: pathlib.Path, predictions: list[str], name: str = "qa", packed: int | None = None) -> str:
    """A run's folder; the gold passages of the first `packed` questions were packed."""
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    lines = []
    for index, (answer, prediction) in enumerate(zip(ANSWERS, predictions, strict=True)):
        line = {"index": index, "targets": answer, "answers": [answer], "gold": ["a", "b"], "prediction": prediction}
        line["seconds"] = index + 1.0
        if packed is not None:
            line["passages"] = [{"id": "b"}, {"id": "a" if index < packed else "c"}]
        lines.append(json.dumps(line) + "\n")
    (folder / "predictions" / f"{name}-test.jsonl").write_text("".join(lines))
    return str(folder)


def rows_of(text: str) -> dict[tuple[str, str], list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {(line[0], line[1]): line[2:] for line in cells[2:]}


@pytest.mark.usefixtures("_trained")
def test_rows_by_length_with_paired_differences(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    closed = written(tmp_path / "closed", ["Paris", "a cat", "no", "1911"])
    for seed, last in enumerate(["1912", "1911"]):
        written(tmp_path / f"packed_{seed}", ["paris.", "blue whales", "yes", last], "qa@256", packed=2)
        written(tmp_path / f"packed_{seed}", ["paris.", "a blue whale!", "yes", last], "qa@512", packed=3)
    runs = {"closed book": closed, "packed": str(tmp_path / "packed_{0,1}")}
    compare_answers(str(tmp_path / "out"), runs)
    text = (tmp_path / "out" / "answers.md").read_text()
    assert text.strip() in capsys.readouterr().out
    found = rows_of(text)
    assert list(found) == [("closed book", "question"), ("packed", "256"), ("packed", "512")]
    assert found["closed book", "question"][:3] == ["1", "123", ""]
    assert found["closed book", "question"][3].startswith("25.0 [")
    assert found["closed book", "question"][-1] == ""
    seeds, _, gold, exact, f1, yes_no, others, seconds, difference = found["packed", "512"]
    assert seconds == "2.50"
    assert (seeds, gold, yes_no) == ("2", "75.0", "100.0 (1)")
    assert exact.startswith("87.5 [")
    assert exact.endswith("± 17.7")
    assert f1.startswith("87.5 [")
    assert others == "83.3 (3)"
    assert difference.startswith("+62.5 [")  # 0, 100, 100, 50
    assert (tmp_path / "out" / "answers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_trained")
def test_passages_are_told_where_no_tokens_are_counted(tmp_path: pathlib.Path) -> None:
    runs = {"alone": written(tmp_path / "alone", ANSWERS), "fused": written(tmp_path / "fused", ANSWERS, packed=3)}
    compare_answers(str(tmp_path), runs)
    found = rows_of((tmp_path / "answers.md").read_text())
    assert list(found) == [("alone", "question"), ("fused", "2 passages")]
    assert found["fused", "2 passages"][2] == "75.0"


def test_a_difference_is_taken_question_by_question(tmp_path: pathlib.Path) -> None:
    written(tmp_path / "one", ["Paris", "a cat", "no", "x"], "qa@64", packed=1)
    written(tmp_path / "other", ["Paris", "a cat", "no", "1912"], "qa@64", packed=1)
    compare_answers(str(tmp_path), {"one": str(tmp_path / "one"), "other": str(tmp_path / "other")}, "other")
    found = rows_of((tmp_path / "answers.md").read_text())
    assert found["one", "64"][-1] == "-25.0 [-75.0, +0.0]"
    assert found["other", "64"][-1] == ""


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"against": "nobody"}, "there is no row 'nobody'; there are one"),
        ({"metric": "accuracy"}, "choose from squad, hotpotqa"),
        ({"split": "validation"}, "holds no TASK-validation.jsonl; answer that split first"),
        ({"task": "triviaqa"}, "holds no triviaqa-test.jsonl"),
    ],
)
def test_what_is_not_there(tmp_path: pathlib.Path, other: dict, message: str) -> None:
    written(tmp_path / "one", ANSWERS)
    with pytest.raises(UserError, match=message):
        compare_answers(str(tmp_path), {"one": str(tmp_path / "one")}, **other)


def test_what_does_not_belong_together(tmp_path: pathlib.Path) -> None:
    one, other = written(tmp_path / "one", ANSWERS), tmp_path / "other"
    written(other, ANSWERS)
    written(other, ANSWERS, "nq")
    with pytest.raises(UserError, match=r"holds answers to nq, qa; name one as compare_answers\.task"):
        compare_answers(str(tmp_path), {"one": one, "other": str(other)})
    file = other / "predictions" / "qa-test.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(UserError, match="'one' and 'other' have answered different questions"):
        compare_answers(str(tmp_path), {"one": one, "other": str(other)}, task="qa")
    with pytest.raises(UserError, match="the seeds of 'both' have answered different questions"):
        compare_answers(str(tmp_path), {"both": [one, str(other)]}, task="qa")
    written(tmp_path / "one", ANSWERS, "qa@64")
    with pytest.raises(UserError, match="not all seeds of 'both' have answers with inputs of 64 tokens"):
        compare_answers(str(tmp_path), {"both": [one, str(other)]}, task="qa")
