"""The peer on real text: Hugging Face PEFT's prompt tuning on the tokens that train_step.py has written.

In an environment of its own, its threads pinned (unpinned, its speed swings sevenfold):

    pip install torch transformers peft numpy
    python benchmarks/train_step.py --imdb=512 --write_tokens=imdb.npz
    GOMP_CPU_AFFINITY="0 1" python benchmarks/peft_real_text.py imdb.npz

The same T5 shape, the same examples in the order of the file, 16 a batch, each batch padded to its longest row. A batch
is trained on before the clock starts. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import numpy as np
import peft
import torch
import transformers


def main() -> None:
    """Trains once over all examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens", help="the .npz file that train_step.py has written")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = prompt_tuned(args.prompt)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.3)
    batches = read_batches(args.tokens, args.batch)
    train(model, optimizer, batches[:1])
    began = time.perf_counter()
    train(model, optimizer, batches)
    seconds = time.perf_counter() - began
    figures = {
        "what": "huggingface/peft",
        "examples": len(batches) * args.batch,
        "examples_per_s": round(len(batches) * args.batch / seconds, 3),
        "seconds": round(seconds, 2),
        "real_tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
        "padded_tokens": sum(batch["input_ids"].numel() for batch in batches),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "torch": torch.__version__,
        "peft": peft.__version__,
    }
    print(json.dumps(figures))


def prompt_tuned(prompt: int) -> Any:
    """Makes a T5 of flan-t5-small's shape with a prompt in front of its encoder's inputs."""
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_decoder_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        use_cache=False,
    )
    tuning = peft.PromptTuningConfig(
        task_type=peft.TaskType.SEQ_2_SEQ_LM,
        num_virtual_tokens=prompt,
        num_transformer_submodules=1,
        prompt_tuning_init=peft.PromptTuningInit.RANDOM,
        token_dim=512,
        num_attention_heads=6,
        num_layers=8,
    )
    return peft.get_peft_model(transformers.T5ForConditionalGeneration(config).eval(), tuning)


def read_batches(path: str, size: int) -> list[dict[str, torch.Tensor]]:
    """Reads the examples, padded batch by batch to the longest row."""
    arrays = np.load(path, allow_pickle=False)
    rows = {name: np.split(arrays[f"{name}_tokens"], arrays[f"{name}_offsets"][1:-1]) for name in ("inputs", "targets")}
    batches = []
    for start in range(0, len(rows["inputs"]) - size + 1, size):
        inputs, mask = padded(rows["inputs"][start : start + size])
        targets, targets_mask = padded(rows["targets"][start : start + size])
        labels = torch.where(targets_mask, targets, -100)
        batches.append({"input_ids": inputs, "attention_mask": mask.long(), "labels": labels})
    return batches


def padded(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads rows to the longest of them; the mask is True at real tokens."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
    return tokens, torch.arange(tokens.shape[1])[None] < lengths[:, None]


def train(model: Any, optimizer: torch.optim.Optimizer, batches: list[dict[str, torch.Tensor]]) -> None:
    """One step a batch."""
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
