"""Every check of `python -m tests.gpu` on this machine's card."""

from pathlib import Path

import pytest

from tests.gpu.catalogue import CHECKS, Check
from tests.gpu.run import Run


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_passes_on_the_card(check: Check, tmp_path: Path):
    run = Run("cuda", tmp_path / "rows.jsonl")
    run.take_all([check], check.seconds)
    assert (run.failed, run.out_of_time) == (0, False), (tmp_path / "rows.jsonl").read_text()
