"""Which module checkpoints a ledger has, and what is said of those that do not fit."""

import functools
import json
import os

import jax
import pytest
from etils import epath
from flax import nnx

from frozen_jax.errors import UserError
from frozen_jax.methods.fine_tuning import FineTuning
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


def test_a_method_that_is_made_already_is_refused():
    with pytest.raises(UserError, match="a made FineTuning; write @FineTuning, without brackets"):
        jobs_by_method(modules_of_tiny.job("nowhere"), [FineTuning(tiny.t5())])


def test_a_module_of_an_unnamed_task_has_none(root, tmp_path):
    save(tmp_path / "silent", tiny.prompt_tuning())
    path = epath.Path(tmp_path / "silent" / "checkpoints" / "1" / "description" / "metadata")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gin_config": "X = 1"}))
    assert subjects([str(tmp_path / "silent")])[0].trained_on == ""
