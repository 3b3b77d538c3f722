"""Times one training step of a T5 of flan-t5-small's shape and prints one JSON line.

    python benchmarks/train_step.py                          prompt tuning, beside benchmarks/README.md's peers
    python benchmarks/train_step.py --method=fine_tuning
    python benchmarks/train_step.py --imdb=512               IMDB's reviews cut at 512 tokens, grouped by length

Weights are random: speed does not depend on them. `bound` is counted by hand from the shapes, see `bound_gflop`;
`flops_over_bound` compares what was compiled with it. `of_matmul_rate` is the share of this machine's own rate of
float32 matrix products, measured in the same process at the shapes of the MLP.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from frozen_jax import partitioning, training
from frozen_jax.batching import LENGTH_WINDOW, Batches, Ragged, TaskTokens, all_buckets
from frozen_jax.flops import count_flops
from frozen_jax.lm.t5 import T5, T5Config
from frozen_jax.methods.base import Method
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.prompts import random_uniform
from frozen_jax.runs import environment
from frozen_jax.types import Batch

SHAPE = T5Config(
    vocab_size=32128,
    emb_dim=512,
    num_heads=6,
    head_dim=64,
    mlp_dim=1024,
    num_encoder_layers=8,
    num_decoder_layers=8,
)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"batch": 16, "inputs": 128, "targets": 4, "prompt": 20, "steps": 8, "warmup": 2, "microbatches": 2}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--method", choices=["prompt_tuning", "fine_tuning"], default="prompt_tuning")
    parser.add_argument("--imdb", type=int, default=0, help="train on IMDB's reviews cut at so many tokens instead")
    parser.add_argument(
        "--length_window", type=int, default=LENGTH_WINDOW, help="batches grouped by length, with --imdb"
    )
    parser.add_argument("--write_tokens", help="write the tokens of --imdb to this .npz file, for peers")
    args = parser.parse_args()
    environment.prepare()  # as run.py: compiled programs are kept, and a second run has not the compiler's memory
    print(json.dumps(real_text(args) if args.imdb else equal_shapes(args)))


def equal_shapes(args: argparse.Namespace) -> dict[str, Any]:
    """Times a step on random tokens without padding.

    Args:
        args: the flags.

    Returns:
        The figures.
    """
    state, frozen, step = trainer(args)
    batch = random_batch(args)
    compiled = step.lower(state, frozen, batch).compile()
    seconds = []
    for _ in range(args.warmup + args.steps):
        began = time.perf_counter()
        state, metrics = compiled(state, frozen, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    peak = peak_gib()  # before the matrix products that give the rate
    median, gflop = statistics.median(seconds[args.warmup :]), count_flops(compiled) / 1e9
    bound, rate = bound_gflop(args), matmul_gflops(args)
    return {
        "what": f"frozen_jax {args.method}",
        "examples_per_s": round(args.batch / median, 3),
        "examples_per_s_best": round(args.batch / min(seconds), 3),
        "seconds_per_step": round(median, 4),
        "compiled_gflop": round(gflop, 2),
        "bound_gflop": round(bound, 2),
        "flops_over_bound": round(gflop / bound, 4),
        "gflop_per_s": round(gflop / median, 1),
        "matmul_gflop_per_s": round(rate, 1),
        "of_matmul_rate": round(bound / median / rate, 3),
        "peak_rss_gib": peak,
        "temporaries_gib": round(compiled.memory_analysis().temp_size_in_bytes / 2**30, 3),
        **facts(args),
    }


def real_text(args: argparse.Namespace) -> dict[str, Any]:
    """Times steps on IMDB's reviews, every batch padded to the bucket of its longest row.

    A batch of every width is trained on before the clock starts, so that every program is compiled by then.

    Args:
        args: the flags.

    Returns:
        The figures.
    """
    args.inputs = args.imdb
    tokens, pad_id = imdb_tokens(args)
    state, frozen, step = trainer(args)
    grouped = Batches(
        [tokens],
        batch_size=args.batch,
        seed=0,
        buckets=all_buckets({"inputs": args.imdb, "targets": args.targets}),
        length_window=args.length_window,
        pad_id=pad_id,
    )
    batches = [grouped.batch(k) for k in range(len(tokens) // args.batch)]
    mesh = partitioning.make_mesh()
    seconds: list[float] = []
    for batch in [*{b.inputs.shape: b for b in batches}.values(), *batches]:
        began = time.perf_counter()
        state, metrics = step(state, frozen, partitioning.put_batch(batch, mesh))
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    timed = seconds[-len(batches) :]
    return {
        "what": f"frozen_jax {args.method}, IMDB cut at {args.imdb}",
        "examples": len(batches) * args.batch,
        "examples_per_s": round(len(batches) * args.batch / sum(timed), 3),
        "seconds": round(sum(timed), 2),
        "real_tokens": sum(int(b.inputs_mask.sum()) for b in batches),
        "padded_tokens": sum(b.inputs.size for b in batches),
        "programs": len({b.inputs.shape for b in batches}),
        "length_window": args.length_window,
        "peak_rss_gib": peak_gib(),
        **facts(args),
    }


def trainer(args: argparse.Namespace) -> tuple[training.TrainState, Any, Any]:
    """Makes state, frozen parameters and compiled step, as a run does.

    Args:
        args: the flags.

    Returns:
        All three.
    """
    method, optimizer = make_method(args), optax.adamw(0.3 if args.method == "prompt_tuning" else 1e-4)
    state, split = training.start(method, optimizer, partitioning.make_mesh())
    return state, split.frozen, training.make_train_step(split, state, optimizer, accumulation_steps=args.microbatches)


def make_method(args: argparse.Namespace) -> Method:
    """Makes a method around a T5 with random weights, one parameter at a time as `load_lm` does.

    Args:
        args: the flags.

    Returns:
        The method.
    """
    graph, state = nnx.split(nnx.eval_shape(lambda: T5(SHAPE, rngs=nnx.Rngs(0), fingerprint="random")))
    rng = np.random.default_rng(0)
    parameters = {
        path: leaf.replace(jnp.asarray(0.03 * rng.standard_normal(leaf.shape, np.float32)))
        for path, leaf in nnx.to_flat_state(state)
    }
    lm = nnx.merge(graph, nnx.from_flat_state(parameters))
    return FineTuning(lm) if args.method == "fine_tuning" else PromptTuning(lm, args.prompt, random_uniform)


def random_batch(args: argparse.Namespace) -> Batch:
    """Makes a batch of random tokens, none of them padding.

    Args:
        args: the flags.

    Returns:
        The batch, on the mesh.
    """
    rng = np.random.default_rng(0)
    inputs, targets = (rng.integers(3, 32000, (args.batch, n), np.int32) for n in (args.inputs, args.targets))
    batch = Batch(inputs, np.ones(inputs.shape, bool), targets, np.ones(targets.shape, np.float32))
    return partitioning.put_batch(batch, partitioning.make_mesh())


def imdb_tokens(args: argparse.Namespace) -> tuple[TaskTokens, int]:
    """Reads the first window of reviews, in the order of the file.

    Args:
        args: the flags.

    Returns:
        Their tokens, and the id that fills up rows.
    """
    from frozen_jax.tokenizer import load_tokenizer
    from tasks import imdb

    tokenizer = load_tokenizer("titler-t5-small")
    examples = imdb.examples()["train"][: LENGTH_WINDOW * args.batch]
    rows = {
        "inputs": [[*tokenizer.encode(str(e["inputs"]))[: args.imdb - 1], tokenizer.eos_id] for e in examples],
        "targets": [[*tokenizer.encode(str(e["targets"]))[: args.targets - 1], tokenizer.eos_id] for e in examples],
    }
    ragged = {name: Ragged.from_sequences(map(np.array, sequences)) for name, sequences in rows.items()}
    if args.write_tokens:
        arrays = {f"{name}_{part}": getattr(r, part) for name, r in ragged.items() for part in ("tokens", "offsets")}
        np.savez(args.write_tokens, **arrays)
    return TaskTokens("imdb", ragged), tokenizer.pad_id


def bound_gflop(args: argparse.Namespace) -> float:
    """The matrix products that a step cannot do without, 2 FLOPs a multiplication, counted from the shapes.

    Forward: every linear map over the prompt and the inputs (encoder, keys and values of cross-attention) or over the
    targets (the rest of the decoder, the head), and the two products of each attention. Backward: a linear map costs
    as much again for the gradient of its input, an attention product twice. Fine-tuning adds each map once more, for
    the gradient of its weight. Embedding look-ups are gathers and cost nothing.

    Args:
        args: the flags.

    Returns:
        GFLOP a step.
    """
    read = args.batch * (args.inputs + (args.prompt if args.method == "prompt_tuning" else 0))
    written, width, joined = args.batch * args.targets, SHAPE.emb_dim, SHAPE.num_heads * SHAPE.head_dim
    attention, mlp = 4 * width * joined, 3 * width * SHAPE.mlp_dim
    maps = SHAPE.num_encoder_layers * (attention + mlp) * read
    maps += SHAPE.num_decoder_layers * ((attention + attention / 2 + mlp) * written + attention / 2 * read)
    maps += width * SHAPE.vocab_size * written
    pairs = SHAPE.num_encoder_layers * read * read / args.batch
    pairs += SHAPE.num_decoder_layers * written * (written + read) / args.batch
    times = 3 if args.method == "fine_tuning" else 2
    return 2 * (times * maps + 3 * 2 * joined * pairs) / 1e9


def matmul_gflops(args: argparse.Namespace) -> float:
    """Measures float32 matrix products of the MLP's shape, the best of several.

    Args:
        args: the flags.

    Returns:
        GFLOP/s.
    """
    rows = args.batch // args.microbatches * (args.inputs + args.prompt)
    x, kernel = jnp.ones((rows, SHAPE.emb_dim)), jnp.ones((SHAPE.emb_dim, SHAPE.mlp_dim))
    product = jax.jit(jnp.matmul)

    def seconds() -> Iterator[float]:
        for _ in range(30):
            began = time.perf_counter()
            product(x, kernel).block_until_ready()
            yield time.perf_counter() - began

    return 2 * rows * SHAPE.emb_dim * SHAPE.mlp_dim / min(seconds()) / 1e9


def peak_gib() -> float:
    """The most memory that the process has had so far, GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def facts(args: argparse.Namespace) -> dict[str, Any]:
    """What was measured and on what.

    Args:
        args: the flags.

    Returns:
        Shapes, versions, device.
    """
    shapes = {name: getattr(args, name) for name in ("batch", "inputs", "targets", "prompt", "microbatches")}
    return shapes | {"dtype": SHAPE.dtype, "jax": jax.__version__, "device": jax.devices()[0].device_kind}


if __name__ == "__main__":
    main()
