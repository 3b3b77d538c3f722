"""P3: every data set here under many templates, each a task, `p3.<data set>.<template>` such as p3.glue_sst2.review.

A record of SST-2, in our words, {"sentence": "a warm little film . ", "label": 1}, becomes under the template `said`

    inputs     'Someone just said to me "a warm little film . ". Do you think they are sad or happy?'
    targets    "happy"
    choices    ["sad", "happy"]

and under four others four other examples. The templates are those of promptsource (Bach et al. 2022), which pip
fetches (`p3_templates`); records and splits are those of the other task files (`p3_records`); `p3_examples` says what
is cut and what is left out. `p3_names` lists the templates of each kind.

Mixtures, at T0's rates (Sanh et al. 2022, section 5): each template counts as many examples as its data set trains on,
at most 500,000 divided by the number of templates (`p3.most_examples` in gin; T0 divides only where the data set is
larger than that, which makes no difference at 500,000 for any data set here). As many records are rendered for a
template, a fixed sample of its own, so that a small number lets a run start quickly; for validation and test 100
(`p3.most_evaluated`; None gives all, as T0 has it).

    p3_train                 all templates of the data sets below
    p3_8, p3_4               of eight of them, and of four of these eight
    p3_held_out              of data sets never trained on, as T0 holds them out: natural language inference, sentence
                             completion, coreference
    p3_train_ranked          of those the ones that T0 is evaluated on, with answer choices and their data set's own
    p3_held_out_ranked         question: for rank classification
    p3_<data set>            of one data set

HotpotQA with its ten paragraphs is in none of the first: T0 leaves it out too, as it needs more than 1,024 tokens, and
trains on its questions alone (kilt_tasks_hotpotqa), as is done here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import seqio

from frozen_jax.p3 import limits
from frozen_jax.text_metrics import accuracy
from tasks import p3_examples
from tasks.common import OUTPUT_FEATURES, PREPROCESSORS
from tasks.p3_names import DATA_SETS, plain

# The four ask for a feeling about a text, a choice among listed answers, reading, and writing or ranking an ending. All
# are large. Four more of other kinds make eight.
FOUR = ["imdb", "piqa", "social_i_qa", "squad_v2"]
EIGHT = [*FOUR, "commonsense_qa", "kilt_tasks/hotpotqa", "openbookqa/main", "super_glue/boolq"]
HELD_OUT = ["hellaswag", "super_glue/cb", "super_glue/copa", "super_glue/rte", "winogrande/winogrande_xl"]
TRAIN = [name for name in DATA_SETS if name not in {*HELD_OUT, "hotpot_qa/distractor"}]


def rate(task: seqio.Task) -> float:
    """The mixing rate of a template.

    Args:
        task: of a template.

    Returns:
        T0's rate; of P3's tasks this is the number of examples that are rendered, but for those that are left out.
    """
    found = _OF_TASK[task.name]
    return min(found.sizes["train"], max(1, limits().most_examples // len(found.templates)))


def names(datasets: Iterable[str], *, ranked: bool = False) -> list[str]:
    """The tasks of data sets.

    Args:
        datasets: of `DATA_SETS`.
        ranked: only those that T0 would be evaluated on.

    Returns:
        Their names.
    """
    return [
        _name(dataset, template)
        for dataset in datasets
        for template in (DATA_SETS[dataset].ranked if ranked else DATA_SETS[dataset].templates)
    ]


def _name(dataset: str, template: str) -> str:
    return f"p3.{plain(dataset)}.{plain(template)}"


_OF_TASK = {_name(dataset, template): found for dataset, found in DATA_SETS.items() for template in found.templates}

for _dataset, _found in DATA_SETS.items():
    for _template in _found.templates:
        _task, _choosing = _name(_dataset, _template), _template not in _found.writing
        seqio.TaskRegistry.add(
            _task,
            source=p3_examples.source(_task, _dataset, _found.sizes, len(_found.templates)),
            preprocessors=[
                functools.partial(p3_examples.render, folder=_dataset, name=_template, choosing=_choosing),
                *PREPROCESSORS[1:],  # without a place for a cache, see `p3_examples.source`
            ],
            output_features=OUTPUT_FEATURES,
            metric_fns=[accuracy] if _choosing else [],
        )
    seqio.MixtureRegistry.add(f"p3_{plain(_dataset)}", names([_dataset]), default_rate=rate)

for _mixture, _datasets in {"p3_train": TRAIN, "p3_8": EIGHT, "p3_4": FOUR, "p3_held_out": HELD_OUT}.items():
    seqio.MixtureRegistry.add(_mixture, names(_datasets), default_rate=rate)
for _mixture, _datasets in {"p3_train_ranked": TRAIN, "p3_held_out_ranked": HELD_OUT}.items():
    seqio.MixtureRegistry.add(_mixture, names(_datasets, ranked=True), default_rate=rate)
