"""Freezing: path patterns → one tree of booleans over all parameters → everything that depends on it.

    rules         (("prompt", "train"), ("lm/.*", "freeze"))        first match decides
    paths         {"prompt": ..., "lm/encoder/layers/mlp/wo/kernel": ..., ...}
    mask          {"prompt": True, "lm/encoder/layers/mlp/wo/kernel": False, ...}     an optax mask
    split         model → graphdef, trained {"prompt": ...}, frozen {"lm/...": ...}

What is differentiated, what the optimizer sees and what a checkpoint holds is the `trained` dictionary and nothing
else, so a frozen weight has no gradient, no optimizer state and no place in a checkpoint.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from frozen_jax import processes
from frozen_jax.errors import UserError

Rules = Sequence[tuple[str, str]]
Parameters = dict[str, Any]  # slash-joined path → array, or its shape alone where a run is planned
Mask = dict[str, bool]  # the same keys → trained?


def parameter_paths(model: nnx.Module) -> dict[str, list[str]]:
    """Returns {the path under which NNX holds a parameter: every path that leads to it}."""
    names: dict[int, list[str]] = {}
    _collect(model, (), names, set())
    canonical = nnx.to_flat_state(nnx.state(model))
    aliases = {}
    for path, _ in canonical:
        variable = _follow(model, path)
        aliases["/".join(map(str, path))] = sorted(names[id(variable)])
    return aliases


def _children(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, nnx.List):
        return list(enumerate(node))
    if isinstance(node, nnx.Module):
        return [(name, child) for name, child in vars(node).items() if not name.startswith("_pytree")]
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, list | tuple):
        return list(enumerate(node))
    return []


def _collect(node: Any, path: tuple, names: dict[int, list[str]], on_path: set[int]) -> None:
    if isinstance(node, nnx.Variable):
        names.setdefault(id(node), []).append("/".join(map(str, path)))
    elif id(node) not in on_path:  # a module that holds itself would never end
        for name, child in _children(node):
            _collect(child, (*path, name), names, on_path | {id(node)})


def _follow(node: Any, path: tuple) -> Any:
    for name in path:
        node = dict(_children(node))[name]
    return node


def trainable_mask(model: nnx.Module, rules: Rules) -> Mask:
    """Says of every parameter whether it is trained.

    Args:
        model: a method around a frozen LM.
        rules: (regular expression, "train" or "freeze"); the first that matches the whole of any path of a parameter
            decides.

    Raises:
        UserError: if a rule decides nothing, no rule covers a parameter, a decision is neither word, or nothing is
            trained.
    """
    for pattern, decision in rules:
        if decision not in ("train", "freeze"):
            raise UserError(f"freezing rule {pattern!r}: {decision!r} is neither 'train' nor 'freeze'")
    aliases = parameter_paths(model)
    deciding = {path: _deciding_rule(paths, rules) for path, paths in aliases.items()}
    uncovered = [path for path, index in deciding.items() if index is None]
    if uncovered:
        raise UserError(f"no freezing rule covers the parameter {uncovered[0]!r}; add a pattern that matches it")
    for index, (pattern, _) in enumerate(rules):
        if index not in deciding.values():
            raise UserError(_useless(pattern, [path for paths in aliases.values() for path in paths]))
    mask = {path: rules[index][1] == "train" for path, index in deciding.items() if index is not None}
    if not any(mask.values()):
        raise UserError("the freezing rules train nothing; let one of them say 'train'")
    return mask


def _deciding_rule(paths: Sequence[str], rules: Rules) -> int | None:
    return next((i for i, (pattern, _) in enumerate(rules) if any(re.fullmatch(pattern, p) for p in paths)), None)


def _useless(pattern: str, paths: Sequence[str]) -> str:
    if any(re.fullmatch(pattern, path) for path in paths):
        return f"freezing rule {pattern!r} decides nothing: earlier rules match all that it matches"
    close = difflib.get_close_matches(pattern, paths, n=1, cutoff=0.0)
    return f"freezing rule {pattern!r} matches no parameter; the nearest is {close[0]!r}"


def split(model: nnx.Module, mask: Mask) -> tuple[Any, Parameters, Parameters]:
    """Takes a model apart: its structure, the trained and the frozen parameters."""
    graphdef, state = nnx.split(model)
    flat = {"/".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    trained = {path: array for path, array in flat.items() if mask[path]}
    return graphdef, trained, {path: array for path, array in flat.items() if not mask[path]}


def digest(parameters: Mapping[Any, Any]) -> str:
    """Returns a hash, in hexadecimal, of parameters as they are in memory: names, types, shapes and bits.

    Args:
        parameters: path → array; paths may be of any kind that `str` tells apart.
    """
    found = hashlib.sha256()
    for path in sorted(parameters, key=str):
        array = processes.whole(parameters[path])
        found.update(f"{path} {array.dtype} {array.shape}\n".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def merge(graphdef: Any, trained: Parameters, frozen: Parameters) -> Any:
    """Puts a model together again; inside a compiled function too."""
    nested: dict = {}
    for path, array in {**frozen, **trained}.items():
        *parents, name = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = array
    return nnx.merge(graphdef, nested)
