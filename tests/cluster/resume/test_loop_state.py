from pathlib import Path

import pytest

from cluster.resume.loop_state import LOOP_FILE, Ancestor, LoopState
from wire.errors import UserError

STATE = LoopState(
    step=40,
    next_index=2560,
    buffered=("grpo/00002560",),
    journal_position=2561,
    ancestors=(Ancestor(attempt=0, until=41),),
    score=1.25,
)


@pytest.mark.parametrize("state", [STATE, LoopState()])
def test_a_state_is_read_as_it_was_written(tmp_path: Path, state: LoopState):
    (tmp_path / LOOP_FILE).write_text(state.to_json())
    assert LoopState.read(tmp_path) == state


@pytest.mark.parametrize("text", [None, "", "{", '{"step": "many"}'])
def test_a_state_that_cannot_be_read_is_named_with_its_remedy(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / LOOP_FILE).write_text(text)
    with pytest.raises(
        UserError, match=r"(?s)loop\.json does not say .*; use an earlier checkpoint"
    ):
        LoopState.read(tmp_path)
