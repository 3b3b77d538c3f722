"""Templates of promptsource: its semantics on templates of our own, and a sandbox that holds."""

import random

import jinja2.sandbox
import pytest
import yaml

from tasks import p3_templates
from tasks.p3_templates import Metadata, Template

FILE = b"""
dataset: reviews
templates:
  4b1c: !Template
    answer_choices: bad ||| good
    id: 4b1c
    jinja: "{{text}}\\nWas it {{'good'}} or {{'bad'}}? |||\\n{{ answer_choices[label] }}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages: [en]
      metrics: [Accuracy]
      original_task: true
    name: was it
    reference: ''
"""
RECORD = {"text": "We laughed.", "label": 1}


def template(jinja, answer_choices=None, name="t"):
    return Template(name, name, jinja, answer_choices, Metadata(None, None))


def rendered(jinja, record=RECORD, answer_choices=None):
    made = template(jinja, answer_choices)
    return made.render(record, made.key(record))


def test_a_file_becomes_templates():
    (found,) = p3_templates.parse(FILE).values()
    assert (found.id, found.name, found.answer_choices) == ("4b1c", "was it", "bad ||| good")
    assert found.metadata == Metadata(original_task=True, metrics=["Accuracy"])
    assert found.fields == {"text", "label"}
    key = found.key(RECORD)
    assert found.render(RECORD, key) == ["We laughed.\nWas it good or bad?", "good"]
    assert found.choices(RECORD, key) == ["bad", "good"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!python/name:os.system ''", "!Other {}"])
def test_other_tags_of_yaml_are_refused(tag):
    with pytest.raises(yaml.constructor.ConstructorError, match="could not determine a constructor"):
        p3_templates.parse(b"templates: {a: %s}" % tag.encode())


def test_bars_part_what_is_rendered_and_parts_are_stripped():
    assert rendered(" {{text}} ||| yes \n") == ["We laughed.", "yes"]
    assert rendered("{% if label == 0 %}{{text}} ||| no{% endif %}") == [""]
    assert rendered("a|||b|||c") == ["a", "b", "c"]


def test_bars_in_a_record_part_nothing():
    record = {"text": "one ||| two", "options": ["x|||y", "z"]}
    made = template("{{text}} ||| {{ options[0] }}", "{{ options | join('|||') }}")
    assert made.render(record, made.key(record)) == ["one ||| two", "x|||y"]
    assert made.choices(record, made.key(record)) == ["x|||y", "z"]


def test_choices_may_depend_on_the_record():
    made = template("{{ answer_choices | join(', ') }} ||| {{ answer_choices[label] }}", "{{first}} ||| {{second}} ")
    record = {"first": "up ", "second": " down", "label": 1}
    assert made.choices(record, "key") == ["up", "down"]
    assert made.render(record, "key") == ["up, down", "down"]
    assert template("{{text}} ||| x").choices(RECORD, "key") is None


def test_long_texts_are_cut_as_promptsource_cuts_them():
    long = "word " * 1000
    (inputs, targets) = rendered("{{text}} Why? ||| {{ text + '!' }}", {"text": long})
    assert inputs == long[:2044] + "... Why?"  # at a space, and with three dots within 2,048 characters
    assert targets == long + "!", "the filter binds to the last operand, there as here"
    assert rendered("{{text}}|||", {"text": "x" * 2053})[0] == "x" * 2053, "Jinja lets five more pass"


def test_a_choice_depends_on_template_and_record_alone():
    jinja = "{{ ['a', 'b', 'c', 'd'] | choice }} {{text}} ||| {{ range(0, 4) | choice }}"
    records = [{"text": str(number)} for number in range(40)]
    random.seed(1)
    found = [rendered(jinja, record) for record in records]
    random.seed(2)
    assert found == [rendered(jinja, record) for record in records]
    assert {inputs[0] for inputs, _ in found} == {"a", "b", "c", "d"}
    assert {targets for _, targets in found} == {"0", "1", "2", "3"}
    other = template(jinja, name="other")
    assert found != [other.render(record, other.key(record)) for record in records]
    key = other.key(records[0])
    assert {other.render({"text": text}, key)[1] for text in "xyz"} == {other.render(records[0], key)[1]}


def test_the_filters_and_functions_of_promptsource_are_there():
    record = {"items": ["a", "b", "a", "c", "b"], "nothing": []}
    assert rendered("{{ items | most_frequent }}|||{{ nothing | most_frequent }}", record) == ["['a', 'b']", "None"]
    assert rendered("{% for n, item in zip([1, 2], items) %}{{n}}{{item}}{% endfor %}|||", record)[0] == "1a2b"


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] | attr('__mro__') }}",
        "{{ '%s' | format(text.__class__) }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ zip.__init__ }}",
        "{{ self.__init__ }}",
    ],
)
def test_no_attribute_leads_out_of_a_value(jinja):
    assert rendered(f"{jinja}||| x", {"text": "x"}) == ["", "x"]


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ zip.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format(text) }}",
        "{{ options.append('x') }}",
        "{% for _ in range(10 ** 9) %}x{% endfor %}",
        "{{ 'a' * 1000000000 }}",
    ],
)
def test_the_sandbox_refuses(jinja):
    with pytest.raises(jinja2.sandbox.SecurityError):
        rendered(f"{jinja}||| x", {"text": "x", "options": []})


def test_the_sandbox_counts_no_further_than_its_limit():
    with pytest.raises(OverflowError, match="Range too big"):
        rendered("{% for _ in range(1000000) %}x{% endfor %}|||")


def test_a_text_is_never_a_template():
    assert rendered("{{text}} ||| x", {"text": "{{ 7 }} {% raw %}"}) == ["{{ 7 }} {% raw %}", "x"]
