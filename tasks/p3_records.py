"""Our records in the fields of Hugging Face's data sets, which the templates of P3 are written for.

Splits are those of the task files: no example of a test split here is a training example there, nor the other way
round. TriviaQA and Natural Questions are split here: by the same keys as in their task files, which hold out more.

Where our source lacks a field it is made again: HellaSwag's contexts are parted as they were (all but ten, at the most,
of the 10,042 of its test split), ARC's, OpenBookQA's and CommonsenseQA's answers are lettered in their order (ARC has a
few with numbers). IMDB has no `<br />`, HellaSwag no
`[title]`: our sources had taken them out.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tasks import (
    arc,
    arrow,
    boolq,
    cb,
    commonsenseqa,
    copa,
    hellaswag,
    hotpotqa,
    imdb,
    mrpc,
    olmo,
    openbookqa,
    piqa,
    rte,
    sciq,
    socialiqa,
    squad,
    sst2,
    winogrande,
)
from tasks.splits import LARGE, carve

Record = Mapping[str, Any]
Splits = Mapping[str, list[dict[str, Any]]]


class Source(NamedTuple):
    """Where the records of a data set come from.

    Attributes:
        records: gives them by split, in our fields; read once.
        fields: makes one of ours one of Hugging Face's.
    """

    records: Callable[[], Splits]
    fields: Callable[[Record], dict[str, Any]]


def _same(*names: str) -> Callable[[Record], dict[str, Any]]:
    """The fields that have the same names there."""
    return lambda record: {name: record[name] for name in names}


@functools.cache
def _questions(folder: str) -> Splits:
    """A validation set of open questions, carved up by the question."""
    found = arrow.read(f"{folder}/validation")
    return carve(found, [[record["question"]] for record in found], LARGE)


def _arc(name: str) -> Splits:
    return {split: [record for record in members if record["set"] == name] for split, members in arc.records().items()}


def _boolq(record: Record) -> dict[str, Any]:
    passage, question = boolq.parts(record)
    return {"passage": passage, "question": question, "label": int(record["choices"][record["gold"]] == "yes")}


def _hellaswag(record: Record) -> dict[str, Any]:
    activity, _, context = record["query"].partition(": ")
    *sentences, begun = re.split(r"(?<=[.?!])\s+", context)
    if context.startswith("How to") or not sentences:  # articles, which are not parted
        sentences, begun = [context], ""
    first, second = " ".join(sentences), begun[:1].lower() + begun[1:]
    return {
        "activity_label": activity,
        "ctx_a": first,
        "ctx_b": second,
        "ctx": f"{first} {second}".strip(),
        "endings": record["choices"],
        "label": str(record["gold"]),
    }


def _hotpotqa(record: Record) -> dict[str, Any]:
    (titles, sentences), (facts, places) = (zip(*record[name], strict=True) for name in ("context", "supporting_facts"))
    return {
        **{name: record[name] for name in ("question", "answer", "type", "level")},
        "context": {"title": list(titles), "sentences": list(sentences)},
        "supporting_facts": {"title": list(facts), "sent_id": list(places)},
    }


def _imdb(record: Record) -> dict[str, Any]:
    return {"text": record["review"], "label": imdb.CHOICES.index(record["sentiment"])}


def _kilt_hotpotqa(record: Record) -> dict[str, Any]:
    return {"input": record["question"], "output": [{"answer": record["answer"]}]}


def _lettered(question: str, record: Record) -> dict[str, Any]:
    """A question whose answers have letters."""
    letters = list(string.ascii_uppercase[: len(record["choices"])])
    choices = {"label": letters, "text": record["choices"]}
    return {question: olmo.question(record), "choices": choices, "answerKey": letters[record["gold"]]}


def _rte(record: Record) -> dict[str, Any]:
    return {"premise": record["sentence1"], "hypothesis": record["sentence2"], "label": record["label"]}


def _squad(record: Record) -> dict[str, Any]:
    answers = {name: [answer[name] for answer in record["answers"]] for name in ("text", "answer_start")}
    return {**{name: record[name] for name in ("title", "context", "question")}, "answers": answers}


# By the folders of promptsource, which are named after Hugging Face's data sets.
SOURCES: dict[str, Source] = {
    "ai2_arc/ARC-Challenge": Source(functools.partial(_arc, "arc_challenge"), functools.partial(_lettered, "question")),
    "ai2_arc/ARC-Easy": Source(functools.partial(_arc, "arc_easy"), functools.partial(_lettered, "question")),
    "commonsense_qa": Source(commonsenseqa.records, functools.partial(_lettered, "question")),
    "glue/mrpc": Source(mrpc.records, _same("sentence1", "sentence2", "label")),
    "glue/sst2": Source(sst2.records, _same("sentence", "label")),
    "hellaswag": Source(hellaswag.records, _hellaswag),
    "hotpot_qa/distractor": Source(hotpotqa.records, _hotpotqa),
    "imdb": Source(imdb.records, _imdb),
    "kilt_tasks/hotpotqa": Source(hotpotqa.records, _kilt_hotpotqa),
    "nq_open": Source(functools.partial(_questions, "nq_open/none"), _same("question", "answer")),
    "openbookqa/main": Source(openbookqa.records, functools.partial(_lettered, "question_stem")),
    "piqa": Source(piqa.records, _same("goal", "sol1", "sol2", "label")),
    "sciq": Source(sciq.records, _same("question", "support", *sciq.ANSWERS)),
    "social_i_qa": Source(socialiqa.records, _same("context", "question", "answerA", "answerB", "answerC", "label")),
    "squad_v2": Source(squad.records, _squad),
    "super_glue/boolq": Source(boolq.records, _boolq),
    "super_glue/cb": Source(cb.records, _same("premise", "hypothesis", "label")),
    "super_glue/copa": Source(copa.records, _same("premise", "choice1", "choice2", "question", "label")),
    "super_glue/rte": Source(rte.records, _rte),
    "trivia_qa/unfiltered": Source(
        functools.partial(_questions, "trivia_qa/rc.wikipedia.nocontext"), _same("question", "answer")
    ),
    "winogrande/winogrande_xl": Source(winogrande.records, _same("sentence", "option1", "option2", "answer")),
}
