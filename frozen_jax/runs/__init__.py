"""What `run.py` can do: one file a run mode, each one function whose arguments gin binds."""

from frozen_jax.retrieval.splitting import split_documents
from frozen_jax.runs.cache import cache
from frozen_jax.runs.compare_answers import compare_answers
from frozen_jax.runs.curves import curves
from frozen_jax.runs.dry_run import dry_run
from frozen_jax.runs.evaluate import evaluate_module
from frozen_jax.runs.infer import infer
from frozen_jax.runs.inspect_prompts import inspect_prompts
from frozen_jax.runs.inspect_task import inspect_task
from frozen_jax.runs.plan import plan
from frozen_jax.runs.prepare import prepare
from frozen_jax.runs.train import train

MODES = {
    "train": train,
    "cache": cache,
    "inspect": inspect_task,
    "inspect_prompts": inspect_prompts,
    "plan": plan,
    "prepare": prepare,
    "eval": evaluate_module,
    "compare_answers": compare_answers,
    "curves": curves,
    "infer": infer,
    "split_documents": split_documents,
    "dry_run": dry_run,
}
SEVERAL_PROCESSES = ("train", "eval", "infer", "prepare", "dry_run")
"""Modes whose work is divided among the processes of a run."""
# Read before those of the command line, which may then be none.
GIN_FILES = {
    "inspect": ["gin/runs/data.gin"],
    "cache": ["gin/runs/data.gin"],
    "curves": ["gin/runs/curves.gin"],
    "plan": ["gin/runs/plan.gin"],
}
