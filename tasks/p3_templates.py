"""Templates of promptsource, read and rendered with its own semantics, in a sandbox.

A file of templates is YAML, each template Jinja. In our own words:

    name            "was it liked"
    answer_choices  "no ||| yes"
    jinja           "{{text}} Did the writer like it? ||| {{ answer_choices[label] }}"

and what becomes of the record {"text": "We laughed.", "label": 1}:

    ["We laughed. Did the writer like it?", "yes"], answer choices ["no", "yes"]

As promptsource (Bach et al. 2022) has it: `|||` parts inputs, targets and answer choices, which are stripped; a `|||`
inside of a record's text parts nothing; what a pair of braces gives is cut at 2,048 characters; a template has `zip`,
and the filters `choice` and `most_frequent`.

Ours: `choice` draws by a hash of template and record, not at random, so that an example is the same in every run. YAML
may hold plain values and the two tags of promptsource; Jinja reaches no attribute that leads out of its values, and
changes nothing. It does not multiply, since `"a" * 10**9` fills the memory. One who means to fill it finds other ways,
such as `x ~ x` in a loop: what keeps such templates out is the sha256 of the archive, which `wheels` checks.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
import jinja2.runtime
import yaml

from frozen_jax import wheels
from frozen_jax.frames import Sandbox

WHEEL, FOLDER = "promptsource", "promptsource-0.2.3/promptsource/templates"
SEPARATOR = "|||"
LONGEST = 2048  # characters of what a pair of braces gives
_PROTECTED = "\uf8ff\uf8fe\uf8ff"  # stands for a separator in a record's text; no text uses these code points


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What promptsource says about a template.

    Attributes:
        original_task: whether it asks what the data set was made for.
        metrics: how its answers are judged, such as "Accuracy".
    """

    original_task: bool | None
    metrics: list[str] | None


@dataclasses.dataclass(frozen=True)
class Template:
    """One template.

    Attributes:
        id: unique.
        name: unique within its data set.
        jinja: inputs and targets.
        answer_choices: Jinja of the answers to choose from; None where the LM is to write.
        metadata: what is said about it.
    """

    id: str
    name: str
    jinja: str
    answer_choices: str | None
    metadata: Metadata

    @functools.cached_property
    def _body(self) -> jinja2.Template:
        # In the text, as promptsource does it: the filter binds to the last operand of an expression.
        return _ENVIRONMENT.from_string(self.jinja.replace("}}", f" | string | truncate({LONGEST}) }}}}"))

    @functools.cached_property
    def _answers(self) -> jinja2.Template | None:
        return None if self.answer_choices is None else _ENVIRONMENT.from_string(self.answer_choices)

    @functools.cached_property
    def fields(self) -> frozenset[str]:
        """The fields of a record that it uses."""
        trees = [_ENVIRONMENT.parse(jinja) for jinja in (self.jinja, self.answer_choices or "")]
        return frozenset().union(*map(jinja2.meta.find_undeclared_variables, trees)) - {"answer_choices"}

    def key(self, record: Mapping[str, Any]) -> str:
        """Returns what `choice` depends on."""
        return f"{self.id} {json.dumps(record, sort_keys=True)}"

    def choices(self, record: Mapping[str, Any], key: str) -> list[str] | None:
        """The answers to choose from.

        Args:
            record: of the data set, in the fields of Hugging Face.
            key: see `key`.

        Returns:
            The answers, or None where the LM is to write.
        """
        return None if self._answers is None else _parts(self._answers, record, key)

    def render(self, record: Mapping[str, Any], key: str) -> list[str]:
        """Fills in a record.

        Args:
            record: of the data set, in the fields of Hugging Face.
            key: see `key`; of the whole record where this one has been shortened.

        Returns:
            Inputs and targets; a single part where the template has nothing to say of the record.
        """
        return _parts(self._body, record, key, answer_choices=self.choices(record, key))


@functools.cache
def read(dataset: str) -> dict[str, Template]:
    """The templates of a data set.

    Args:
        dataset: a folder of promptsource, such as `glue/sst2`.

    Returns:
        The templates, by name.
    """
    return parse(wheels.read_member(WHEEL, f"{FOLDER}/{dataset}/templates.yaml"))


def parse(content: bytes) -> dict[str, Template]:
    """The templates in a file.

    Args:
        content: YAML.

    Returns:
        The templates, by name.

    Raises:
        yaml.constructor.ConstructorError: for a tag that promptsource does not have.
    """
    found = yaml.load(content, _Loader)["templates"].values()
    return {template.name: template for template in found}


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Changes every text of a record.

    Args:
        value: a record, or what is in one: texts, numbers, lists and dictionaries.
        change: what becomes of a text.

    Returns:
        The same with other texts; keys stay as they are.
    """
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: map_texts(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return value


def _parts(compiled: jinja2.Template, record: Mapping[str, Any], key: str, **more: Any) -> list[str]:
    if SEPARATOR in key:  # in one of the record's texts
        record = map_texts(record, lambda text: text.replace(SEPARATOR, _PROTECTED))
    parts = compiled.render(**record, **more, _key=key).split(SEPARATOR)
    return [part.replace(_PROTECTED, SEPARATOR).strip() for part in parts]


class _Loader(yaml.SafeLoader):
    """YAML's plain values and the tags of promptsource; whatever else is refused."""


def _constructor(kind: type) -> Callable[[yaml.SafeLoader, yaml.MappingNode], Any]:
    names = [field.name for field in dataclasses.fields(kind)]

    def construct(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Any:
        fields = loader.construct_mapping(node, deep=True)
        return kind(**{name: fields.get(name) for name in names})

    return construct


_Loader.add_constructor("!Template", _constructor(Template))
_Loader.add_constructor("!TemplateMetadata", _constructor(Metadata))


@jinja2.pass_context
def _choice(context: jinja2.runtime.Context, options: Sequence[Any]) -> Any:
    bits = hashlib.sha256(context["_key"].encode()).digest()
    return options[int.from_bytes(bits[:8], "big") % len(options)]


def _most_frequent(items: Sequence[Any]) -> list[Any] | None:
    counts = Counter(items)
    return [item for item in counts if counts[item] == max(counts.values())] or None


_ENVIRONMENT = Sandbox()
_ENVIRONMENT.globals["zip"] = zip
_ENVIRONMENT.filters |= {"choice": _choice, "most_frequent": _most_frequent}
