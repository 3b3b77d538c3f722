"""What `run.py` can do: one file a run mode, each one function whose arguments gin binds."""

from frozen_jax.runs.dry_run import dry_run
from frozen_jax.runs.evaluate import evaluate_module
from frozen_jax.runs.infer import infer
from frozen_jax.runs.inspect_task import inspect_task
from frozen_jax.runs.train import train

MODES = {"train": train, "eval": evaluate_module, "infer": infer, "inspect": inspect_task, "dry_run": dry_run}
GIN_FILES = {"inspect": ["gin/runs/inspect.gin"]}  # read before those of the command line, which may then be none
