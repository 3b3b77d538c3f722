"""gin: reading files and `--gin.NAME=value` flags the way T5X does, and saying in one line what is wrong with them."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence

import gin
from gin import config as gin_internals

from frozen_jax.errors import UserError


def parse(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()) -> None:
    """Reads gin files, then bindings, which win.

    Args:
        files: gin files, each looked for as it stands and in the search paths.
        bindings: `NAME=value`; a value that is no Python literal, reference or macro is taken as a string, so that
            `MODEL_DIR=/tmp/run` needs no quotes inside quotes.
        search_paths: folders for gin files and for what they include.

    Raises:
        UserError: for what cannot be read, and for a name that nothing knows; says what is close.
    """
    for path in search_paths:
        gin.add_config_file_search_path(path)
    pairs = [_split(binding) for binding in bindings]
    try:
        gin.parse_config_files_and_bindings(list(files), [f"{name} = {_quoted(value)}" for name, value in pairs])
    except (ValueError, SyntaxError, ImportError, OSError, AttributeError, TypeError, KeyError) as error:
        raise UserError(_explained(error)) from error
    _check_macros([name for name, _ in pairs])


def _split(binding: str) -> tuple[str, str]:
    name, equals, value = binding.partition("=")
    if not equals:
        raise UserError(f"--gin.{binding}: write --gin.NAME=value")
    return name.strip(), value.strip()


def _quoted(value: str) -> str:
    if re.match(r"[@%]", value):
        return value
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        # Containers may hold references; anything else that is no literal is a string.
        return value if value[:1] in "[({" else repr(value)
    return value


def _explained(error: Exception) -> str:
    """gin's message, on one line, with the names that are close to the one it does not know."""
    text = " ".join(str(error).split()) or type(error).__name__
    if unknown := re.search(r"No configurable matching '([^']+)'", text):
        known = [selector.split(".")[-1] for selector in gin_internals._REGISTRY]  # gin has no public list
        return f"gin: {text}{_close(unknown[1].split('.')[-1], known)}"
    if unknown := re.search(r"[Cc]onfigurable '([^']+)' doesn't have a parameter named '([^']+)'", text):
        return f"gin: {text}{_close(unknown[2], _parameters(unknown[1]))}"
    return f"gin: {text}"


def _parameters(configurable: str) -> list[str]:
    found = gin_internals._REGISTRY.get_match(configurable)
    return gin_internals._get_all_positional_parameter_names(found.wrapped) if found else []


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Close: {', '.join(close)}" if close else ""


def _check_macros(given: Sequence[str]) -> None:
    """Every macro that is used has a value, and every macro given on the command line is used."""
    used = {
        reference.scoped_selector.split("/")[0]
        for reference in gin_internals.iterate_references(gin_internals._CONFIG)
        if reference.selector == "gin.macro"
    }
    defined = {scope for scope, selector in gin_internals._CONFIG if selector.endswith("gin.macro")}
    if missing := sorted(used - defined):
        raise UserError(f"gin: {missing[0]} is used but not set; add --gin.{missing[0]}=VALUE or set it in a gin file")
    for name in given:
        if "." not in name and name not in used:
            raise UserError(f"gin: nothing uses the macro {name}.{_close(name, sorted(used))}")
