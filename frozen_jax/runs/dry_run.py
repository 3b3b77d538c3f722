"""`--dry_run`: what would be trained and what stays frozen, where it would live, and the first batch as text."""

from __future__ import annotations

import gin
import jax
import numpy as np
import optax

from frozen_jax import freezing, partitioning, training
from frozen_jax.runs import report
from frozen_jax.runs.job import Job
from frozen_jax.tokenizer import encoder_tokenizer, lm_tokenizer

_EXAMPLES = 4


@gin.configurable
def dry_run(job: Job = gin.REQUIRED, optimizer: optax.GradientTransformation = gin.REQUIRED) -> None:
    """Prints parameters, bytes, shardings and the first examples, and trains nothing.

    Args:
        job: the method, its data and the run's folder.
        optimizer: from optax; its state is counted.
    """
    partitioning.check_batch_size(job.data.batch_size, job.mesh)
    state, split = training.start(job.method, optimizer, job.mesh, job.rules)
    print(f"mesh: {dict(job.mesh.shape)}, {job.mesh.devices.flat[0].platform}\n")
    print(report.markdown(["", "parameter", "shape", "dtype", "bytes", "sharding"], _rows(state.trained, split.frozen)))
    for title, tree in (("trained", state.trained), ("frozen", split.frozen), ("optimizer state", state.opt_state)):
        leaves = jax.tree.leaves(tree)
        print(f"{title}: {sum(a.size for a in leaves):,} numbers, {sum(a.nbytes for a in leaves):,} bytes")
    if job.method.prepares:
        print("\nthe first batch can be shown once its texts are prepared: --run_mode=prepare does that")
        return
    _show_first_batch(job)


def _rows(trained: freezing.Parameters, frozen: freezing.Parameters) -> list[list[str]]:
    return [
        [what, path, str(a.shape), str(a.dtype), f"{a.nbytes:,}", str(getattr(a.sharding, "spec", a.sharding))]
        for what, tree in (("trained", trained), ("frozen", frozen))
        for path, a in sorted(tree.items())
    ]


def _show_first_batch(job: Job) -> None:
    batch, tokenizer = job.data.train_batches().batch(0), lm_tokenizer()
    print(
        f"\nfirst batch of {job.data.mixture_or_task_name}: inputs {batch.inputs.shape}, targets {batch.targets.shape}"
    )
    for row in range(min(_EXAMPLES, len(batch.inputs))):
        real = np.asarray(batch.inputs[row])[np.asarray(batch.inputs_mask[row])]
        target = np.asarray(batch.targets[row])[np.asarray(batch.targets_weights[row]) > 0]
        print(f"  {tokenizer.spelt(real.tolist())!r}\n    -> {tokenizer.spelt(target.tolist())!r}")
        if encoder_inputs := batch.encoder_inputs:
            read = np.asarray(encoder_inputs.tokens[row])[np.asarray(encoder_inputs.mask[row])].tolist()
            print(f"    the encoder reads {encoder_tokenizer().decode(read)!r}")
