"""What stands around the inputs of a decoder-only LM: a template, or the LM's own chat template. Our choice.

    "Question: {inputs} Answer:"    before = "Question: ", after = " Answer:"
    "chat"                          one user's message, and the mark after which the assistant speaks

seqio's tasks give inputs as [x, end of text], as an encoder likes them. An LM that goes on writing where the inputs end
would take the end of text for its own, so `Tokenizer.framed` puts a frame in its place: before + x + after, in tokens.

A chat template is Jinja, from the same hands as the weights. It is rendered once, with a mark in place of the message,
in Jinja's sandbox as `transformers` does it, and within limits: no multiplication, so much text, so much time. It is
told no date: the same inputs would be other tokens tomorrow. Who means to fill the memory finds ways, as `x ~ x` in a
loop; but then, weights too are taken from people whom one trusts.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.exceptions
import jinja2.runtime
import jinja2.sandbox

from frozen_jax.errors import UserError

INPUTS, CHAT = "{inputs}", "chat"
LONGEST = 1 << 16  # characters of a chat template, and of what it makes; the longest in use have a third of it
SECONDS = 10.0
_MESSAGE = "<The message, 1>"  # of all kinds of characters: what alters messages alters it


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox without multiplication: `"a" * 10**9` fills the memory."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> NoReturn:
        """Refuses."""
        raise jinja2.exceptions.SecurityError(f"a template may not use {operator}: it could fill the memory")


def resolve(name: str, template: str, says: Mapping[str, str]) -> tuple[str, str]:
    """The text before the inputs and the text after them.

    Args:
        name: of the tokenizer, for messages.
        template: a text with {inputs}, or "chat".
        says: what the tokenizer's files say: "chat_template", and the special tokens that one may use, "bos_token", ...

    Returns:
        The two; either may be empty.

    Raises:
        UserError: for a template that is none; for "chat" if there is no chat template, or it fails, or it drops or
            alters the message.
    """
    if template != CHAT:
        parts = template.split(INPUTS)
        if len(parts) != 2:
            raise UserError(f"lm_tokenizer.template is {template!r}; it needs {INPUTS} once, or to be {CHAT!r}")
        return parts[0], parts[1]
    if "chat_template" not in says:
        raise UserError(f"{name} has no chat template; give lm_tokenizer.template a text with {INPUTS} in it")
    parts = _rendered(name, says).split(_MESSAGE)
    if len(parts) != 2:
        raise UserError(
            f"the chat template of {name} gives the user's message {len(parts) - 1} times as it is, not once; "
            f"give lm_tokenizer.template a text with {INPUTS} in it"
        )
    return parts[0], parts[1]


def _rendered(name: str, says: Mapping[str, str]) -> str:
    """Rendered by a thread, which cannot be stopped but need not be waited for."""
    outcome: list[str | Exception] = [TimeoutError(f"it was not done after {SECONDS:.0f} seconds")]

    def render() -> None:
        try:
            outcome.append(_render(says))
        except Exception as error:  # of whatever the template does
            outcome.append(error)

    thread = threading.Thread(target=render, daemon=True, name="chat template")
    thread.start()
    thread.join(SECONDS)
    if isinstance(found := outcome[-1], Exception):
        reason = " ".join(str(found).split())[:200]
        raise UserError(f"the chat template of {name} cannot be rendered: {reason}") from found
    return found


def _render(says: Mapping[str, str]) -> str:
    source, special = says["chat_template"], {key: text for key, text in says.items() if key != "chat_template"}
    if len(source) > LONGEST:
        raise ValueError(f"it has {len(source):,} characters, more than {LONGEST:,}")
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    environment.globals["raise_exception"] = _refuse
    asked = {"messages": [{"role": "user", "content": _MESSAGE}], "add_generation_prompt": True}
    text = ""
    for piece in environment.from_string(source).generate(**asked, tools=None, documents=None, **special):
        text += piece
        if len(text) > LONGEST:
            raise ValueError(f"it makes more than {LONGEST:,} characters")
    return text


def _refuse(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)
