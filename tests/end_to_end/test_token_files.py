"""Token files, written once, are all that a host without seqio and TensorFlow needs: it trains, scores and decodes."""

import json

import pytest

from tests.end_to_end.test_run import mistake, run

TIMES = {"seconds", "seconds_per_step", "examples_per_second", "real_tokens_per_second", "padding_tokens_per_second"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def without_seqio(tmp_path_factory):
    """A folder that makes importing seqio and TensorFlow fail, as they do where they are not installed."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("seqio", "tensorflow", "tensorflow_datasets"):
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} on this host')\n")
    return folder


@pytest.fixture
def bare(without_seqio, monkeypatch):
    """Runs run.py on such a host."""
    monkeypatch.setenv("PYTHONPATH", str(without_seqio))
    return run


def figures(file):
    """The lines of a file without what a clock measured."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def cached(folder, *arguments):
    done = run("--run_mode=cache", f"--gin.TOKEN_CACHE_DIR={folder}", *arguments)
    assert done.returncode == 0, done.stderr
    return f"--gin.TOKEN_CACHE_DIR={folder}"


@pytest.mark.parametrize(
    ("task", "trained_on"), [("tiny_chosen", []), ("tiny_written", ["--gin.TaskData.train_half=1"])]
)
def test_a_host_without_seqio_trains_and_evaluates_as_others_do(tmp_path, bare, task, trained_on, monkeypatch):
    """Also on a half of the training split, for which its texts have to be there."""
    name = f"--gin.MIXTURE_OR_TASK_NAME={task}"
    with monkeypatch.context() as patch:
        patch.delenv("PYTHONPATH")
        files = cached(tmp_path / "tokens", name, f"--gin.cache.train_texts={bool(trained_on)}")
        with_seqio = run(name, *trained_on, f"--gin.MODEL_DIR={tmp_path / 'with'}")
    message = mistake(name, f"--gin.MODEL_DIR={tmp_path / 'none'}")
    assert "this host lacks (no seqio on this host)" in message
    assert message.endswith("make token files where they are, with --run_mode=cache, and set TOKEN_CACHE_DIR")
    done = bare(name, *trained_on, f"--gin.MODEL_DIR={tmp_path / 'without'}", files)
    assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "with" / "metrics.jsonl") == figures(tmp_path / "without" / "metrics.jsonl")
    assert done.stdout.splitlines()[:3] == with_seqio.stdout.splitlines()[:3]
    assert "accuracy" in done.stdout
    folders = [tmp_path / place / "predictions" for place in ("with", "without")]
    one, other = [figures(folder / f"{task}-test.jsonl") for folder in folders]
    assert one == other
    evaluated = bare(name, f"--gin.MODEL_DIR={tmp_path / 'without'}", files, "--run_mode=eval")
    assert "with PromptTuning" in evaluated.stdout
    assert "12 (validation)" in evaluated.stdout


def test_a_second_time_nothing_is_done_and_other_lengths_are_refused(tmp_path):
    files = cached(tmp_path / "tokens")
    again = run("--run_mode=cache", files)
    assert (again.returncode, "are there already" in again.stdout) == (0, True)
    lengths = """--gin.TASK_FEATURE_LENGTHS={"inputs": 12, "targets": 4}"""
    assert "was made with task_feature_lengths" in mistake(files, lengths, f"--gin.MODEL_DIR={tmp_path / 'run'}")
    assert "was made with task_feature_lengths" in mistake("--run_mode=cache", files, lengths)
    assert "where to? give --gin.TOKEN_CACHE_DIR=FOLDER" in mistake("--run_mode=cache")


def test_packed_rows_are_cached_and_only_for_methods_that_allow_them(tmp_path, bare, monkeypatch):
    packed = ["--gin.TaskData.pack=True", "--gin_file=gin/methods/fine_tuning.gin"]
    with monkeypatch.context() as patch:
        patch.delenv("PYTHONPATH")
        files = cached(tmp_path / "tokens", *packed)
        message = mistake(packed[0], f"--gin.MODEL_DIR={tmp_path / 'prompt'}")
    assert message == "error: PromptTuning needs a row for every example; set TaskData.pack = False"
    done = bare(*packed, files, f"--gin.MODEL_DIR={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    first = figures(tmp_path / "run" / "metrics.jsonl")[0]
    assert first["real_tokens"] > 8 * 9  # more than the 8 rows could hold as one example each
