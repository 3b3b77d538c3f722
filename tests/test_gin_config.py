"""Flags and gin files: what is read from them, what is said of mistakes, and whether gin/ keeps its word."""

import re
from pathlib import Path

import gin
import pytest
from gin import config as gin_internals

from frozen_jax import gin_config
from frozen_jax.errors import UserError

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "gin").rglob("*.gin"))
LONGEST_FILE = 40
WHOLE = ("runs", "experiments")  # folders of files that are a run, or nearly

MODEL, METHOD, TASK = "models/titler_t5_small.gin", "methods/prompt_tuning.gin", "tasks/sst2.gin"
NEEDED_MACROS = {
    "INITIAL_CHECKPOINT_PATH": "somewhere",
    "TOKENIZER": "somewhere",
    "METHOD": "@FineTuning()",
    "OPTIMIZER": "@optax.adamw()",
    "MIXTURE_OR_TASK_NAME": "some_task",
    "TASK_FEATURE_LENGTHS": '{"inputs": 8, "targets": 2}',
    "TRAIN_STEPS": "1",
    "MODEL_DIR": "somewhere",
    "SEED": "1",
    "READER": "None",
    "CORPUS": "squad",
    "EVIDENCE_DIR": "somewhere",
    "RERANKER": "None",
    "SELECTOR": "None",
    "CANDIDATES_DIR": "somewhere",
    "P1_STEPS": "1",
    "P1_DIR": "somewhere",
    "P1_FIRST_DIR": "somewhere",
    "P1_SECOND_DIR": "somewhere",
    "P1_LENGTHS": '{"inputs": 8, "targets": 2}',
}


@gin.configurable
def stove(heat: int = 1, name: str | None = None, share: float = 0.5, *, on: bool = False, pan: object = None):
    return heat, name, share, on, pan


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Nothing bound, and search paths of this test alone."""
    monkeypatch.setattr(gin_internals, "_LOCATION_PREFIXES", [""])
    gin.clear_config()
    yield
    gin.clear_config()


def stove_with(*bindings):
    gin_config.parse([], bindings)
    return stove()


def test_what_is_bound_to_a_function_in_any_scope_and_behind_macros():
    gin_config.parse([], ["stove.heat=%HOT", "HOT=%HOTTER", "HOTTER=9", "kitchen/stove.name=new"])
    assert gin_config.bound_to("stove") == {"heat": 9, "kitchen/name": "new"}
    assert gin_config.bound_to("oven") == {}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("/tmp/a run", "/tmp/a run"),
        ('it\'s "so"', 'it\'s "so"'),
        ("a=b", "a=b"),
        ("a\\b", "a\\b"),
        ("gs://bucket/x", "gs://bucket/x"),
        ("1e-3x", "1e-3x"),
        ('"12"', "12"),
        ("", ""),
        ("None", None),
        ("  padded  ", "padded"),
    ],
)
def test_what_is_no_literal_is_a_text(written, read):
    assert stove_with(f"stove.name={written}")[1] == read


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("{'a': 1}", {"a": 1}),
        ("[1, (2, 'x')]", [1, (2, "x")]),
        ("-3", -3),
        ("True", True),
        ("(1,", None),
        ("[x]", None),
    ],
)
def test_literals_are_read_as_such(written, read):
    if read is None:
        with pytest.raises(UserError, match=r"gin: "):
            stove_with(f"stove.pan={written}")
    else:
        assert stove_with(f"stove.pan={written}")[4] == read


def test_references_and_macros():
    found = stove_with("HEAT=7", "WARM=%HEAT", "stove.heat=%WARM", "stove.pan=[@stove, %HEAT]")
    assert found[0] == 7
    assert found[4][1] == 7
    assert callable(found[4][0])


def test_flags_win_over_files_and_later_files_over_earlier(tmp_path):
    (tmp_path / "a.gin").write_text("HEAT = 1\nstove.heat = %HEAT\nstove.share = 0.1\nstove.name = 'a'\n")
    (tmp_path / "b.gin").write_text("stove.share = 0.2\nstove.name = 'b'\n")
    files = [str(tmp_path / name) for name in ("a.gin", "b.gin")]
    gin_config.parse(files, ["HEAT=5", "stove.name=c"])
    assert stove()[:3] == (5, "c", 0.2)


def test_files_and_includes_are_looked_for_in_the_search_paths(tmp_path):
    (tmp_path / "one" / "inner").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "outer.gin").write_text("include 'inner/part.gin'\ninclude 'other.gin'\n")
    (tmp_path / "one" / "inner" / "part.gin").write_text("stove.heat = 3\n")
    (tmp_path / "two" / "other.gin").write_text("stove.name = 'two'\n")
    gin_config.parse(["outer.gin"], [], [str(tmp_path / "one"), str(tmp_path / "two")])
    assert stove()[:2] == (3, "two")


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("stove.heet=1", "doesn't have a parameter named 'heet'.*Close: heat"),
        ("stove.onn=True", "'onn'.*Close: on$"),  # keyword only
        ("stov.heat=1", "No configurable matching 'stov'.*Close: stove"),
        ("stove.pan=@stofe()", r"No configurable matching reference '@stofe\(\)'.*Close: stove"),
        ("stove.heat=%HEAT", "HEAT is used but not set; add --gin.HEAT=VALUE"),
        ("stove.pan=[1, {'a': %HEAT}]", "HEAT is used but not set"),
        ("HEAT=1", r"nothing uses the macro HEAT\.$"),
        ("stove.heat", "write --gin.NAME=value"),
        ("stove.heat=hot", "stove.heat is 'hot'; it must be int"),
        ("stove.heat=1.5", "stove.heat is 1.5; it must be int"),
        ("stove.heat=True", "stove.heat is True; it must be int"),
        ("stove.heat=[1]", r"stove.heat is \[1\]; it must be int"),
        ("stove.name=2024", "stove.name is 2024; it must be None or str"),
        ("stove.share=half", "stove.share is 'half'; it must be float or int"),
        ("stove.on=1", "stove.on is 1; it must be bool"),
    ],
)
def test_a_mistake_is_one_line(binding, message):
    with pytest.raises(UserError, match=message) as caught:
        gin_config.parse([], [binding])
    assert "\n" not in str(caught.value)


def test_a_macro_of_the_wrong_type_is_named():
    with pytest.raises(UserError, match=r"gin: HEAT is 'hot'; it must be int"):
        gin_config.parse([], ["HEAT=hot", "WARM=%HEAT", "stove.heat=%WARM"])


def test_an_unknown_macro_is_compared_in_any_case(tmp_path):
    (tmp_path / "a.gin").write_text("TRAIN_STEPS = 1\nstove.heat = %TRAIN_STEPS\n")
    with pytest.raises(UserError, match=r"nothing uses the macro train_step. Close: TRAIN_STEPS"):
        gin_config.parse([str(tmp_path / "a.gin")], ["train_step=2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("include 'nowhere.gin'\n", "Unable to open file: nowhere.gin"),
        ("import frozen_jax.nothing\n", "No module named 'frozen_jax.nothing'"),
        ("stove.heat = \n", "Unable to parse value"),
        ("stove.heat 3\n", "a.gin"),
        ("stove.heat = 3\nstove.heet = 4\n", "'heet'.*a.gin.*line 2.*Close: heat"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, content, message, capsys):
    (tmp_path / "a.gin").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        gin_config.parse([str(tmp_path / "a.gin")], [])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["1 / 0", "raise SystemExit('division by zero')"])
def test_a_module_that_a_gin_file_imports_may_raise_anything(tmp_path, monkeypatch, content):
    (tmp_path / "raises_anything.py").write_text(content)
    (tmp_path / "a.gin").write_text("import raises_anything\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"gin: division by zero") as caught:
        gin_config.parse([str(tmp_path / "a.gin")], [])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(caplog):
    with pytest.raises(UserError, match=r"Unable to open file: nowhere.gin"):
        gin_config.parse(["nowhere.gin"], [])
    assert not caplog.records, "gin's own log would be a second line"


@gin.configurable
def kitchen(stove=gin.REQUIRED):
    raise UserError(f"too hot:\n {stove}")


def test_what_is_needed_and_not_bound_is_named():
    with (
        pytest.raises(UserError, match=r"Required bindings for `kitchen` not provided in config: \['stove'\]; bind it"),
        gin_config.required_bindings_named(),
    ):
        kitchen()
    with pytest.raises(RuntimeError, match=r"ours"), gin_config.required_bindings_named():
        raise RuntimeError("ours")


def test_gin_adds_no_lines_to_an_error():
    gin_config.parse([], ["kitchen.stove=@stove()"])
    with pytest.raises(UserError) as caught:
        kitchen()
    assert "In call to configurable" in str(caught.value), "or one_line has nothing to do any more"
    assert gin_config.one_line(caught.value) == "too hot: (1, None, 0.5, False, None)"


def test_current_makes_the_same_run_again_and_can_be_overridden():
    gin_config.parse([], ["HEAT=7", "POT=@stove()", "stove.heat=%HEAT", "kitchen.stove=%POT"])
    for _ in range(2):
        with pytest.raises(UserError, match=r"7"):
            kitchen()
    text = gin_config.current()
    assert "# POT/stove.share = 0.5\n" in text, "a default that was used"
    for bindings, heat in (([], 7), (["HEAT = 8"], 8), (["stove.heat = 9"], 9)):
        gin.clear_config()
        gin.parse_config_files_and_bindings([], [text, *bindings])
        with pytest.raises(UserError, match=rf"\({heat}, None, 0.5"):
            kitchen()


def header(file):
    """The comment that a file begins with, as one line."""
    lines = file.read_text().splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def named(file, word):
    """The macros that a header says the file needs or gives."""
    clause = re.search(rf"{word} (.*?)(\.( |$)|;)", header(file))
    return set(re.findall(r"\b[A-Z][A-Z0-9_]{3,}\b", clause[1])) if clause else set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_gin_file_is_short_and_says_truly_what_it_needs_and_gives(file):
    assert len(file.read_text().splitlines()) <= LONGEST_FILE
    assert header(file)
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_file(str(file))
    references = gin_internals.iterate_references(gin_internals._CONFIG)
    used = {name for name in map(gin_config._macro_name, references) if name}
    given = set(gin_config._macros())
    assert used - given <= named(file, "Needs") <= NEEDED_MACROS.keys() - given
    if file.parent.name not in WHOLE:
        assert named(file, "Gives") == given


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name not in WHOLE], ids=lambda file: file.stem)
def test_a_part_makes_a_run_with_the_others(file):
    parts = {part.split("/")[0]: part for part in (MODEL, METHOD, TASK)}
    parts[file.parent.name] = f"{file.parent.name}/{file.name}"
    needed = {name: value for name, value in NEEDED_MACROS.items() if name in named(file, "Needs")}
    needed |= {"TRAIN_STEPS": "1", "MODEL_DIR": "somewhere"}
    files = ["gin/runs/base.gin", *(f"gin/{part}" for part in parts.values())]
    gin_config.parse(files, [f"{name}={value}" for name, value in needed.items()], [str(ROOT)])


@pytest.mark.parametrize("file", [f for f in FILES if f.parent.name in WHOLE], ids=lambda file: file.stem)
def test_a_run_is_whole_when_it_has_what_it_needs(file):
    import frozen_jax.methods.fine_tuning  # noqa: F401 - makes @FineTuning known

    bindings = [f"{name}={NEEDED_MACROS[name]}" for name in named(file, "Needs")]
    gin_config.parse([str(file)], bindings, [str(ROOT)])
