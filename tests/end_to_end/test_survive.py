"""The short form of `survive`: one kill of each mode."""

import pytest

from tests.end_to_end import survive


@pytest.mark.slow
def test_what_is_killed_and_run_again_ends_as_if_nothing_had_happened(tmp_path, capsys):
    status = survive.main(["--kills=4", f"--folder={tmp_path}"])
    printed = capsys.readouterr().out
    assert status == 0, printed
    rows = [line.split(" | ") for line in printed.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [(f"| {mode}", "1") for mode in survive.MODES]
