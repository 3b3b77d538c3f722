"""gin: reading files and `--gin.NAME=value` flags the way T5X does, and saying in one line what is wrong with them."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import logging
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
        UserError: for what cannot be read, for a name that nothing knows (says what is close), for a macro that is
            missing, and for a number, text or truth value where a parameter wants another of them.
    """
    for path in search_paths:
        gin.add_config_file_search_path(path)
    pairs = [_split(binding) for binding in bindings]
    try:
        with _gin_quiet():
            gin.parse_config_files_and_bindings(
                list(files), [f"{name} = {_quoted(value)}" for name, value in pairs], finalize_config=False
            )
    except (Exception, SystemExit) as error:  # whatever a module raises that a gin file imports
        raise UserError(_explained(error)) from error
    _check_macros([name for name, _ in pairs])
    _check_types()
    gin.finalize()


@contextlib.contextmanager
def _gin_quiet() -> Iterator[None]:
    """gin logs what it raises as well."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


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
        return value if value.startswith(("[", "(", "{")) else repr(value)
    return value


def _explained(error: BaseException) -> str:
    """gin's message, on one line, with the names that are close to the one it does not know."""
    text = one_line(error) or type(error).__name__
    if unknown := re.search(r"No configurable matching (?:reference )?'@?([^'(]+)", text):
        known = [selector.split(".")[-1] for selector, _ in gin_internals._REGISTRY.items()]  # gin has no public list
        return f"gin: {text}{_close(unknown[1].split('.')[-1], known)}"
    if unknown := re.search(r"[Cc]onfigurable '([^']+)' doesn't have a parameter named '([^']+)'", text):
        return f"gin: {text}{_close(unknown[2], list(_parameters(unknown[1])))}"
    return f"gin: {text}"


def one_line(error: BaseException) -> str:
    """Returns an error's message without the line that gin adds for every configurable that it passed through."""
    return " ".join(str(error).split("\n  In call to configurable")[0].split())


@contextlib.contextmanager
def required_bindings_named() -> Iterator[None]:
    """Around calls of configurables.

    Raises:
        UserError: if one of them was called and something that it needs was not bound.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Required bindings"):
            raise
        raise UserError(f"gin: {one_line(error)}; bind it in a gin file or with --gin.NAME=value") from error


def current() -> str:
    """Returns a gin file that makes this run again, with the defaults of all that was called as comments.

    Not as bindings: gin states them for every macro that led to the call (`METHOD/PromptTuning.length`), and those win
    against whatever is bound later.
    """
    called = [f"# {line}" for line in gin.operative_config_str().splitlines() if line and not line.startswith("#")]
    return "\n".join([gin.config_str(), "# What was called, with its defaults:", *called, ""])


def bound_to(function: str) -> dict[str, Any]:
    """Returns what is bound to the parameters of a configurable function, in any scope."""
    macros = _macros()
    return {
        "/".join([scope, name] if scope else [name]): _resolved(value, macros)[1]
        for (scope, selector), config in gin_internals._CONFIG.items()
        if selector.split(".")[-1] == function
        for name, value in config.items()
    }


def _parameters(configurable: str) -> Mapping[str, inspect.Parameter]:
    found = gin_internals._REGISTRY.get_match(configurable)
    if not found:
        return {}
    takes = found.wrapped.__init__ if inspect.isclass(found.wrapped) else found.wrapped  # NNX's metaclass hides names
    return inspect.signature(takes).parameters


def _close(name: str, known: Sequence[str]) -> str:
    spelt = {other.lower(): other for other in known}  # macros are in capitals
    close = difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.5)
    return f" Close: {', '.join(spelt[other] for other in close)}" if close else ""


def _check_macros(given: Sequence[str]) -> None:
    """Every macro that is used has a value, and every macro given on the command line is used."""
    references = gin_internals.iterate_references(gin_internals._CONFIG)
    used = {name for name in map(_macro_name, references) if name}
    for name in given:
        if "." not in name and name not in used:
            raise UserError(f"gin: nothing uses the macro {name}.{_close(name, sorted(used))}")
    if missing := sorted(used - _macros().keys()):
        raise UserError(f"gin: {missing[0]} is used but not set; add --gin.{missing[0]}=VALUE or set it in a gin file")


def _macro_name(value: Any) -> str | None:
    """`%NAME` is a reference to `NAME/gin.macro`."""
    name, _, selector = getattr(value, "scoped_selector", "").rpartition("/")
    return name if selector == "gin.macro" else None


def _macros() -> dict[str, Any]:
    """The value of every macro that has one."""
    bound = gin_internals._CONFIG.items()
    return {scope: config["value"] for (scope, selector), config in bound if selector.endswith("gin.macro")}


def _resolved(value: Any, macros: Mapping[str, Any]) -> tuple[str, Any]:
    """The value behind a macro, and behind those inside it; and the name of the last one."""
    macro = ""
    while name_inside := _macro_name(value):
        macro, value = name_inside, macros[name_inside]
    return macro, value


def _check_types() -> None:
    """Numbers, texts and truth values are bound to parameters that want such; richer types are left to their users."""
    macros = _macros()
    for (_, selector), config in gin_internals._CONFIG.items():
        for name, value in config.items():
            macro, value = _resolved(value, macros)
            wanted = _plain_types(selector, name)
            if wanted and not isinstance(value, gin_internals.ConfigurableReference) and type(value) not in wanted:
                kinds = " or ".join(sorted("None" if kind is types.NoneType else kind.__name__ for kind in wanted))
                raise UserError(f"gin: {macro or f'{selector}.{name}'} is {value!r}; it must be {kinds}")


def _plain_types(selector: str, parameter: str) -> set[type]:
    """What a parameter may be, if it is annotated with plain types alone."""
    try:
        found = inspect.signature(gin_internals._REGISTRY[selector].wrapped, eval_str=True).parameters[parameter]
    except (NameError, TypeError, ValueError, KeyError):  # written in C, names for type checkers only, **keywords
        return set()
    annotation = found.annotation
    kinds = set(typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation])
    if not kinds <= {bool, int, float, str, types.NoneType}:
        return set()
    return kinds | ({int} if float in kinds else set())
