"""What files and users say about a model's shape, read with suspicion."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from frozen_jax.errors import UserError
from frozen_jax.lm.layers import ACTIVATIONS

_MOST = 1e38  # of a number that becomes a float32


@dataclasses.dataclass(frozen=True)
class Settings:
    """Names and values out of a file: a `config.json`, or the metadata of a GGUF.

    Attributes:
        where: the file, for messages.
        values: what it says; anything may be missing, or of another type.
    """

    where: str
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        """Returns what the file says; `default` where it says nothing, or null."""
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None, most: int | None = None) -> int:
        """Returns a positive whole number.

        Args:
            key: its name.
            default: where the file says nothing; None is that it must.
            most: the largest that is believed.

        Raises:
            UserError: if it is none.
        """
        value = self.get(key, default)
        good = type(value) is int and value > 0 and (most is None or value <= most)
        return self._checked(key, value, f"a positive whole number{f' up to {most}' if most else ''}", good)

    def token(self, key: str, default: int | None = None) -> int:
        """Returns a token id, the first if there are several; `default` and errors as in `count`."""
        return self.tokens(key, default)[0]

    def tokens(self, key: str, default: int | None = None) -> tuple[int, ...]:
        """Returns one token id or several; `default` and errors as in `count`."""
        value = self.get(key, default)
        several = value if isinstance(value, list) else [value]
        good = len(several) > 0 and all(type(one) is int and one >= 0 for one in several)
        return tuple(self._checked(key, several if good else value, "a token id", good))

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a positive number; `default` and errors as in `count`."""
        value = self.get(key, default)
        return float(self._checked(key, value, "a positive number", type(value) in (int, float) and 0 < value < _MOST))

    def one_of(self, key: str, known: Sequence[Any], default: Any = None) -> Any:
        """Returns a value of which only a few are known; `default` and errors as in `count`."""
        value = self.get(key, default)
        if isinstance(value, (str, int, float)) and value in known:
            return value
        raise UserError(f"{self.where} says {key} {_short(value)}; {', '.join(map(str, known))} can be loaded")

    def _checked(self, key: str, value: Any, expected: str, good: bool) -> Any:
        if not good:
            raise UserError(f"{self.where} says {key} {_short(value)}, expected {expected}")
        return value


def checked_keywords(config_class: type, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `load_lm`, which may come from gin, as fields of a config.

    Args:
        config_class: `T5Config` or `LlamaConfig`.
        keywords: what the user gave; None leaves a field to the source, and undoes in gin what an outer scope says.

    Returns:
        The same, as the config wants them.

    Raises:
        UserError: for a keyword that is no field, and for values of another type.
    """
    kinds = {field.name: str(field.type) for field in dataclasses.fields(config_class) if field.name != "dtype"}
    keywords = {key: value for key, value in keywords.items() if value is not None or "None" in kinds.get(key, "")}
    for key in keywords:
        if key not in kinds:
            close = difflib.get_close_matches(key, kinds, cutoff=0.4) or kinds
            raise UserError(f"load_lm has no keyword {key!r} here; close: {', '.join(close)}")
    return {key: _checked_value(key, kinds[key], value) for key, value in keywords.items()}


def _checked_value(key: str, kind: str, value: Any) -> Any:
    if key == "mlp_activations":
        names = (value,) if isinstance(value, str) else tuple(value)
        unknown = [name for name in names if name not in ACTIVATIONS]
        if unknown:
            raise UserError(f"mlp_activations names {unknown[0]!r}; known are {', '.join(ACTIVATIONS)}")
        return names
    if kind in ("tuple[float, ...]", "tuple[int, ...]") and isinstance(value, (list, tuple)):
        return tuple(_checked_value(key, kind[6:-6], number) for number in value)
    value = float(value) if kind == "float" and type(value) is int else value
    if ("None" if value is None else type(value).__name__) not in kind.split(" | "):
        raise UserError(f"load_lm got {key}={value!r}, expected {kind}")
    return value


def _short(value: Any) -> str:
    """In one line of bearable length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
