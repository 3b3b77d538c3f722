"""What every stage of the evidence brought, in a file and as lines to read: recall at k, and of what was packed.

EVIDENCE_DIR/recall-SPLIT-STAGES-1f0c63a9b2d4.json    {"made": {...}, "retrieved": {"at": {...}, "packed": {...}}, ...}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from frozen_jax import cloud_storage
from frozen_jax.retrieval.base import Corpus, Hits
from frozen_jax.retrieval.recall import Question, ranks, recall

AT = (1, 5, 20, 100)
_MEASURES = {"answer": "an answer", "any_gold": "a gold passage", "all_gold": "all gold passages"}


def measure(
    questions: Sequence[Question],
    stages: Mapping[str, Hits],
    packed: Mapping[str, Mapping[int, Hits]],
    corpus: Corpus,
) -> dict[str, Any]:
    """Measures all stages.

    Args:
        questions: B of them, with answers or gold passages.
        stages: stage → what it found.
        packed: stage → length of the input → those of its passages that were packed.
        corpus: that they are from.

    Returns:
        As JSON: the number of questions; for each stage recall `at` so many passages, and of what was `packed`.
    """
    found: dict[str, Any] = {"questions": len(questions)}
    for stage, hits in stages.items():
        placed = ranks(questions, hits, corpus)
        at = {str(count): recall(placed, count) for count in AT if count <= hits.passages.shape[1]}
        inputs = {
            str(length): recall(ranks(questions, some, corpus), some.passages.shape[1])
            for length, some in packed[stage].items()
        }
        found[stage] = {"at": at, "packed": inputs}
    return found


def lines(found: Mapping[str, Any]) -> str:
    """The figures, for people.

    Args:
        found: of `measure`.

    Returns:
        A line for each stage, measure and way to cut.
    """
    shown = []
    for stage, figures in found.items():
        if not isinstance(figures, Mapping):
            continue
        for how, what in (("at", "among the first"), ("packed", "in inputs of")):
            for measure_, name in _MEASURES.items():
                cuts = {cut: values[measure_] for cut, values in figures[how].items() if measure_ in values}
                if cuts:
                    shares = " / ".join(f"{100 * value:.1f}" for value in cuts.values())
                    shown.append(f"{stage}: {name} {what} {' / '.join(cuts)}: {shares}%")
    return f"evidence for {found['questions']} questions\n" + "\n".join(shown)


def write(directory: epath.PathLike, name: str, made: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Writes the figures beside the stages.

    Args:
        directory: of the stages.
        name: of the split and the stages.
        made: everything else that decides the figures, as JSON; the file's name has its sum.
        found: of `measure`.
    """
    digest = hashlib.sha256(json.dumps([made, found["questions"]], sort_keys=True).encode()).hexdigest()
    file = cloud_storage.open_path(directory) / f"recall-{name}-{digest[:12]}.json"
    found = {"made": made, **found}
    with cloud_storage.refusals_explained(file):
        cloud_storage.write_whole(file, json.dumps(found, indent=1) + "\n")
