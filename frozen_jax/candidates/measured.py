"""What can be had of the candidates without training: greedy p1, the vote, the likeliest, and the oracle's bound.

    DIRECTORY/candidates-TASK-SPLIT-1f0c63a9b2d4.json              {"made": ..., "greedy": {...}, "16": {"vote": ...}}
             /{vote,likeliest,oracle}/predictions/TASK@16-SPLIT.jsonl   as an evaluation writes them, a line an example
             /greedy/predictions/TASK-SPLIT.jsonl

so that `--run_mode=compare_answers` takes DIRECTORY/vote for the folder of a run. These files are of the last samples
that were measured: other seeds and temperatures want a directory of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from frozen_jax import cloud_storage
from frozen_jax.candidates.grouping import CHOOSERS, Candidate, judged

Groups = Mapping[int, Sequence[Sequence[Candidate]]]  # n → the candidates of each question
_NAMES = {"vote": "majority vote", "likeliest": "highest log-probability", "oracle": "oracle, the upper bound"}


def measure(
    directory: epath.PathLike,
    examples: Sequence[Mapping[str, Any]],
    split: str,
    greedy: Sequence[str],
    groups: Groups,
    made: Mapping[str, Any],
) -> str:
    """Measures, and writes figures and answers down.

    Args:
        directory: of the samples.
        examples: of one split of one task: "inputs", "targets", and "answers" where there are several; "task", "index".
        split: which.
        greedy: p1's answer to each.
        groups: n → the candidates of each.
        made: what decides the samples, as JSON.

    Returns:
        The figures, for people: in percent, and as shares of the oracle's room.
    """
    task, right = str(examples[0].get("task", "task")), [_answers(example) for example in examples]
    chosen = {("greedy", None): list(greedy)} | {
        (how, n): [choose(found, answers) for found, answers in zip(of_all, right, strict=True)]
        for n, of_all in groups.items()
        for how, choose in CHOOSERS.items()
    }
    folder = cloud_storage.open_path(directory)
    figures: dict[str, Any] = {"made": made, "questions": len(examples)}
    with cloud_storage.refusals_explained(folder):
        for (how, n), predictions in chosen.items():
            name = f"{task}-{split}.jsonl" if n is None else f"{task}@{n}-{split}.jsonl"
            lines = [json.dumps(_line(*one)) + "\n" for one in zip(examples, predictions, strict=True)]
            cloud_storage.write_whole(folder / how / "predictions" / name, "".join(lines))
            exact, f1 = np.mean([judged(*one) for one in zip(predictions, right, strict=True)], axis=0).tolist()
            (figures if n is None else figures.setdefault(str(n), {}))[how] = {"exact_match": exact, "f1": f1}
        for n, of_all in groups.items():
            figures[str(n)]["distinct"] = float(np.mean([len(found) for found in of_all]))
        asked = json.dumps([made, [example["inputs"] for example in examples]], sort_keys=True)
        sum_ = hashlib.sha256(asked.encode()).hexdigest()
        file = folder / f"candidates-{task}-{split}-{sum_[:12]}.json"
        cloud_storage.write_whole(file, json.dumps(figures, indent=1) + "\n")
    return lines_of(f"{task}, {split}", figures)


def lines_of(title: str, figures: Mapping[str, Any]) -> str:
    """The figures for people.

    Args:
        title: what they are of.
        figures: as in the file.

    Returns:
        A line for each way to choose and n.
    """
    start = figures["greedy"]
    shown = [f"candidates for {figures['questions']} questions of {title}", f"greedy: {_percent(start)}"]
    for n, found in figures.items():
        if not isinstance(found, Mapping) or "oracle" not in found:
            continue
        shown.append(f"{n} samples, {found['distinct']:.1f} distinct candidates")
        room = found["oracle"]["exact_match"] - start["exact_match"]
        for how, name in _NAMES.items():
            share = (found[how]["exact_match"] - start["exact_match"]) / room if room > 0 else np.nan
            gained = "" if how == "oracle" or np.isnan(share) else f", {100 * share:+.0f}% of the oracle's room in EM"
            shown.append(f"  {name}: {_percent(found[how])}{gained}")
    return "\n".join(shown)


def _percent(figures: Mapping[str, float]) -> str:
    return f"EM {100 * figures['exact_match']:.1f}, F1 {100 * figures['f1']:.1f}"


def _answers(example: Mapping[str, Any]) -> list[str]:
    return list(example.get("answers") or [example["targets"]])


def _line(example: Mapping[str, Any], prediction: str) -> dict[str, Any]:
    """As `evaluation.write_predictions` has it."""
    known = {name: example[name] for name in ("index", "inputs", "targets", "answers") if name in example}
    return {**known, "prediction": prediction}
