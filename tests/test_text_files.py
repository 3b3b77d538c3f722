"""Files as examples: each kind, and every mistake in one line that says where it is."""

import gzip
import json

import gin
import pytest

from frozen_jax.errors import UserError
from frozen_jax.text_files import TextFiles, text_files

ROWS = [
    {"question": "is it wet", "text": "It rains, still.", "answer": "yes"},
    {"question": "b", "text": "c", "answer": "no"},
]
EXPECTED = [
    {"inputs": "Question: is it wet Text: It rains, still.", "targets": "yes", "choices": ["no", "yes"]},
    {"inputs": "Question: b Text: c", "targets": "no", "choices": ["no", "yes"]},
]
JSON = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = 'question,text,answer\nis it wet,"It rains, still.",yes\nb,c,no\n'
TEMPLATE = {"inputs": "Question: {question} Text: {text}", "targets": "answer", "choices": ["no", "yes"]}


@pytest.fixture
def write(tmp_path):
    """Writes a file and returns its path."""

    def written(name, content):
        content = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(tmp_path / name)

    return written


def read(file, **more):
    return TextFiles("a_task", file, **(TEMPLATE | more)).read(file)


def mistake(*arguments, **keywords):
    with pytest.raises(UserError) as error:
        read(*arguments, **keywords)
    said = str(error.value).split("\n  In call to configurable")[0]  # gin's addition, which run.py takes away
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON),
        ("a.json", "\n" + JSON + "\n\n"),
        ("a.JSONL.gz", JSON),
        ("a.csv", CSV),
        ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n")),  # as a spreadsheet writes it
        ("a.csv", CSV + "\n"),
        ("a.csv.gz", CSV),
        ("a.tsv", 'question\ttext\tanswer\nis it wet\t"It rains, still."\tyes\nb\tc\tno\n'),
    ],
    ids=["jsonl", "json", "packed jsonl", "csv", "spreadsheet", "blank line", "packed csv", "tsv"],
)
def test_every_kind_of_file(write, name, content):
    assert read(write(name, content)) == EXPECTED


def test_a_long_cell_and_one_with_line_breaks(write):
    long, lines = "word " * 50_000, '"one\ntwo"'
    found = read(write("a.csv", f"question,text,answer\n{long},{lines},yes\n"), inputs="{question}{text}")
    assert found[0]["inputs"] == long.strip() + "one\ntwo"


def test_columns_and_templates(write):
    file = write("a.jsonl", '{"inputs": " a ", "targets": 2.5, "n": 3}\n')
    assert TextFiles("a_task", file).read(file) == [{"inputs": "a", "targets": "2.5"}]
    found = read(file, inputs="{{{n}}} {inputs}", targets="about {targets}", choices=["about {targets}", "{n}"])
    assert found == [{"inputs": "{3} a", "targets": "about 2.5", "choices": ["about 2.5", "3"]}]


def test_labels_become_answers(write):
    file, labels = write("a.csv", "text,label\na,0\nb,1\n"), {0: "negative", "1": "positive"}
    assert [e["targets"] for e in read(file, inputs="text", targets="label", labels=labels, choices=None)] == [
        "negative",
        "positive",
    ]
    assert "a.csv, line 3: the label '1' is none of 0" in mistake(
        file, inputs="text", targets="label", labels={0: "no"}
    )


def test_choices_in_a_column(write):
    table = write("a.csv", "question,text,answer,options\na,b,red,red| dark blue\n")
    lines = write("a.jsonl", '{"question": "a", "text": "b", "answer": "red", "options": ["red", "dark blue"]}\n')
    for file in (table, lines):
        assert read(file, choices="options")[0]["choices"] == ["red", "dark blue"]
    assert "column 'text' is {\"a\": 1}; it must be a list of texts" in mistake(
        write("b.jsonl", '{"question": "a", "text": {"a": 1}, "answer": "b"}\n'), inputs="question", choices="text"
    )


def test_answers_of_squad(write):
    file = write("a.jsonl", '{"question": "a", "text": "b", "answer": "red", "all": ["red", "the red"]}\n')
    squad = {"choices": None, "metrics": ["squad"]}
    assert read(file, answers="all", **squad)[0]["answers"] == ["red", "the red"]
    assert read(file, **squad)[0]["answers"] == ["red"]


# Mistakes.


@pytest.mark.parametrize(("name", "content"), [("a.csv", CSV), ("a.jsonl", JSON)])
def test_a_missing_column_is_named_with_those_there_are(write, name, content):
    said = mistake(write(name, content), inputs="Question: {qestion}")
    assert said.endswith("there is no column 'qestion'; there are: question, text, answer")
    assert f"{name}, line " in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", JSON + "[1, 2]\n", 'a.jsonl, line 3: [1, 2] is no JSON object such as {"inputs": "..."}'),
        ("a.jsonl", JSON + '{"question": \n', "a.jsonl, line 3: no JSON: Expecting value"),
        ("a.jsonl", "", "a.jsonl holds no examples"),
        ("a.csv", "", "a.csv holds no examples"),
        ("a.csv", "question,text,answer\n", "a.csv holds no examples"),
        ("a.csv", CSV + "d,e\n", "a.csv, line 4: 2 cells; the first line names 3 columns"),
        ("a.jsonl", '{"question": null, "text": "", "answer": ""}', "column 'question' is null; it must be a text or"),
        ("a.jsonl", '{"question": true, "text": "", "answer": ""}', "column 'question' is true; it must be a text or"),
        ("a.csv", CSV + "d,e,maybe\n", "a.csv, line 4: the answer 'maybe' is none of the choices ['no', 'yes']"),
        ("a.csv", "a\xe4".encode("latin-1"), "a.csv is not in UTF-8"),
        ("a.txt", JSON, "a.txt is of an unknown kind; known: .jsonl, .json, .csv, .tsv, or .gz"),
        ("a.gz", JSON, "a.gz is of an unknown kind"),
    ],
)
def test_what_is_wrong_in_a_file(write, name, content, message):
    assert message in mistake(write(name, content))


def test_a_missing_file(tmp_path):
    assert mistake(str(tmp_path / "a.csv")) == f"there is no file {tmp_path / 'a.csv'}"


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(CSV.encode())[:-9]], ids=["plain", "cut"])
def test_what_is_not_packed(tmp_path, content):
    (tmp_path / "a.csv.gz").write_bytes(content)
    assert "a.csv.gz is no gzip file" in mistake(str(tmp_path / "a.csv.gz"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["acuracy"]}, "no metric 'acuracy' for text files; known: accuracy, correlations, f1_of_yes"),
        ({"metrics": ["multirc"]}, "no metric 'multirc'"),
        ({"metrics": ["squad", "accuracy"]}, "squad compares with lists of answers"),
        ({"inputs": "{question"}, "'{question': expected '}' before end of string; braces that are meant"),
        ({"choices": ["}"]}, "braces that are meant"),
    ],
)
def test_what_is_wrong_in_a_description(write, settings, message):
    assert message in mistake(write("a.csv", CSV), **settings)


def test_gin_describes_several():
    gin.parse_config(
        """
        text_files.tasks = [@a/TextFiles(), @b/TextFiles()]
        a/TextFiles.name = "a"
        b/TextFiles.name = "b"
        TextFiles.files = "all.csv"
        """
    )
    try:
        assert [(task.name, task.files) for task in text_files()] == [("a", "all.csv"), ("b", "all.csv")]
    finally:
        gin.clear_config()
    assert list(text_files()) == []
