"""What a run sets in its process: JAX's compilation cache, and that only the run itself speaks."""

from __future__ import annotations

import glob
import importlib.util
import inspect
import logging
import os
import sys
from types import ModuleType, TracebackType

import jax

from frozen_jax import processes
from frozen_jax.errors import UserError
from frozen_jax.silence import without_stderr
from frozen_jax.wheels import cache_folder

_CACHE_BYTES = 4 * 2**30
_TPU_FILES = ("/dev/accel*", "/dev/vfio/*")  # of a machine that has one


def prepare() -> None:
    """Keeps compiled programs from run to run, and silences what libraries print beside the errors that they raise.

    Of several processes the first speaks to people; the others say on stderr what is wrong with them.
    """
    if not processes.is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the process ends
    _keep_compiled_programs()
    _drop_noise()
    if importlib.util.find_spec("libtpu") and not any(map(glob.glob, _TPU_FILES)):
        with without_stderr():  # libtpu tells that there is no TPU, in five lines
            jax.devices()


def _keep_compiled_programs() -> None:
    """Under `$FROZEN_JAX_CACHE`, unless JAX_COMPILATION_CACHE_DIR names another place, or is empty for none."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)  # a bound also makes JAX lock it: runs share it


def _drop_noise() -> None:
    """Where a save or a restore fails, orbax raises the error; dozens of its coroutines, left behind, print theirs.

    So do TensorStore's threads, which find the event loop closed that they were to report to. Which hook they reach is
    a matter of time: the one for exceptions, or the one for what nobody can catch.
    """
    report, report_ignored = sys.excepthook, sys.unraisablehook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _of_closed_loop(error):
            report(kind, error, trace)

    def ignored_hook(ignored: sys.UnraisableHookArgs) -> None:
        if not inspect.iscoroutine(ignored.object) and not _of_closed_loop(ignored.exc_value):
            report_ignored(ignored)

    sys.excepthook, sys.unraisablehook = hook, ignored_hook
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # "Future exception was never retrieved"


def _of_closed_loop(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def import_data() -> ModuleType:
    """Imports `frozen_jax.data`, and with it seqio and TensorFlow: 15 seconds, 1 GB.

    TensorFlow writes to stderr as it is loaded and as it looks for GPUs, before any of its settings count. It shall not
    have the GPUs: JAX does.

    Raises:
        UserError: on a host without them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with without_stderr():
            from frozen_jax import data

            data.tf.config.set_visible_devices([], "GPU")
    except ModuleNotFoundError as error:
        raise UserError(
            f"tasks are read with seqio and TensorFlow, which this host lacks ({error}); make token files where they "
            "are, with --run_mode=cache, and set TOKEN_CACHE_DIR"
        ) from error
    return data
