"""A run's data: a seqio task or mixture by its name, or the token files that were made of it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import gin
import numpy as np
from etils import epath

from frozen_jax import controls, text_files, token_cache
from frozen_jax.answering import EvalTask
from frozen_jax.batching import ENCODER_INPUTS, LENGTH_WINDOW, Batches, Ragged, TaskTokens, Tokens, all_buckets
from frozen_jax.errors import UserError
from frozen_jax.lm.base import LanguageModel
from frozen_jax.ordering import half, sample
from frozen_jax.prepared import Prepare, Preparing, as_tokens
from frozen_jax.retrieval import training_pairs
from frozen_jax.runs.environment import import_data
from frozen_jax.tokenizer import Tokenizer, encoder_tokenizer, lm_tokenizer

__all__ = ["TaskData", "text_files", "training_pairs"]  # which gin has to know before a run begins


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TaskData:
    """A seqio task or mixture, by name. seqio itself is imported when its examples are asked for.

    Attributes:
        mixture_or_task_name: registered by `module`.
        task_feature_lengths: the most tokens of "inputs" and "targets"; with "encoder_inputs" too, the inputs are
            tokenized once more, by `encoder_tokenizer`, for a method whose encoder has a vocabulary of its own; with
            "negatives" too, a task's examples must have them, for a retriever to learn from. What
            `lm_tokenizer.template` puts around the inputs is not counted, here and in `buckets`, and never cut.
        batch_size: rows of a global training batch.
        seed: of the order in which training meets examples.
        examples_seed: of which examples `eval_examples` and `train_examples` choose, and of preprocessors that draw
            random numbers; None is `seed`. Runs of several seeds then meet the same examples, each in its own order.
        module: Python module that registers tasks when it is imported; a collaborator's may stand anywhere.
        use_cached: read the task's seqio cache.
        buckets: feature → lengths that batches are padded to; None is `batching.default_buckets`.
        length_window: batches within which training examples are grouped by length; 1 groups nothing.
        pack: let several training examples share a row, for methods that allow it.
        token_cache: where `--run_mode=cache` has written token files; they are read instead of the task, without seqio.
        cache_dirs: where seqio_cache_tasks has left its folders, one a task; local or gs://.
        eval_examples: evaluate on so many examples of each task, chosen by `examples_seed`; None is the whole split.
        encoder_text: what a method's encoder reads in place of every example's inputs: a control, see `controls`.
        train_examples: train on so many examples of each task, chosen by `examples_seed`; None is the whole split.
        train_half: train on this half of the examples alone, 0 or 1, see `ordering.half`: for cross-fitting, where one
            module is trained on what another says of examples that it has not seen. None is all.
        prepare: of the method, where it has one; `Job` sets it.
        row_share: which part of a training batch this process makes, of how many; `Job` sets it.
    """

    mixture_or_task_name: str = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    task_feature_lengths: Mapping[str, int] = gin.REQUIRED  # pyright: ignore[reportAssignmentType]
    batch_size: int = 16
    seed: int = 0
    examples_seed: int | None = None
    module: str = "tasks"
    use_cached: bool = False
    buckets: Mapping[str, Sequence[int]] | None = None
    length_window: int = LENGTH_WINDOW
    pack: bool = False
    token_cache: str | None = None
    cache_dirs: list[str] | tuple[str, ...] = ()
    eval_examples: int | None = None
    encoder_text: str | None = None
    train_examples: int | None = None
    train_half: int | None = None
    prepare: Prepare | None = None
    row_share: tuple[int, int] = (0, 1)

    def check_encoder_tokenizer(self) -> None:
        """Raises UserError for an encoder's tokenizer that is bound and that nothing would be tokenized with."""
        bound = gin.get_bindings("encoder_tokenizer").get("source")
        if bound is not None and ENCODER_INPUTS not in self.task_feature_lengths and self.encoder_text is None:
            raise UserError(
                f"encoder_tokenizer.source is {bound!r}, but TASK_FEATURE_LENGTHS gives {ENCODER_INPUTS!r} no length"
            )

    def check_fits(self, model: LanguageModel) -> None:
        """Looks whether LM and tokenizer are of one kind, and whether the longest example fits into the context.

        Args:
            model: that is to read the data.

        Raises:
            UserError: for tokens without an embedding, another end of text, two beginnings, or too long examples.
        """
        tokenizer, lengths = lm_tokenizer(), self.task_feature_lengths
        _check_vocabulary(tokenizer, model, "TOKENIZER")
        for method in (model, getattr(model, "wrapped", None)):  # a reader's, which stands inside another method
            encoder = getattr(method, "encoder", None)
            if isinstance(encoder, LanguageModel) and ENCODER_INPUTS in lengths:
                _check_vocabulary(encoder_tokenizer(), encoder, "encoder_tokenizer.source")
        if tokenizer.eos_id not in (model.eos_id, *model.stop_ids):
            raise UserError(
                f"the tokenizer {tokenizer.name} ends texts with token {tokenizer.eos_id}, {model.name} with "
                f"{model.eos_id}; give the LM's own as TOKENIZER, or set load_lm.eos_id = {tokenizer.eos_id}"
            )
        if model.first_token is not None and model.first_token == tokenizer.frame_begins:
            raise UserError(
                f"{model.name} puts its begin-of-text token in front of what it reads, and the template begins with "
                "it too; set load_lm.bos_first = False, or leave it out of the template"
            )
        longest = lengths["inputs"] + tokenizer.frame_length + lengths["targets"] + model.prompt_length
        if model.context_length is not None and longest > model.context_length:
            raise UserError(
                f"TASK_FEATURE_LENGTHS allows inputs of {lengths['inputs']} and targets of {lengths['targets']}; with "
                f"{tokenizer.frame_length} of the template and a prompt of {model.prompt_length} that is "
                f"{longest - model.context_length} more than the context of {model.name}, {model.context_length}"
            )

    def train_batches(self) -> Batches:
        """Returns the training batches."""
        index, count = self.row_share
        tokens, lengths, tokenizer = self._train_tokens(), self.task_feature_lengths, lm_tokenizer()
        if (text := self._encoder_text()) is not None:
            tokens, lengths = controls.train_on_text(tokens, text), {**lengths, ENCODER_INPUTS: len(text)}
        return Batches(
            tokens,
            batch_size=self.batch_size,
            seed=self.seed,
            buckets=all_buckets(lengths, self.buckets, tokenizer.frame_length),
            length_window=self.length_window,
            pad_id=tokenizer.pad_id,
            process_index=index,
            process_count=count,
        )

    def eval_tasks(self, split: str) -> list[EvalTask]:
        """Returns the examples of a split to evaluate on, see `data.eval_tasks`, as the method prepares them."""
        tasks, text = self._eval_tasks(split, self.eval_examples), self._encoder_text()
        if self.prepare is not None:
            tasks = [found for task in tasks for found in self._preparing(self.prepare).eval_tasks(task)]
        return tasks if text is None else controls.evaluate_on_text(tasks, text)

    def encoder_tokens(self, text: str) -> Tokens | None:
        """Returns what a method's encoder reads for an input; None where it reads the LM's own tokens."""
        length = self.task_feature_lengths.get(ENCODER_INPUTS)
        if self.encoder_text is None and length is None:
            return None
        return _tokens(encoder_tokenizer(), text if self.encoder_text is None else self.encoder_text, length)

    def _encoder_text(self) -> Tokens | None:
        return None if self.encoder_text is None else self.encoder_tokens(self.encoder_text)

    def _train_tokens(self) -> list[TaskTokens]:
        if self.prepare is not None or self.train_half is not None:
            return self._train_tokens_of_texts()
        if self.token_cache is not None:
            tokens = token_cache.train_tokens(self.token_cache, self.made())
        else:
            tokens = self._data().train_tokens(*self._what(), pack=self.pack, **self._how())
        return [_sampled(task, self.train_examples, self.seed_of_examples) for task in tokens]

    def _train_tokens_of_texts(self) -> list[TaskTokens]:
        if self.token_cache is not None:
            settings: dict[str, Any] = {"max_examples": self.train_examples, "seed": self.seed_of_examples}
            found = token_cache.train_texts(self.token_cache, self.made(), **settings)
        else:
            tasks = self._data().find_tasks(self.mixture_or_task_name, "train")
            rates = {task.name: rate for task, rate in tasks.items()}
            found = [(task, rates[task.name]) for task in self._eval_tasks("train", self.train_examples)]
        make = as_tokens if self.prepare is None else self._preparing(self.prepare).train_tokens
        return [make(self._halved(task), rate) for task, rate in found if rate]

    def _halved(self, task: EvalTask) -> EvalTask:
        if self.train_half is None:
            return task
        return dataclasses.replace(task, examples=[e for e in task.examples if half(e.inputs_text) == self.train_half])

    def _preparing(self, prepare: Prepare) -> Preparing:
        return Preparing(
            prepare, self.task_feature_lengths["inputs"], self.prepared_tokens, self.encoder_tokens, _choice
        )

    def _eval_tasks(self, split: str, most: int | None) -> list[EvalTask]:
        if self.token_cache is None:
            return self._data().eval_tasks(*self._what(), split, max_examples=most, **self._how())
        settings: dict[str, Any] = {"max_examples": most, "seed": self.seed_of_examples}
        tasks = token_cache.eval_tasks(self.token_cache, self.made(), split, **settings)
        for task in tasks:
            if task.unmeasured:
                print(f"{task.name}: {', '.join(task.unmeasured)} can only be measured where seqio is", file=sys.stderr)
        return tasks

    def input_tokens(self, text: str) -> Tokens:
        """Returns the tokens of a text as inputs, cut like the task's and in the same frame."""
        return lm_tokenizer().framed(_tokens(lm_tokenizer(), text, self.task_feature_lengths["inputs"]))

    def prepared_tokens(self, example: Mapping[str, Any]) -> Tokens:
        """Returns the tokens of inputs that a method has prepared; of several texts one behind the other.

        Args:
            example: with "inputs", a text or several, and "text_length" where each of them is to be cut.

        Raises:
            UserError: if there are more than inputs may have: what was fitted is not cut.
        """
        texts = [example["inputs"]] if isinstance(example["inputs"], str) else example["inputs"]
        whole = [_tokens(lm_tokenizer(), text, example.get("text_length")) for text in texts]
        eos = lm_tokenizer().eos_id  # a passage that spells it would end a text, or a user's turn
        whole = [np.append(tokens[tokens != eos], np.int32(eos)) for tokens in whole]
        tokens, length = np.concatenate(whole), self.task_feature_lengths["inputs"]
        if len(tokens) > length:
            raise UserError(f"prepared inputs have {len(tokens)} tokens; TASK_FEATURE_LENGTHS allows {length}")
        return lm_tokenizer().framed(tokens)

    def asked(self, texts: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Returns the examples that inference makes of texts: with "inputs", as the method prepares them."""
        examples = [{"inputs": text} for text in texts]
        return self.prepare(examples, "infer", self.task_feature_lengths["inputs"])[""] if self.prepare else examples

    def is_cut(self, text: str) -> bool:
        """Returns whether `input_tokens` leaves something of a text out."""
        return len(lm_tokenizer().encode(text)) >= self.task_feature_lengths["inputs"]

    def write_token_cache(self, directory: epath.PathLike, train_texts: bool = False) -> None:
        """Writes every split as token files, see `token_cache.write`; also the texts of the training split."""
        data = self._data()
        evaluation = data.cacheable(*self._what(), train=train_texts, **self._how())
        train = data.train_tokens(*self._what(), pack=self.pack, **self._how())
        token_cache.write(directory, self.made(), train, evaluation)

    def made(self) -> token_cache.Made:
        """Returns what token files are made with."""
        return token_cache.made_now(self.mixture_or_task_name, self.task_feature_lengths, self.pack)

    @property
    def seed_of_examples(self) -> int:
        """`examples_seed`, or `seed` where that is None."""
        return self.seed if self.examples_seed is None else self.examples_seed

    def _what(self) -> tuple[str, Mapping[str, int]]:
        return self.mixture_or_task_name, self.task_feature_lengths

    def _how(self) -> dict[str, Any]:
        """Settings of all that reads seqio tasks."""
        return {"seed": self.seed_of_examples, "use_cached": self.use_cached}

    def _data(self) -> ModuleType:
        """`frozen_jax.data`, the task module and the caches known to it."""
        data = import_data()
        data.seqio.add_global_cache_dirs(self.cache_dirs)
        data.load_task_module(self.module)
        return data


def _check_vocabulary(tokenizer: Tokenizer, lm: LanguageModel, setting: str) -> None:
    if tokenizer.vocab_size > lm.vocab_size:
        raise UserError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocab_size} tokens, the embedding table of {lm.name} only "
            f"{lm.vocab_size} rows; give the LM's own as {setting}"
        )


def _tokens(tokenizer: Tokenizer, text: str, length: int | None) -> Tokens:
    """A text cut at `length` tokens, the end-of-sequence token included; None cuts nothing."""
    return np.array([*tokenizer.encode(text)[: length and length - 1], tokenizer.eos_id], np.int32)


def _choice(text: str) -> Tokens:
    return _tokens(lm_tokenizer(), text, None)


def _sampled(task: TaskTokens, most: int | None, seed: int) -> TaskTokens:
    """The rows that evaluation would take of as many."""
    if most is None:
        return task
    rows = sample(len(task), most, seed, task.name)
    return dataclasses.replace(
        task,
        features={name: Ragged.from_sequences(column[row] for row in rows) for name, column in task.features.items()},
    )
