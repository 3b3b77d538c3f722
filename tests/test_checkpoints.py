"""Module checkpoints: bit for bit, without the LM, refused where they do not belong, safe from full disks."""

import functools
import gc
import json
import math
import os
import re
import resource
import shutil
import threading

import jax
import numpy as np
import optax
import pytest
from etils import epath
from flax import nnx

from frozen_jax import checkpoints, freezing, partitioning, training
from frozen_jax.checkpoints import Checkpointer, describe
from frozen_jax.errors import UserError
from frozen_jax.lm.t5 import T5, T5Config
from frozen_jax.methods.base import Method
from frozen_jax.methods.fine_tuning import FineTuning
from frozen_jax.methods.prompt_tuning import PromptTuning
from frozen_jax.metrics import MetricWriter
from frozen_jax.prompts import random_uniform
from tests import tiny

ADAFACTOR = optax.adafactor(0.3, multiply_by_parameter_scale=False)

# Where a save or a restore fails, orbax leaves coroutines behind; frozen_jax.runs.environment silences them in runs.
leaves_coroutines = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _coroutines_end_with_their_test(request):
    """Else the garbage collector would find them in the middle of another test, and that would fail."""
    yield
    if request.node.get_closest_marker("filterwarnings"):
        gc.collect()


def started(method=None, optimizer=ADAFACTOR, mesh=(1, 1), seed=None):
    """A method's first state, its parts, and the description of its run; with a seed, random numbers all through."""
    method = method or prompt_tuning()
    state, split = training.start(method, optimizer, tiny.mesh(*mesh))
    if seed is not None:
        rng = np.random.default_rng(seed)
        state = jax.tree.map(lambda leaf: jax.device_put(random_like(rng, leaf), leaf.sharding), state)
    return state, split, describe(method, state.trained, seed=0)


def random_like(rng, leaf):
    return np.asarray(100 * rng.random(leaf.shape), leaf.dtype)


@functools.cache
def prompt_tuning():
    return tiny.prompt_tuning()


def at_step(state, step):
    return state._replace(step=jax.numpy.int32(step))


def saved(folder, steps=2, **options):
    """Saves a state under the first steps, and returns it and the run's description."""
    state, _, description = started(seed=0)
    with Checkpointer(folder, description, **options) as checkpointer:
        for step in range(1, steps + 1):
            checkpointer.save(step, at_step(state, step))
    return at_step(state, steps), description


def restored(folder, description, state, **options):
    with Checkpointer(folder, description, **options) as checkpointer:
        return checkpointer.restore(state)


def assert_same_bits(first, second):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def disk_full():
    """Lets no file grow beyond a few bytes: writes fail in the system itself, whichever library makes them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", tiny.METHODS)
def test_what_is_restored_is_what_was_saved(tmp_path, name):
    method = tiny.method(name)
    state, _, description = started(method, tiny.OPTIMIZERS[name](), seed=0)
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(2, state)
    new, _, _ = started(method, tiny.OPTIMIZERS[name]())
    again = restored(tmp_path, description, new)
    assert_same_bits(state, again)
    assert jax.tree.structure(state) == jax.tree.structure(again)
    assert_same_bits(checkpoints.load_trained(tmp_path, method), state.trained)


def test_nothing_saved_gives_the_state_back(tmp_path):
    state, _, description = started()
    assert restored(tmp_path, description, state) is state


def test_restored_on_another_mesh(tmp_path):
    method = FineTuning(tiny.t5())
    state, _, description = started(method, optax.adamw(1e-3), mesh=(8, 1), seed=0)
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, state)
    new, _, _ = started(method, optax.adamw(1e-3), mesh=(2, 4))
    again = restored(tmp_path, description, new)
    assert_same_bits(state, again)
    shardings = [[leaf.sharding for leaf in jax.tree.leaves(tree)] for tree in (new, again, state)]
    assert shardings[0] == shardings[1] != shardings[2]


def test_a_prompt_of_t5_small_is_far_below_a_megabyte_and_holds_no_lm(tmp_path):
    t5_small = T5Config(32128, 512, 6, 64, 1024, num_encoder_layers=8, num_decoder_layers=8)
    method = nnx.eval_shape(
        lambda: PromptTuning(T5(t5_small, rngs=nnx.Rngs(0), fingerprint="f"), length=100, initializer=random_uniform)
    )
    shapes = {"/".join(path): leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(method))}
    mask = freezing.trainable_mask(method, method.rules)
    assert sum(math.prod(shape) for path, shape in shapes.items() if not mask[path]) == 76_961_152
    prompt = np.random.default_rng(0).normal(size=shapes["prompt"]).astype(np.float32)
    trained = {"prompt": jax.numpy.asarray(prompt)}
    state = training.TrainState(jax.numpy.int32(1), trained, ADAFACTOR.init(trained))
    with Checkpointer(tmp_path, describe(method, trained, seed=0), best_metric="mean") as checkpointer:
        checkpointer.save(1, state)
        checkpointer.save_best(1, state, {"mean": 0.5})
    for folder in ("checkpoints", "best"):
        assert 100 * 512 * 3 < sum(file.stat().st_size for file in files_in(tmp_path / folder / "1")) < 500_000
        kept = stored(tmp_path / folder / "1")
        assert kept["trained/prompt"] == (100, 512)
        assert not [path for path in kept if any(name in path for name in shapes if name != "prompt")]


def stored(step):
    """Path → shape of all that one saved step holds."""
    return checkpoints._shapes(checkpoints.ocp.PyTreeCheckpointHandler().metadata(epath.Path(step / "state")).tree)


def test_a_checkpoint_of_fine_tuning_holds_the_lm_and_where_it_started(tmp_path):
    state, _, description = started(FineTuning(tiny.t5(7)), optax.sgd(0.1), seed=0)
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, state)
    kept = checkpoints.read_description(tmp_path / "checkpoints" / "1")
    assert kept["frozen_lms"] == {"lm": {"name": "tiny-7", "fingerprint": "fingerprint of tiny-7"}}
    loaded = checkpoints.load_trained(tmp_path, tiny.t5(7))
    assert_same_bits(loaded, state.trained)
    assert "lm/token_embedder/embedding" in loaded


def test_a_description_says_what_a_run_was(tmp_path):
    class Two(Method):
        def __init__(self, lm, reader):
            super().__init__(lm)
            self.reader = reader
            self.settings = (("heads", 4),)

    method = Two(tiny.t5(1), tiny.t5(2))
    description = describe(
        method, {"prompt": np.zeros((5, 16))}, seed=3, gin_config="train.train_steps = 1\n", encoder_text="a"
    )
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, {"trained": {"prompt": np.zeros((5, 16), np.float32)}})
    assert checkpoints.read_description(tmp_path / "checkpoints" / "1") == {
        "format": 1,
        "method": "Two",
        "settings": {"heads": 4},
        "frozen_lms": {
            "lm": {"name": "tiny-1", "fingerprint": "fingerprint of tiny-1"},
            "reader": {"name": "tiny-2", "fingerprint": "fingerprint of tiny-2"},
        },
        "seed": 3,
        "encoder_text": "a",
        "train_half": None,
        "trained": {"prompt": [5, 16]},
        "gin_config": "train.train_steps = 1\n",
    }


def test_beside_another_lm_it_is_refused_with_both_names(tmp_path):
    state, description = saved(tmp_path, steps=1)
    other = tiny.prompt_tuning(tiny.t5(5))
    with pytest.raises(UserError, match=r"checkpoints/1: .*'tiny-0' \(fingerprint .*not beside 'tiny-5' \(fingerprint"):
        checkpoints.load_trained(tmp_path, other)
    new, _, its_description = started(other)
    with pytest.raises(UserError, match=r"'tiny-0'.*'tiny-5'"):
        restored(tmp_path, its_description, new)
    assert_same_bits(restored(tmp_path, description, state), state)


def test_it_fits_the_lm_alone_and_every_method_around_it(tmp_path):
    state, _ = saved(tmp_path)
    for model in (tiny.t5(), FineTuning(tiny.t5()), tiny.prompt_tuning(length=9)):
        assert_same_bits(checkpoints.load_trained(tmp_path, model), state.trained)


@pytest.mark.parametrize(
    ("method", "optimizer", "seed", "message"),
    [
        (
            lambda: FineTuning(tiny.t5()),
            ADAFACTOR,
            0,
            "with method PromptTuning, not FineTuning; use another MODEL_DIR",
        ),
        (prompt_tuning, ADAFACTOR, 1, "with seed 0, not 1; use another MODEL_DIR"),
        (lambda: tiny.prompt_tuning(length=6), ADAFACTOR, 0, r"with prompt \(5, 16\), not \(6, 16\)"),
        (prompt_tuning, optax.adamw(0.1), 0, r"checkpoints/2: opt_state/0/mu/prompt is absent in the checkpoint"),
    ],
    ids=["method", "seed", "shape", "optimizer"],
)
def test_a_folder_of_another_run_is_refused(tmp_path, method, optimizer, seed, message):
    saved(tmp_path)
    before = {file: file.read_bytes() for file in files_in(tmp_path)}
    new, _, description = started(method(), optimizer)
    with pytest.raises(UserError, match=message):
        restored(tmp_path, {**description, "seed": seed}, new)
    assert before == {file: file.read_bytes() for file in files_in(tmp_path)}


def test_the_latest_two_are_kept_to_resume_from(tmp_path):
    saved(tmp_path, steps=5)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["4", "5"]


def test_the_best_is_kept_to_use_and_the_latest_to_resume_from(tmp_path):
    state, _, description = started()
    values = [0.25, 0.5, float("nan"), 0.375, 0.5]
    with Checkpointer(tmp_path, description, best_metric="mean") as checkpointer:
        for step, value in enumerate(values, 1):
            marked = state._replace(trained={"prompt": np.full((5, 16), step, np.float32)}, step=jax.numpy.int32(step))
            checkpointer.save_best(step, marked, {"mean": value, "other": -value})
            checkpointer.save(step, marked)
        with pytest.raises(UserError, match=r"best metric 'mean' is not among those measured: .'other'"):
            checkpointer.save_best(9, state, {"other": 1.0})
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["2"], "the first of the equally good"
    assert checkpoints.find(tmp_path) == epath.Path(tmp_path / "best" / "2")
    assert checkpoints.load_trained(tmp_path, tiny.t5())["prompt"][0, 0] == 2
    assert checkpoints.read_description(tmp_path / "best" / "2")["measured"] == {"mean": 0.5}
    assert int(restored(tmp_path, description, state, best_metric="mean").step) == 5


def test_a_resumed_run_knows_what_was_best(tmp_path):
    state, _, description = started()
    for step, value, best in ((3, 0.5, "3"), (2, 0.75, "3"), (4, 0.25, "3"), (6, 0.625, "6"), (8, 0.625, "6")):
        with Checkpointer(tmp_path, description, best_metric="mean") as checkpointer:
            checkpointer.save_best(step, state, {"mean": value})
        assert [path.name for path in (tmp_path / "best").iterdir()] == [best]


def test_without_a_metric_no_best_is_kept(tmp_path):
    state, _, description = started()
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save_best(1, state, {"mean": 0.5})
    assert not (tmp_path / "best").exists()


def test_a_step_is_found_by_what_leads_to_it(tmp_path):
    saved(tmp_path / "run")
    for path in ("run", "run/checkpoints", "run/checkpoints/2"):
        assert checkpoints.find(tmp_path / path) == epath.Path(tmp_path / "run/checkpoints/2")
    (tmp_path / "run/checkpoints/7.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.find(tmp_path / "run").name == "2", "what a kill left half-written is none"
    for path in ("", "nowhere"):
        with pytest.raises(UserError, match=r"no module checkpoint there; give a run's MODEL_DIR"):
            checkpoints.find(tmp_path / path)


def test_saving_overlaps_with_training(tmp_path, monkeypatch):
    """The folder gets its name after `save` has returned and the buffers of what is saved have been given away."""
    state, split, description = started(seed=0)
    wanted = jax.tree.map(np.array, state)
    step = training.make_train_step(split, state, ADAFACTOR)
    went_on, in_time = threading.Event(), []

    def gated(original, source, target):
        if "orbax-checkpoint-tmp" in str(source) and str(target) == str(tmp_path / "checkpoints" / "1"):
            in_time.append(went_on.wait(timeout=60))
        return original(source, target)

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, functools.partial(gated, getattr(os, name)))
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, state)
        for seed in range(3):
            state, _ = step(state, split.frozen, partitioning.put_batch(tiny.batch(seed=seed), split.mesh))
        jax.block_until_ready(state)
        assert not (tmp_path / "checkpoints" / "1").exists()
        went_on.set()
        checkpointer.wait()
        assert (tmp_path / "checkpoints" / "1").exists()
        assert in_time == [True], "orbax renames in another way now"
        assert_same_bits(checkpointer.restore(state), wanted)


def test_closing_waits_and_ends_the_threads(tmp_path):
    state, _, description = started()
    before = set(threading.enumerate())
    with Checkpointer(tmp_path, description, best_metric="mean") as checkpointer:
        checkpointer.save(1, state)
        checkpointer.save_best(1, state, {"mean": 0.5})
    assert (tmp_path / "checkpoints" / "1").exists()
    assert (tmp_path / "best" / "1").exists()
    checkpoints.load_trained(tmp_path, tiny.t5())
    gc.collect()  # an event loop's own threads go with it
    left = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    for thread in left:
        thread.join(timeout=10)
    assert not [thread for thread in left if thread.is_alive()]


@leaves_coroutines
def test_a_full_disk_costs_no_checkpoint_that_was_there(tmp_path, disk_full):
    state, _, description = started(seed=0)
    checkpointer = Checkpointer(tmp_path, description, best_metric="mean")
    for step in (1, 2):
        checkpointer.save(step, at_step(state, step))
        checkpointer.save_best(step, state, {"mean": step / 8})
    checkpointer.wait()
    before = {file: file.read_bytes() for file in files_in(tmp_path)}

    disk_full()
    checkpointer.save(3, state)
    with pytest.raises(UserError) as caught:  # the save before it was not done
        checkpointer.save_best(3, state, {"mean": 0.5})
    assert (
        str(caught.value)
        == f"cannot save to {tmp_path}/checkpoints: File too large; what was saved before is untouched"
    )
    with pytest.raises(UserError, match="the first"), checkpointer:  # closing does not hide it
        raise UserError("the first")

    assert {file: file.read_bytes() for file in before} == before
    assert [checkpoints.find(tmp_path / folder).name for folder in ("best", "checkpoints")] == ["2", "2"]
    assert_same_bits(checkpoints.load_trained(tmp_path, tiny.t5()), state.trained)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('OUT_OF_RANGE: Failed writing: "x":\n No space left on device [os_error_code=28]', "No space left on device"),
        ("something\n  else", "something else"),
        ("x" * 999, "x" * 200),
    ],
)
def test_what_the_system_says_is_found_in_what_libraries_make_of_it(said, shown):
    assert checkpoints._reason(ValueError(said)) == shown


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    _, _, description = started()
    with pytest.raises(UserError, match=r"cannot save to .*/file/run/checkpoints: .*Not a directory"):
        Checkpointer(tmp_path / "file" / "run", description)


@leaves_coroutines
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "other bytes"])
def test_damage_is_one_line_or_does_not_matter(tmp_path, damage):
    """To every file in turn; orbax's own bookkeeping is not needed to restore what was saved."""
    state, description = saved(tmp_path / "whole", steps=2)
    noticed = []
    for number, file in enumerate(files_in(tmp_path / "whole" / "checkpoints" / "2")):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        harm(folder / file.relative_to(tmp_path / "whole"), damage)
        errors = [
            refusal(lambda: assert_same_bits(restored(folder, description, state), state)),  # noqa: B023 - called here
            refusal(lambda: assert_same_bits(checkpoints.load_trained(folder, tiny.t5()), state.trained)),  # noqa: B023
        ]
        for error in filter(None, errors):
            assert re.fullmatch(rf"checkpoint {folder}/checkpoints/2 is damaged or incomplete: .*", error)
            noticed.append(file.parent.name)
        shutil.rmtree(folder / "checkpoints" / "2")  # as the message says
        assert int(restored(folder, description, state).step) == 1
    assert {"description", "state", "d"} <= set(noticed)


def refusal(call):
    """What a call is refused with; None if it is not."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def harm(file, damage):
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(
            {"cut": whole[: len(whole) // 2], "empty": b"", "other bytes": bytes(255 - b for b in whole)}[damage]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trained": {"prompt": [5, 17]}}, r"trained/prompt is \(5, 16\) in the checkpoint; wanted is \(5, 17\)"),
        ({"trained": {"promt": [5, 16]}}, "trained/promt is absent in the checkpoint"),
        ({"trained": {"prompt": ["5", 16]}}, "its description says trained is"),
        ({"trained": {"prompt": [-5, 16]}}, "its description says trained is"),
        ({"trained": {"prompt": 5}}, "its description says trained is"),
        ({"trained": [1]}, r"its description says trained is \[1\]"),
        ({"settings": [["heads", 2]]}, "its description says settings is"),
        ({"encoder_text": 5}, "its description says encoder_text is 5"),
        ({"train_half": 2}, "its description says train_half is 2"),
        ({"seed": "0"}, "its description says seed is '0'"),
        ({"format": 2}, "its description has format 2; this version reads 1"),
        ({"frozen_lms": {"lm": "T5"}}, "its description says frozen_lms is"),
        ({"frozen_lms": {"lm": {"name": "T5"}}}, "its description says frozen_lms is"),
        ({"frozen_lms": {}}, "its description says frozen_lms is"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, change, message):
    saved(tmp_path, steps=1)
    file = tmp_path / "checkpoints" / "1" / "description" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message):
        checkpoints.load_trained(tmp_path, tiny.t5())


def test_settings_that_shapes_do_not_tell_are_compared(tmp_path):
    two, four = ({"heads": heads, "head_dim": 8 // heads} for heads in (2, 4))
    state, _, description = started(tiny.input_dependent_prompt_tuning(**two))
    with Checkpointer(tmp_path, description) as checkpointer:
        checkpointer.save(1, state)
    other, _, its_description = started(tiny.input_dependent_prompt_tuning(**four))
    assert its_description["trained"] == description["trained"]
    with pytest.raises(UserError, match="holds a module with heads = 2; the method has 4"):
        restored(tmp_path, its_description, other)
    with pytest.raises(UserError, match="checkpoints/1: holds a module with heads = 2; the method has 4"):
        checkpoints.load_trained(tmp_path, tiny.input_dependent_prompt_tuning(**four))
    assert_same_bits(checkpoints.load_trained(tmp_path, tiny.t5()), state.trained)
    with pytest.raises(UserError, match="holds a run with encoder_text None, not a text; use another MODEL_DIR"):
        restored(tmp_path, description | {"encoder_text": "a text"}, state)
    with pytest.raises(UserError, match="holds a run with train_half None, not 1; use another MODEL_DIR"):
        restored(tmp_path, description | {"train_half": 1}, state)
    file = tmp_path / "checkpoints" / "1" / "description" / "metadata"
    stored = json.loads(file.read_text())
    file.write_text(
        json.dumps({key: stored[key] for key in stored.keys() - {"settings", "encoder_text", "train_half"}})
    )
    assert_same_bits(checkpoints.load_trained(tmp_path, tiny.input_dependent_prompt_tuning(**four)), state.trained)


def test_a_claim_of_terabytes_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    saved(tmp_path, steps=1)
    shape = (2**20, 2**20)
    file = tmp_path / "checkpoints" / "1" / "description" / "metadata"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"trained": {"prompt": shape}}))
    monkeypatch.setattr(
        checkpoints, "_shapes", lambda _: {"trained/prompt": shape}
    )  # as if the arrays claimed it as well
    with pytest.raises(UserError, match=r"it claims 4398046511104 bytes of parameters in .* bytes of files"):
        checkpoints.load_trained(tmp_path, tiny.t5())


@pytest.mark.parametrize("poisoned", [3, 4])
def test_figures_that_are_no_numbers_end_a_run_and_leave_the_last_checkpoint(tmp_path, poisoned):
    """Saved every two steps: that is the one after step 2 or, just begun when the run ends, the one after step 4."""
    state, split, description = started()
    step = training.make_train_step(split, state, ADAFACTOR)
    rows = [tiny.batch(seed=index) for index in range(6)]
    rows[poisoned].targets_weights[0, 0] = np.nan
    good = state
    for batch in rows[: 2 * (poisoned // 2)]:
        good, _ = step(good, split.frozen, partitioning.put_batch(batch, split.mesh))
    state, _, _ = started()  # the first was given away
    message = rf"^step {poisoned} \(batch {poisoned}\): loss nan, gradient norm .*Lower the learning rate"
    with pytest.raises(UserError, match=message), Checkpointer(tmp_path, description) as checkpointer:
        training.fit(
            state,
            split,
            step,
            iter(rows),
            train_steps=6,
            writer=MetricWriter(tmp_path, log_period=1),
            checkpointer=checkpointer,
            save_period=2,
        )
    again = restored(tmp_path, description, started()[0])
    assert int(again.step) == 2 * (poisoned // 2)
    assert_same_bits(again, good)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, poisoned + 1))


def test_what_is_stored_is_the_state_and_nothing_else(tmp_path):
    state, _ = saved(tmp_path, steps=1)
    assert stored(tmp_path / "checkpoints" / "1") == checkpoints._shapes(state)


def test_relative_paths_mean_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state, _, description = started()
    saver = Checkpointer("runs/mine", description)
    saver.save(1, state)
    saver.wait()
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "1").is_dir()
    loaded = checkpoints.load_trained("runs/mine", tiny.t5())
    np.testing.assert_array_equal(loaded["prompt"], state.trained["prompt"])
