"""Which module checkpoints a ledger has, and what is said of those that do not fit."""

import functools
import json
import os

import gin
import jax
import pytest
from etils import epath
from flax import nnx

from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.runs.modules import jobs_by_method, read_modules
from tests import tiny
from tests.runs import modules_of_tiny
from tests.runs.modules_of_tiny import save

pytestmark = pytest.mark.loose_promotion


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder, lm = tmp_path_factory.mktemp("modules"), tiny.t5()
    save(folder / "prompt", tiny.prompt_tuning(lm), 3, "some_task", steps=(1, 2))
    save(folder / "deeper" / "prompt", tiny.prompt_tuning(lm))
    save(folder / "tuned", FineTuning(lm))
    save(folder / "longer", tiny.prompt_tuning(lm, length=7))
    save(folder / "of_another", tiny.prompt_tuning(tiny.t5(seed=1)))
    return folder


@functools.cache
def jobs():
    return jobs_by_method(modules_of_tiny.job("nowhere"), [FineTuning])


def subjects(given, jobs=None):
    return [module.subject for module in read_modules(given, jobs or globals()["jobs"]())]


def test_descriptions_say_what_a_module_is(root):
    prompt, tuned = subjects({"one": str(root / "prompt"), "other": [str(root / "tuned")]})
    assert (prompt.row, prompt.module) == ("one", str(root / "prompt" / "checkpoints" / "2"))
    assert (prompt.method, prompt.seed, prompt.trained_on) == ("PromptTuning", 3, "some_task")
    assert (prompt.trained, prompt.keeps_lm) == (5 * 16, True)
    assert (tuned.row, tuned.method, tuned.keeps_lm) == ("other", "FineTuning", False)
    assert tuned.trained == sum(a.size for a in jax.tree.leaves(nnx.state(tiny.t5())))


def test_rows_are_names_or_folders(root):
    paths = [str(root / "prompt"), str(root / "tuned")]
    assert [subject.row for subject in subjects(paths)] == ["prompt", "tuned"]
    assert [subject.row for subject in subjects(paths[0])] == ["prompt"]
    assert [subject.row for subject in subjects({"a": paths, "b": paths[0]})] == ["a", "a", "b"]
    assert subjects([]) == subjects({}) == []


def test_braces_are_short_for_several_folders(root):
    named = subjects({"all": [str(root / "{prompt,deeper/prompt}"), str(root / "tuned")]})
    assert [os.path.relpath(subject.module, root) for subject in named] == [
        f"{name}/checkpoints/{step}" for name, step in (("prompt", 2), ("deeper/prompt", 1), ("tuned", 1))
    ]
    assert [subject.row for subject in subjects(str(root / "{prompt,tuned}"))] == ["prompt", "tuned"]
    with pytest.raises(UserError, match="absent_1: no module checkpoint"):  # a pattern would leave it out
        subjects({"all": str(root / "{prompt,absent_{1,2}}")})


def test_one_saved_step_may_be_named(root):
    (subject,) = subjects({"early": str(root / "prompt" / "checkpoints" / "1")})
    assert subject.module.endswith("checkpoints/1")
    assert subject.identity != subjects({"late": str(root / "prompt")})[0].identity


def test_a_module_is_shown_from_where_one_is(root, monkeypatch):
    monkeypatch.chdir(root)
    (subject,) = subjects(["prompt"])
    assert subject.module == os.path.join("prompt", "checkpoints", "2")


def test_its_name_does_not_make_its_identity(root):
    (one,), (other,) = subjects({"one": str(root / "prompt")}), subjects({"other": str(root / "prompt")})
    assert one.identity == other.identity
    assert len({subject.folder for subject in (one, other)}) == 2


def test_files_are_named_after_rows(root):
    (subject,) = subjects({"prompt, SST-2 / run": str(root / "prompt")})
    assert subject.folder == f"prompt_SST-2_run-{subject.identity[:8]}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": "{root}/absent"}, "{root}/absent: no module checkpoint there"),
        ({"x": "{root}/of_another"}, "trained beside the LM 'tiny-1' .*, not beside 'tiny-0'.*; load that LM"),
        ({"x": "{root}/longer"}, r"longer/checkpoints/1: prompt is \(7, 16\) in the checkpoint and \(5, 16\) in the"),
        ({"x": []}, "evaluate_module.modules: the row 'x' is empty"),
        ({"frozen LM alone": "{root}/prompt"}, "the row 'frozen LM alone' has that name already"),
        (["{root}/prompt", "{root}/deeper/prompt"], "two of .* have the same name; name the rows"),
    ],
)
def test_modules_that_do_not_fit(root, given, message):
    given = json.loads(json.dumps(given).replace("{root}", str(root)))
    with pytest.raises(UserError, match=message.replace("{root}", str(root))):
        read_modules(given, jobs())


def test_an_unknown_method_is_named(root):
    only = jobs_by_method(modules_of_tiny.job("nowhere"), [])
    with pytest.raises(UserError, match=r"FineTuning; evaluate_module.methods has PromptTuning; add @FineTuning"):
        read_modules([str(root / "prompt"), str(root / "tuned")], only)


def id_pt(lm, **changes):
    return tiny.input_dependent_prompt_tuning(lm, **changes)


def test_rows_may_have_methods_of_their_own(root, tmp_path):
    job, lm = modules_of_tiny.job("nowhere"), tiny.t5()
    save(tmp_path / "whole", id_pt(lm))
    save(tmp_path / "bare", id_pt(lm, encoder_prompt_length=0))
    rows = {"whole": str(tmp_path / "whole"), "bare": str(tmp_path / "bare"), "static": str(root / "prompt")}
    found = jobs_by_method(job, {"whole": id_pt, "bare": named(lambda lm: id_pt(lm, encoder_prompt_length=0))})
    assert [module.job for module in read_modules(rows, found)] == [found["whole"], found["bare"], job]
    with pytest.raises(UserError, match="encoder_prompt is absent in the checkpoint"):
        read_modules({"whole": rows["bare"], "bare": rows["bare"]}, found)
    with pytest.raises(UserError, match=r"PromptTuning; .* gives its row 'bare' InputDependentPromptTuning"):
        read_modules(rows | {"bare": rows["static"]}, found)
    with pytest.raises(UserError, match=r"evaluate_module.methods: there is no row 'whole'; there are static"):
        read_modules({"static": rows["static"]}, found)


def named(make):
    return functools.wraps(id_pt)(make)


def test_a_second_class_of_one_name_is_not_ignored():
    with gin.unlock_config():
        gin.parse_config("holds.it = [@none/PromptTuning]")
        (scoped,) = holds()
        gin.clear_config()
    with pytest.raises(UserError, match=r"methods has another PromptTuning; name its row: \{'ROW': @SCOPE/PromptTun"):
        jobs_by_method(modules_of_tiny.job("nowhere"), [scoped])
    assert len(jobs_by_method(modules_of_tiny.job("nowhere"), [PromptTuning])) == 1


@gin.configurable
def holds(it=()):
    return it


def test_lms_are_compared_with_those_of_the_modules_own_method(root, tmp_path):
    """With an encoder of its own, ID-PT holds two LMs, and the methods beside it one."""
    lm, encoder = tiny.t5(), tiny.t5(seed=7)
    save(tmp_path / "two", id_pt(lm, encoder=encoder))
    rows = {"ID-PT": str(tmp_path / "two"), "static": str(root / "prompt")}
    with_two = named(lambda lm: id_pt(lm, encoder=encoder))
    assert len(read_modules(rows, jobs_by_method(modules_of_tiny.job("nowhere"), {"ID-PT": with_two}))) == 2
    with_one = jobs_by_method(modules_of_tiny.job("nowhere", method=with_two(lm)), {"ID-PT": named(id_pt)})
    with pytest.raises(UserError, match="trained beside the LM 'tiny-7'"):
        read_modules(rows, with_one)


def test_settings_that_shapes_do_not_tell(tmp_path):
    save(tmp_path / "module", id_pt(tiny.t5(), heads=2, head_dim=4))
    other = named(lambda lm: id_pt(lm, heads=4, head_dim=2))
    with pytest.raises(UserError, match="module/checkpoints/1: holds a module with heads = 2; the method has 4"):
        read_modules([str(tmp_path / "module")], jobs_by_method(modules_of_tiny.job("nowhere"), {"module": other}))


def test_a_method_that_is_made_already_is_refused():
    with pytest.raises(UserError, match="a made FineTuning; write @FineTuning, without brackets"):
        jobs_by_method(modules_of_tiny.job("nowhere"), [FineTuning(tiny.t5())])


def test_a_module_of_an_unnamed_task_has_none(root, tmp_path):
    save(tmp_path / "silent", tiny.prompt_tuning())
    path = epath.Path(tmp_path / "silent" / "checkpoints" / "1" / "description" / "metadata")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gin_config": "X = 1"}))
    assert subjects([str(tmp_path / "silent")])[0].trained_on == ""
