"""What decoding keeps of each family: what was read, once an input, and what was written since, once a row.

What all rows write goes to one slot after the other, which begin again behind the last one: at step n every row writes
slot n mod T, wherever in its own text it is. So rows that began at different steps share one write, and the age of a
slot; a row's own slots are the `lengths` latest ones. Consecutive rows belong to one input.

What the layers keep is one array with a leading axis L where they are stacked, and a tuple of L arrays where they stand
apart (`layers.take_apart`). Code that names axes from the last one serves both. Keys stand as columns, as scores read
them: on CPU attention of 32 rows then takes half the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from frozen_jax.lm.layers import len_layers, stand_apart
from frozen_jax.types import Array

Layers = Float[Array, "L rows G _X _Y"] | tuple[Float[Array, "rows G _X _Y"], ...]


def room(layers: Any, rows: int, heads: int, length: int, width: int, dtype: np.dtype[Any]) -> tuple[Layers, Layers]:
    """Returns room for the keys [rows, G, K, length] and the values [rows, G, length, K] of layers."""

    def zeros(*shape: int) -> Layers:
        if stand_apart(layers):
            return tuple(jnp.zeros(shape, dtype) for _ in range(len_layers(layers)))
        return jnp.zeros((len_layers(layers), *shape), dtype)

    return zeros(rows, heads, width, length), zeros(rows, heads, length, width)


def _put(kept: Any, layer: Any, part: Float[Array, "rows G _X _Y"], at: tuple[Any, Any]) -> Any:
    """Writes a part of what one layer keeps, at a place of its last two axes."""
    if isinstance(kept, tuple):
        new = jax.lax.dynamic_update_slice(kept[layer], part, (0, 0, *at))
        return (*kept[:layer], new, *kept[layer + 1 :])
    return jax.lax.dynamic_update_slice(kept, part[None], (layer, 0, 0, *at))


class Written(NamedTuple):
    """What all rows have written.

    Attributes:
        keys: [R, G, K, T] of every layer.
        values: [R, G, T, K] of every layer.
        lengths: [R] tokens of each row.
        step: how many steps all rows have taken together.
    """

    keys: Layers
    values: Layers
    lengths: Int[Array, " R"]
    step: Int[Array, ""]

    @classmethod
    def nothing(cls, keys: Layers, values: Layers) -> Written:
        """Returns what has room for T tokens a row, and holds none."""
        return cls(keys, values, jnp.zeros(values[0].shape[0], jnp.int32), jnp.int32(0))

    @property
    def age(self) -> Int[Array, " T"]:
        """How many steps ago each slot was written; 0 is this step's."""
        slots = self.values[0].shape[2]
        return (self.step - jnp.arange(slots)) % slots

    @property
    def own(self) -> Bool[Array, "R T"]:
        """Which slots hold a row's own text, this step's included."""
        return self.age[None] <= self.lengths[:, None]

    def put(self, layer: Any, keys: Float[Array, "R G K 1"], values: Float[Array, "R G 1 K"]) -> Written:
        """Writes this step's keys and values of one layer."""
        slot = self.step % self.values[0].shape[2]
        keys, values = _put(self.keys, layer, keys, (0, slot)), _put(self.values, layer, values, (slot, 0))
        return self._replace(keys=keys, values=values)

    def stepped(self) -> Written:
        """Returns what is kept once all layers have written this step."""
        return self._replace(lengths=self.lengths + 1, step=self.step + 1)

    def select_rows(self, rows: Int[Array, " R"]) -> Written:
        """Returns it with row rows[i] as row i."""
        keys, values = jax.tree.map(lambda kept: kept[..., rows, :, :, :], (self.keys, self.values))
        return self._replace(keys=keys, values=values, lengths=self.lengths[rows])

    def insert(self, new: Written, rows: Int[Array, " M"]) -> Written:
        """Puts rows that began at another step in the place of some; rows beyond the last go nowhere."""
        latest = self.step - new.step

        def put(old: Any, new: Any, axis: int) -> Any:
            return jax.tree.map(
                lambda old, new: old.at[..., rows, :, :, :].set(jnp.roll(new, latest, axis), mode="drop"), old, new
            )

        keys, values = put(self.keys, new.keys, -1), put(self.values, new.values, -2)
        lengths: Any = self.lengths
        return self._replace(keys=keys, values=values, lengths=lengths.at[rows].set(new.lengths, mode="drop"))


class Read(NamedTuple):
    """What was read of every input: of T5 what its decoder attends to across, of a decoder-only LM its beginning.

    Attributes:
        keys: [B, G, K, S] of every layer.
        values: [B, G, S, K] of every layer.
        mask: [B, S].
    """

    keys: Layers
    values: Layers
    mask: Bool[Array, "B S"]

    @property
    def length(self) -> int:
        """S."""
        return self.mask.shape[1]

    def put(self, layer: Any, keys: Float[Array, "B G K S"], values: Float[Array, "B G S K"]) -> Read:
        """Writes all keys and values of one layer."""
        keys, values = _put(self.keys, layer, keys, (0, 0)), _put(self.values, layer, values, (0, 0))
        return self._replace(keys=keys, values=values)

    def insert(self, new: Read, places: Int[Array, " N"]) -> Read:
        """Puts other inputs, no longer than these, in some places; places beyond the last go nowhere."""
        length = new.length
        mask: Any = self.mask

        def put_keys(old: Any, new: Any) -> Any:
            return old.at[..., places, :, :, :length].set(new, mode="drop")

        def put_values(old: Any, new: Any) -> Any:
            return old.at[..., places, :, :length, :].set(new, mode="drop")

        longer = jnp.pad(new.mask, ((0, 0), (0, mask.shape[1] - length)))
        keys = jax.tree.map(put_keys, self.keys, new.keys)
        values = jax.tree.map(put_values, self.values, new.values)
        return Read(keys, values, mask.at[places].set(longer, mode="drop"))


class Cache(NamedTuple):
    """What the LM keeps while texts are written.

    Attributes:
        read: of the inputs; the rows of one input share it.
        written: by the rows.
        prompt: a prompt that stands before all inputs and was read once; None where each input has its own.
    """

    read: Read
    written: Written
    prompt: Read | None = None

    def select_rows(self, rows: Int[Array, " R"]) -> Cache:
        """Returns the cache whose row i is row rows[i] of this one; rows stay with their input."""
        return self._replace(written=self.written.select_rows(rows))

    def insert(self, new: Cache, places: Int[Array, " N"], rows: Int[Array, " M"]) -> Cache:
        """Returns the cache with other inputs in some places, and their rows in some rows."""
        return self._replace(read=self.read.insert(new.read, places), written=self.written.insert(new.written, rows))
