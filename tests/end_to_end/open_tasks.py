"""Questions for passages, and pairs for a re-ranker, as small as can be: a MIXTURE_OR_TASK_MODULE."""

import json
import random

import seqio

from frozen_jax.data import LMVocabulary
from frozen_jax.text_metrics import squad, squad_postprocessor
from tasks.common import to_dataset

PASSAGES = 24
SIZES = {"train": 16, "validation": 6, "test": 8}
FEATURES = {name: seqio.Feature(LMVocabulary()) for name in ("inputs", "targets")}
PREPROCESSORS = [
    lambda dataset: dataset.map(
        lambda e: {**e, "inputs_pretokenized": e["inputs"], "targets_pretokenized": e["targets"]}
    ),
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos,
]


def words(number):
    """What passage `number` says: nobody else says its first two words together."""
    rng = random.Random(number)
    return " ".join([f"w{10 + number}", f"w{40 + number}", *(f"w{rng.randrange(70, 95)}" for _ in range(4))])


def write_passages(file):
    lines = [{"id": f"p{n}", "title": f"w{10 + n}", "text": words(n)} for n in range(PASSAGES)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def numbers(split):
    first = [*SIZES].index(split) * 5
    return [(first + n) % PASSAGES for n in range(SIZES[split])]


def question(number):
    return {
        "inputs": f"w{40 + number} w5",
        "targets": f"w{10 + number}",
        "answers": [f"w{10 + number}"],
        "gold": [f"p{number}"],
    }


def pair(number, good):
    passage = words(number if good else (number + 7) % PASSAGES)
    return {"inputs": f"w40 w{40 + number} {passage} w6", "targets": "yes" if good else "no", "choices": ["no", "yes"]}


def register(name, examples, **how):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: to_dataset(examples(split)), splits=list(SIZES)
    )
    seqio.TaskRegistry.add(name, source=source, preprocessors=PREPROCESSORS, output_features=FEATURES, **how)


register(
    "open_questions",
    lambda split: [question(n) for n in numbers(split)],
    postprocess_fn=squad_postprocessor,
    metric_fns=[squad],
)
register("pairs", lambda split: [pair(n, good) for n in numbers(split) for good in (True, False)])
