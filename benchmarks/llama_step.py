"""Times a prompt tuning step of SmolLM2-135M's shape, ours and then PEFT's; prints a JSON line for each.

    python benchmarks/llama_step.py                              bfloat16 where there is a GPU, float32 on CPU
    python benchmarks/llama_step.py --batch=16 --inputs=512 --targets=24

PEFT needs `pip install torch transformers peft`; --side=frozen_jax goes without. Weights and tokens are random, rows
are full: speed does not depend on what they are. Each side runs in a process of its own, so that neither holds the
other's memory; the first steps, in which ours compiles, are not counted.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS = 49152, 576, 9, 3, 64, 1536, 30
SIDES = ("frozen_jax", "peft")


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 16, "inputs": 512, "targets": 24, "prompt": 20, "steps": 20, "warmup": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--side", choices=SIDES)
    args = parser.parse_args()
    if args.side is None:
        for side in SIDES:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--side={side}"], check=True)
        return
    rng = np.random.default_rng(0)
    inputs, targets = (rng.integers(3, VOCAB, (args.batch, length)) for length in (args.inputs, args.targets))
    seconds, facts = {"frozen_jax": ours, "peft": peer}[args.side](args, inputs, targets)
    median = statistics.median(seconds[args.warmup :])
    figures = {
        "what": args.side,
        "examples_per_s": round(args.batch / median, 2),
        "seconds_per_step": round(median, 5),
        "tokens_per_s": round(args.batch * (args.prompt + args.inputs + args.targets) / median),
        "first_step_seconds": round(seconds[0], 1),
        **{name: getattr(args, name) for name in ("batch", "inputs", "targets", "prompt")},
        **facts,
    }
    print(json.dumps(figures), flush=True)


def ours(args: argparse.Namespace, inputs: np.ndarray, targets: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """Times the project's own training step.

    Args:
        args: the flags.
        inputs: [B, S] token ids.
        targets: [B, T] token ids.

    Returns:
        Seconds of each step, and what they were measured on.
    """
    import jax
    import optax
    from flax import nnx

    from frozen_jax import partitioning, training
    from frozen_jax.lm.llama import Llama, LlamaConfig
    from frozen_jax.methods.prompt_tuning import PromptTuning
    from frozen_jax.types import Batch

    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config = LlamaConfig(VOCAB, WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS, logits_via_embedding=True, dtype=dtype)
    lm = Llama(config, rngs=nnx.Rngs(0), name="random", fingerprint="random")
    nnx.update(lm, jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(lm)))
    method, optimizer, mesh = PromptTuning(lm, length=args.prompt), optax.adamw(0.3), partitioning.make_mesh()
    state, split = training.start(method, optimizer, mesh)
    step = training.make_train_step(split, state, optimizer)
    masks = [np.ones(part.shape, bool) for part in (inputs, targets)]
    tokens = [part.astype(np.int32) for part in (inputs, targets)]
    batch = Batch(tokens[0], masks[0], tokens[1], masks[1].astype(np.float32))

    def one() -> None:
        nonlocal state
        state, metrics = step(state, split.frozen, partitioning.put_batch(batch, mesh))
        jax.block_until_ready(metrics)

    device, seconds = jax.devices()[0], timed(args, one)
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    memory = {} if peak is None else {"peak_gib": round(peak / 2**30, 2)}
    return seconds, {"dtype": dtype, "device": device.device_kind, "jax": jax.__version__, **memory}


def peer(args: argparse.Namespace, inputs: np.ndarray, targets: np.ndarray) -> tuple[list[float], dict[str, Any]]:
    """Times PEFT's prompt tuning of transformers' Llama, with its fused attention.

    Args:
        args: the flags.
        inputs: [B, S] token ids.
        targets: [B, T] token ids.

    Returns:
        Seconds of each step, and what they were measured on.
    """
    import peft
    import torch
    import transformers

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    shape = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    lm = transformers.LlamaForCausalLM(shape).to(device, dtype)
    model = peft.get_peft_model(lm, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=args.prompt))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.3)
    tokens = torch.tensor(np.concatenate([inputs, targets], axis=1), device=device)
    labels = tokens.clone()
    labels[:, : args.inputs] = -100

    def one() -> None:
        loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    seconds = timed(args, one)
    name = torch.cuda.get_device_name() if gpu else "cpu"
    memory = {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if gpu else {}
    return seconds, {
        "dtype": str(dtype),
        "device": name,
        "torch": torch.__version__,
        "peft": peft.__version__,
        **memory,
    }


def timed(args: argparse.Namespace, one: Callable[[], None]) -> list[float]:
    """Times steps.

    Args:
        args: the flags.
        one: does a step, and waits for its end.

    Returns:
        Seconds of each, those of the warm-up first.
    """
    seconds = []
    for _ in range(args.warmup + args.steps):
        began = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
