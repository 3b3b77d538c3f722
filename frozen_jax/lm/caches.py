"""What decoding keeps of each family: what was read, once an input, and what was written since, once a row.

What all rows write goes to one slot after the other, which begin again behind the last one: at step n every row writes
slot n mod T, wherever in its own text it is. So rows that began at different steps share one write, and the age of a
slot; a row's own slots are the `lengths` latest ones. Consecutive rows belong to one input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from frozen_jax.types import Array


class Written(NamedTuple):
    """What all rows have written.

    Attributes:
        keys: [L, R, G, T, K].
        values: [L, R, G, T, K].
        lengths: [R] tokens of each row.
        step: how many steps all rows have taken together.
    """

    keys: Float[Array, "L R G T K"]
    values: Float[Array, "L R G T K"]
    lengths: Int[Array, " R"]
    step: Int[Array, ""]

    @classmethod
    def nothing(cls, shape: tuple[int, int, int, int, int], dtype: np.dtype[Any]) -> Written:
        """Returns room for T tokens a row; the shape is that of the keys."""
        empty = jnp.zeros(shape, dtype)
        return cls(empty, empty, jnp.zeros(shape[1], jnp.int32), jnp.int32(0))

    @property
    def slot(self) -> Int[Array, ""]:
        """Where this step writes."""
        return self.step % self.keys.shape[3]

    @property
    def age(self) -> Int[Array, " T"]:
        """How many steps ago each slot was written; 0 is this step's."""
        slots = self.keys.shape[3]
        return (self.step - jnp.arange(slots)) % slots

    @property
    def own(self) -> Bool[Array, "R T"]:
        """Which slots hold a row's own text, this step's included."""
        return self.age[None] <= self.lengths[:, None]

    def stepped(self, keys: Float[Array, "L R G T K"], values: Float[Array, "L R G T K"]) -> Written:
        """Returns what is kept once this step has been written."""
        return self._replace(keys=keys, values=values, lengths=self.lengths + 1, step=self.step + 1)

    def select_rows(self, rows: Int[Array, " R"]) -> Written:
        """Returns it with row rows[i] as row i."""
        return self._replace(keys=self.keys[:, rows], values=self.values[:, rows], lengths=self.lengths[rows])

    def insert(self, new: Written, rows: Int[Array, " M"]) -> Written:
        """Puts rows that began at another step in the place of some; rows beyond the last go nowhere."""
        latest = self.step - new.step

        def put(old: Float[Array, "L R G T K"], new: Float[Array, "L M G T K"]) -> Float[Array, "L R G T K"]:
            return old.at[:, rows].set(jnp.roll(new, latest, axis=3), mode="drop")

        lengths = self.lengths.at[rows].set(new.lengths, mode="drop")
        return self._replace(keys=put(self.keys, new.keys), values=put(self.values, new.values), lengths=lengths)


class Read(NamedTuple):
    """What was read of every input: of T5 what its decoder attends to across, of a decoder-only LM its beginning.

    Attributes:
        keys: [L, B, G, S, K].
        values: [L, B, G, S, K].
        mask: [B, S].
    """

    keys: Float[Array, "L B G S K"]
    values: Float[Array, "L B G S K"]
    mask: Bool[Array, "B S"]

    def insert(self, new: Read, places: Int[Array, " N"]) -> Read:
        """Puts other inputs, no longer than these, in some places; places beyond the last go nowhere."""
        length = new.mask.shape[1]
        mask = jnp.pad(new.mask, ((0, 0), (0, self.mask.shape[1] - length)))

        def put(old: Shaped[Array, "L B G S K"], new: Shaped[Array, "L N G S2 K"]) -> Shaped[Array, "L B G S K"]:
            return old.at[:, places, :, :length].set(new, mode="drop")

        keys, values = put(self.keys, new.keys), put(self.values, new.values)
        return Read(keys, values, self.mask.at[places].set(mask, mode="drop"))


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
