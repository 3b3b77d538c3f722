"""HotpotQA for what finds and ranks passages: is a passage relevant, and which passage belongs to a question?

Two tasks make examples of the questions of `tasks/hotpotqa_open.py`, in its splits, and of a retriever's hits.

That of a re-ranker, "hotpotqa_reranking_from_validation", is in monoT5's words:

    inputs   "Query: Were Anna Dupont and Otto Weber born in the same country? Document: Anna Dupont Anna Dupont (born 3
              May 1960) is a French ... Relevant:"
    targets  "true"
    choices  ["false", "true"]

The document is the title and the paragraph. A question gives two true ones, its gold paragraphs, found or not, and four
false ones (`TrainingPairs.negatives`), drawn from the retriever's first 100 without the gold ones. So two thirds are
false: 0.67 is what always saying so earns. Inputs that are cut lose "Relevant:" as well: at 384 of T5's tokens 1.6% of
them, at 256 11%.

That of a dual encoder, "hotpotqa_dual_encoder_from_validation", has a feature more:

    inputs     "Were Anna Dupont and Otto Weber born in the same country?"
    targets    "Anna Dupont Anna Dupont (born 3 May 1960) is a French ..."
    negatives  "Anna Dupont (actress) Anna Maria Dupont is ..."

A question gives two of these, one a gold paragraph, each with a negative of its own.

The first time that a split is asked for, its questions are put to the retriever, BM25 unless gin binds
`TrainingPairs.retriever`, and the hits are kept; `frozen_jax.retrieval.training_pairs` says how examples are made of
them. Source: as `tasks/hotpotqa_open.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from frozen_jax import wheels
from frozen_jax.data import LMVocabulary
from frozen_jax.retrieval.base import Retriever
from frozen_jax.retrieval.training_pairs import TrainingPairs
from frozen_jax.text_metrics import accuracy, mean_class_recall
from tasks import hotpotqa_open
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example, to_dataset
from tasks.splits import SPLITS

NEGATIVES = {"negatives": seqio.Feature(vocabulary=LMVocabulary(), add_eos=True, required=False)}


def bm25() -> Retriever:
    """The retriever that is asked unless gin names another.

    Returns:
        BM25 over HotpotQA's paragraphs; its index is made once, in the cache folder.
    """
    # Here, not above: whoever trains another task needs no tantivy.
    from frozen_jax.retrieval.bm25 import BM25
    from frozen_jax.retrieval.passages import Passages

    corpus = Passages("hotpotqa")
    return BM25(corpus, wheels.cache_folder() / "retrieval" / f"bm25-{corpus.sha256[:12]}")


def reranking(split: str) -> Sequence[Example]:
    """Pairs for a re-ranker.

    Args:
        split: one of `SPLITS`.

    Returns:
        The examples.
    """
    return TrainingPairs().reranking(hotpotqa_open.questions(split), bm25)


def dual_encoder(split: str) -> Sequence[Example]:
    """Questions with passages for a dual encoder.

    Args:
        split: one of `SPLITS`.

    Returns:
        The examples.
    """
    return TrainingPairs().dual_encoder(hotpotqa_open.questions(split), bm25)


def source(examples: Callable[[str], Sequence[Example]]) -> seqio.DataSource:
    """A source that retrieves for the split that is asked for, and not before.

    Args:
        examples: gives those of a split; how many depends on gin.

    Returns:
        The source.
    """

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # the order of training is made behind seqio, see frozen_jax.data
        return to_dataset(examples(split))

    return seqio.FunctionDataSource(dataset, splits=SPLITS)


RERANKING = seqio.TaskRegistry.add(
    "hotpotqa_reranking_from_validation",
    source=source(reranking),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES,
    metric_fns=[accuracy, mean_class_recall],
)

DUAL_ENCODER = seqio.TaskRegistry.add(
    "hotpotqa_dual_encoder_from_validation",
    source=source(dual_encoder),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES | NEGATIVES,
)
