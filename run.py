"""Runs frozen_jax from gin files: trains a module around a frozen LM, evaluates it, or lets it answer.

    python run.py --gin_file=gin/runs/quickstart.gin --gin.MODEL_DIR=/tmp/quickstart
    python run.py --gin_file=... --run_mode=eval|infer|inspect_prompts, --dry_run, --gin.NAME=value
    python run.py --run_mode=curves --gin.MODEL_DIR=... --gin.curves.runs=...
    python run.py --run_mode=plan --gin_file=... --topology=v5p:4x4x4
    python run.py --run_mode=inspect --gin.MIXTURE_OR_TASK_NAME=sst2_from_validation
    python run.py --gin_file=... --distributed [--coordinator_address=HOST:PORT --process_count=N --process_index=I]

Flags and gin, then one function of frozen_jax. Nothing else lives here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from launch import parent

if __name__ == "__main__":
    if parent.is_wanted(sys.argv):  # it needs nothing of what follows: JAX takes seconds
        sys.exit(parent.run([sys.executable, *sys.argv]))
    parent.die_with()

import gin

from frozen_jax import cloud_storage, distributed, gin_config, preemption, runs
from frozen_jax.errors import UserError
from frozen_jax.runs import environment


def main(arguments: Sequence[str]) -> int:
    """Runs what the command line asks for and returns the exit status.

    It is 0, 2 for a user's mistake, or 75 after SIGTERM, when the same command goes on where this one has stopped.
    """
    flags, rest = _parser().parse_known_args(arguments)
    preemption.listen()
    try:
        files = [os.path.join(os.path.dirname(__file__), name) for name in runs.GIN_FILES.get(flags.run_mode, [])]
        gin_config.parse([*files, *flags.gin_file], _bindings(flags, rest), flags.gin_search_paths.split(","))
        if flags.distributed:
            _join_others(flags)
        environment.prepare()
        with distributed.ends_explained(), gin_config.required_bindings_named(), cloud_storage.refusals_explained():
            runs.MODES["dry_run" if flags.dry_run else flags.run_mode]()
    except (UserError, OSError, FloatingPointError) as error:  # the last two: forbidden folders, scores of nan
        print(f"error: {gin_config.one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except preemption.Preempted as told:
        print(f"preempted: {told}", file=sys.stderr)
        return preemption.EXIT_STATUS
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gin_file", action="append", default=[], help="a gin file; may be given again")
    parser.add_argument("--gin_search_paths", default=".", help="folders for gin files, separated by commas")
    parser.add_argument("--run_mode", choices=sorted(runs.MODES), default="train")
    parser.add_argument("--dry_run", action="store_true", help="show what would be done, then exit")
    parser.add_argument(
        "--profile_steps", type=int, default=0, help="trace so many training steps into MODEL_DIR/profile"
    )
    parser.add_argument("--topology", action="append", default=[], help="plan for v5p:4x4x4; several are compared")
    parser.add_argument(
        "--smallest", action="store_true", help="plan for the smallest slice of --topology=v5p that fits"
    )
    parser.add_argument("--distributed", action="store_true", help="one process of several, one a host")
    parser.add_argument("--coordinator_address", help="HOST:PORT of process 0, where the pod does not tell")
    parser.add_argument("--process_count", type=int, help="of how many processes, where the pod does not tell")
    parser.add_argument("--process_index", type=int, help="which of them, where the pod does not tell")
    return parser


def _bindings(flags: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """What gin is told beside its files: --gin.NAME=value, and flags that stand for such."""
    if unknown := [argument for argument in rest if not argument.startswith("--gin.")]:
        raise UserError(f"unknown argument {unknown[0]!r}; see python run.py --help")
    bindings = [argument.removeprefix("--gin.") for argument in rest]
    if flags.profile_steps:
        bindings.append(f"train.profile_steps={flags.profile_steps}")
    if flags.run_mode == "plan":
        bindings += [f"plan.topologies={flags.topology}", f"plan.smallest={flags.smallest}"]
    elif flags.topology or flags.smallest:
        raise UserError("--topology and --smallest are for --run_mode=plan")
    return bindings


def _join_others(flags: argparse.Namespace) -> None:
    """Connects this process with the others of its run."""
    if flags.run_mode not in runs.SEVERAL_PROCESSES:
        known = ", ".join(runs.SEVERAL_PROCESSES)
        raise UserError(f"--run_mode={flags.run_mode} is the work of one process; --distributed is for {known}")
    settings = f"{flags.run_mode} {flags.dry_run}\n{gin.config_str()}"
    where = flags.coordinator_address, flags.process_count, flags.process_index
    found = distributed.start(*where, settings=settings)
    parent.greet({process.index: process.host for process in found})


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    if status:
        # Everything is closed; threads that libraries leave behind have nothing to add to the one line.
        sys.stderr.flush()
        distributed.part()
        os._exit(status)
    sys.exit(status)
