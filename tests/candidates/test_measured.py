"""The figures of choices without training, and their answers as a run leaves them."""

import json

from frozen_jax.candidates.grouping import Candidate
from frozen_jax.candidates.measured import measure
from frozen_jax.runs.compare_answers import compare_answers

EXAMPLES = [
    {"inputs": f"q{n}", "targets": target, "answers": [target, "x"], "task": "quiz", "index": n}
    for n, target in enumerate(["ant", "b", "c", "d"])
]
FOUR = [
    [Candidate("ant", 3, -2.0), Candidate("z", 1, -1.0)],
    [Candidate("z", 3, -1.0), Candidate("b", 1, -2.0)],
    [],
    [Candidate("y", 4, -1.0)],
]
SIXTEEN = [*FOUR[:3], [Candidate("y", 9, -2.0), Candidate("d", 7, -1.0)]]


def test_figures_and_answers(tmp_path):
    told = measure(tmp_path, EXAMPLES, "test", ["z", "b", "z", "z"], {4: FOUR, 16: SIXTEEN}, {"seed": 0})
    assert told.splitlines() == [
        "candidates for 4 questions of quiz, test",
        "greedy: EM 25.0, F1 25.0",
        "4 samples, 1.2 distinct candidates",
        "  majority vote: EM 25.0, F1 25.0, +0% of the oracle's room in EM",
        "  highest log-probability: EM 0.0, F1 0.0, -100% of the oracle's room in EM",
        "  oracle, the upper bound: EM 50.0, F1 50.0",
        "16 samples, 1.5 distinct candidates",
        "  majority vote: EM 25.0, F1 25.0, +0% of the oracle's room in EM",
        "  highest log-probability: EM 25.0, F1 25.0, +0% of the oracle's room in EM",
        "  oracle, the upper bound: EM 75.0, F1 75.0",
    ]
    (file,) = tmp_path.glob("candidates-quiz-test-*.json")
    figures = json.loads(file.read_text())
    assert figures["made"] == {"seed": 0}
    assert figures["16"]["oracle"] == {"exact_match": 0.75, "f1": 0.75}
    written = (tmp_path / "oracle" / "predictions" / "quiz@16-test.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["prediction"] for line in lines] == ["ant", "b", "", "d"]
    assert lines[1] == {"index": 1, "inputs": "q1", "targets": "b", "answers": ["b", "x"], "prediction": "b"}


def test_they_stand_beside_runs_in_a_table(tmp_path):
    measure(tmp_path, EXAMPLES, "test", ["z", "b", "z", "z"], {16: SIXTEEN}, {})
    chosen = [{**EXAMPLES[n], "prediction": text} for n, text in enumerate(["ant", "b", "z", "z"])]
    for name in ("quiz@16", "quiz@16-scored"):
        (tmp_path / "p2" / "predictions").mkdir(parents=True, exist_ok=True)
        file = tmp_path / "p2" / "predictions" / f"{name}-test.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in chosen))
        chosen[1]["prediction"] = "z"
    runs = {name: str(tmp_path / name) for name in ("greedy", "vote", "oracle", "p2")}
    compare_answers(str(tmp_path), runs, "greedy", "oracle")
    text = (tmp_path / "answers.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    found = {(line[0], line[1]): (line[5][:4], line[-1]) for line in cells[2:]}
    assert found == {
        ("greedy", "question"): ("25.0", ""),
        ("vote", "16"): ("25.0", "+0%"),
        ("oracle", "16"): ("75.0", ""),
        ("p2", "16"): ("50.0", "+50%"),
        ("p2, scored", "16"): ("25.0", "+0%"),
    }
    assert "which share of the exact match from *greedy* to *oracle*" in text
