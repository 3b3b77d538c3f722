"""Plain language modelling over Wikipedia for decoder-only LMs: nearly every word of a long piece is learnt from.

A record of the source, see `tasks/wikipedia.py`:

    url   "/wiki/River_Thames"
    text  "The Thames is a river in the south of England.[1][2] It rises in Gloucestershire and flows through ..."

and one of the examples made of it, here of 6 words of targets in place of 120:

    inputs   "The Thames is a river in the south"
    targets  " of England. It rises in Gloucestershire"

As there, an article is cut into consecutive pieces, without its references, and its end is lost where it does not fill
one. A piece has 128 words. A loss is of targets alone, so that the inputs are the first 8 words only: the fewest that
make a beginning (our choice). Neither side has an end-of-sequence token, since the text goes on, and the space between
the two sides stands in front of the targets, since it is part of a word's token in most decoder-only LMs: inputs and
targets together are the tokens of the text itself. A template around the inputs would part them, and
gin/tasks/wikipedia_causal.gin asks for none. An encoder-decoder LM is better served by `wikipedia_lm`.

With SmolLM2's vocabulary 8 words are mostly 10 tokens, more than 18 one time in twenty, and 120 words 159, more than
205 one time in twenty. At 32 and 192 tokens, as in the gin file, 1.3% of the tokens are cut, at 32 and 256 0.2%.

There are no metrics. What counts is the log-likelihood of the targets, `nats_per_token`, as for `wikipedia_lm`.

Source and splits are those of `wikipedia_lm`, by article, with what is said there of quotations: what was trained on
the one task has met no held-out article of the other. There are 102,034 train, 2,236 validation and 1,651 test pieces.
"""

from __future__ import annotations

import seqio

from tasks.common import OUTPUT_FEATURES, PREPROCESSORS, Example
from tasks.wikipedia import GOES_ON, source

INPUTS, TARGETS = 8, 120  # words
SIZES = {"train": 102034, "validation": 2236, "test": 1651}  # pieces


def example(words: list[str]) -> Example:
    """The example made of consecutive words.

    Args:
        words: of a piece.

    Returns:
        The example; its two texts, one behind the other, are the piece.
    """
    return {"inputs": " ".join(words[:INPUTS]), "targets": " ".join(["", *words[INPUTS:]])}


TASK = seqio.TaskRegistry.add(
    "wikipedia_causal_lm",
    source=source(INPUTS + TARGETS, example, SIZES),
    preprocessors=PREPROCESSORS,
    output_features=OUTPUT_FEATURES | {"inputs": GOES_ON, "targets": GOES_ON},
)
