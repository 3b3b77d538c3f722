"""`--run_mode=inspect_prompts`: what a trained method puts in front of the inputs, in words and as a picture.

    MODEL_DIR/prompts/nearest.md       whether p(x) depends on x; of some inputs, every vector's nearest vocabulary
    MODEL_DIR/prompts/nearest.jsonl    the same of every input
    MODEL_DIR/prompts/prompts.png      p(x) of every input on two principal components, coloured by data set

For any method that puts vectors there; a static prompt is one point.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np
from etils import epath
from jaxtyping import Float

from frozen_jax import cloud_storage, drawing, prompt_inspection
from frozen_jax.answering import EvalExample
from frozen_jax.methods.base import Method
from frozen_jax.prompt_inspection import Nearest
from frozen_jax.runs import report
from frozen_jax.runs.infer import read_lines
from frozen_jax.runs.job import Job
from frozen_jax.runs.prompt_picture import draw_prompts
from frozen_jax.runs.task_data import TaskData
from frozen_jax.templates import data_set_of
from frozen_jax.tokenizer import lm_tokenizer

Chosen = list[tuple[str, EvalExample]]  # each with the name of its task

_SHOWN = 8  # inputs in nearest.md
_TEXT = 400  # characters of each


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is known of the prompts.

    Attributes:
        tasks: the name of each example's task, or of the file that it is from.
        examples: N of them.
        vectors: p(x) of each.
        nearest: the vocabulary nearest to every vector.
        norm: the mean norm of vocabulary embeddings.
        by_chance: the similarity of random directions to their nearest vocabulary embedding.
    """

    tasks: Sequence[str]
    examples: Sequence[EvalExample]
    vectors: Float[np.ndarray, "N P D"]
    nearest: Nearest
    norm: float
    by_chance: float

    def positions(self, row: int) -> list[dict[str, Any]]:
        """Norm and neighbours of each vector of one input."""
        norms = np.linalg.norm(self.vectors[row], axis=-1) / self.norm
        pieces = [lm_tokenizer().pieces(ids) for ids in self.nearest.tokens[row].tolist()]
        cosines = np.round(self.nearest.cosines[row].astype(float), 4).tolist()
        return [
            {"norm": round(float(norm), 4), "nearest": [list(pair) for pair in zip(*neighbours, strict=True)]}
            for norm, *neighbours in zip(norms, pieces, cosines, strict=True)
        ]


@gin.configurable
def inspect_prompts(
    job: Job = gin.REQUIRED,
    split: str = "validation",
    checkpoint: str | None = None,
    *,
    examples: int | None = 20,
    input_file: str | None = None,
    neighbours: int = 5,
) -> None:
    """Writes each prompt vector's nearest vocabulary and a picture of p(x), and prints how p(x) varies.

    Args:
        job: the method, its data and the run's folder.
        split: whose inputs are taken.
        checkpoint: a module checkpoint; None is the best, else the latest, of MODEL_DIR.
        examples: at most so many of each task, chosen by the data's seed; None is the whole split.
        input_file: inputs of one's own instead: JSON lines with the field "inputs", as for `infer`.
        neighbours: tokens a vector.

    Raises:
        UserError: for a method that puts nothing in front of the inputs, a missing checkpoint or one of another LM, and
            whatever the data or the file raises.
    """
    method = job.trained_method(checkpoint)
    chosen = _of_file(job.data, input_file) if input_file else _of_tasks(job.data, split, examples)
    found, name = _find(method, chosen, neighbours), type(method).__name__
    variation, folder = _variation(found.vectors, found.tasks), job.directory / "prompts"
    lines = [json.dumps(_line(found, row)) for row in range(len(chosen))]
    figure = draw_prompts(prompt_inspection.plane(found.vectors), found.tasks, f"p(x) of {name}")
    with cloud_storage.refusals_explained(folder):
        cloud_storage.write_whole(folder / "nearest.jsonl", "".join(f"{line}\n" for line in lines))
        cloud_storage.write_whole(folder / "nearest.md", _page(found, name, variation))
        cloud_storage.write_whole(folder / "prompts.png", drawing.png(figure))
    print(f"{variation}\n\nNearest vocabulary and picture: {folder}")


def _of_tasks(data: TaskData, split: str, examples: int | None) -> Chosen:
    tasks = dataclasses.replace(data, eval_examples=examples).eval_tasks(split)
    return [(task.name, example) for task in tasks for example in task.examples]


def _of_file(data: TaskData, path: str) -> Chosen:
    """Examples without targets."""
    name, texts = epath.Path(path).name, [line["inputs"] for line in read_lines(path)]
    return [(name, _example(data, i, text)) for i, text in enumerate(texts)]


def _example(data: TaskData, index: int, text: str) -> EvalExample:
    tokens = data.input_tokens(text)
    return EvalExample(index, tokens, tokens[:0], text, "", {}, {}, data.encoder_tokens(text))


def _find(method: Method, chosen: Chosen, neighbours: int) -> _Found:
    tasks, examples = zip(*chosen, strict=True)
    vectors = prompt_inspection.prompts_of(method, examples)
    vocabulary = prompt_inspection.vocabulary_of(method, lm_tokenizer().vocab_size)
    return _Found(
        tasks=tasks,
        examples=examples,
        vectors=vectors,
        nearest=prompt_inspection.nearest(vectors, vocabulary, neighbours),
        norm=float(np.linalg.norm(vocabulary, axis=-1).mean()),
        by_chance=prompt_inspection.cosine_by_chance(vocabulary),
    )


def _line(found: _Found, row: int) -> dict[str, Any]:
    one = found.examples[row]
    return {
        "task": found.tasks[row],
        "index": one.index,
        "inputs": one.inputs_text,
        "positions": found.positions(row),
    }


def _page(found: _Found, name: str, variation: str) -> str:
    """nearest.md."""
    _, length, width = found.vectors.shape
    scale = (
        f"Each of the {length} vectors has {width} numbers. Norms are multiples of {found.norm:.3g}, the mean norm of "
        "vocabulary embeddings. Behind each token stands its cosine similarity; that of a random direction and its "
        f"nearest token is {found.by_chance:.2f}."
    )
    head = [f"# What {name} puts in front of the inputs", variation, "![p(x) in two dimensions](prompts.png)"]
    return "\n\n".join([*head, "## Nearest vocabulary", scale, *_sections(found)]) + "\n"


def _variation(vectors: Float[np.ndarray, "N P D"], tasks: Sequence[str]) -> str:
    """Whether and how p(x) depends on x, as Markdown."""
    count = len(set(tasks))
    inputs = f"{len(vectors):,} inputs of {'one task' if count == 1 else f'{count:,} tasks'}"
    if len(vectors) == 1:
        return "There is one input; whether the prompt depends on it cannot be said."
    if not prompt_inspection.depends_on_input(vectors):
        return f"The prompt does not depend on the input: it is the same for all {inputs}."
    rows = [
        [part.source, f"{part.share:.1%}", f"{part.by_chance:.1%}"]
        for part in prompt_inspection.variations(vectors, tasks)
    ]
    table = report.markdown(["variance of p(x)", "share", "with groups at random"], rows)
    spread = prompt_inspection.relative_spread(vectors)
    return (
        f"The prompt depends on the input. Over {inputs}, p(x) lies {spread:.2g} times the norm of its mean away from "
        f"that mean (root mean square). Where its variance comes from:\n\n{table}"
    )


def _sections(found: _Found) -> list[str]:
    """One for each of some inputs, from different data sets where there are several."""
    if len(found.tasks) > 1 and not prompt_inspection.depends_on_input(found.vectors):
        return ["### Every input", _table(found, 0)]
    return [_section(found, row) for row in sorted(_spread_over(found.tasks)[:_SHOWN])]


def _spread_over(tasks: Sequence[str]) -> list[int]:
    """All numbers of inputs, the first of each data set first, and within a data set the first of each template."""
    rows = list(range(len(tasks)))
    for labels in (tasks, [data_set_of(task) for task in tasks]):
        seen: Counter[str] = Counter()
        ranks = {}
        for row in rows:
            ranks[row] = seen[labels[row]]
            seen[labels[row]] += 1
        rows.sort(key=ranks.__getitem__)
    return rows


def _section(found: _Found, row: int) -> str:
    shown = found.examples[row]
    text = textwrap.shorten(shown.inputs_text, _TEXT, placeholder=" ...")
    return f"### {found.tasks[row]}, example {shown.index}\n\n> {text}\n\n{_table(found, row)}"


def _table(found: _Found, row: int) -> str:
    rows = [
        [str(i), f"{position['norm']:.2f}", ", ".join(f"{_escaped(p)} {c:.2f}" for p, c in position["nearest"])]
        for i, position in enumerate(found.positions(row), 1)
    ]
    return report.markdown(["position", "norm", "nearest tokens"], rows)


def _escaped(piece: str) -> str:
    """A token that Markdown takes for what it is; white space would not be seen."""
    return "".join(f"\\{c}" if c in "\\`*_|<>[]~#&" else "␤" if c == "\n" else c for c in piece)
