"""Thirty random histories of a work directory each come to what a fresh run comes to; see walk.py for more of them."""

import json

from tests.histories import walk

WALKS, FIRST = 30, 399  # of the first 500 the thirty that take least and have each kind of accident among them


def test_any_history_comes_to_what_a_fresh_run_comes_to(tmp_path):
    """No difference, no traceback, no advice that leads nowhere, and no run that never ends."""
    out = tmp_path / "histories.json"
    code = walk.main([f"--walks={WALKS}", f"--first={FIRST}", "--jobs=2", f"--cache={tmp_path / 'cache'}", f"--out={out}"])
    found = json.loads(out.read_text())
    assert found["walks"] == WALKS
    assert found["failed"] == [] and code == 0
