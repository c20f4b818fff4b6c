from collections.abc import Iterator
from pathlib import Path

import pytest

from calibrate.service.problems import Problem
from calibrate.service.state.database import Database
from calibrate.service.state.idempotency import SCHEMA, IdempotencyKeys, KeyScope, StoredAnswer

SCOPE = KeyScope(caller="tok_1", route="POST /v1/fits", key="k")
ANSWER = StoredAnswer(
    fingerprint="f", status=202, content_type="application/json", location="/v1/fits/1", body=b"{}"
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database.open(tmp_path / "s.sqlite", [SCHEMA])
    yield database
    database.close()


async def test_a_kept_answer_is_there_for_its_scope_alone_and_for_its_time(database: Database):
    now = 1000.0
    keys = IdempotencyKeys(database, keep_s=60, now=lambda: now)
    assert await keys.claim(SCOPE) is None
    await keys.keep(SCOPE, ANSWER)
    assert await keys.claim(SCOPE) == ANSWER
    for other in (
        KeyScope(caller="tok_2", route=SCOPE.route, key="k"),
        KeyScope(caller="tok_1", route="POST /v1/classify", key="k"),
    ):
        assert await keys.claim(other) is None
    now = 1061.0
    assert await keys.claim(SCOPE) is None


async def test_a_key_is_refused_while_it_is_answered_and_free_after_a_failure(database: Database):
    keys = IdempotencyKeys(database, keep_s=60)
    assert await keys.claim(SCOPE) is None
    with pytest.raises(Problem, match="is being answered") as refusal:
        await keys.claim(SCOPE)
    assert refusal.value.status == 409
    keys.release(SCOPE)
    assert await keys.claim(SCOPE) is None


async def test_a_start_after_a_kill_frees_keys_in_progress_and_keeps_answers(database: Database):
    killed = IdempotencyKeys(database, keep_s=60)
    other = KeyScope(caller="tok_1", route=SCOPE.route, key="answered")
    await killed.claim(SCOPE)
    await killed.claim(other)
    await killed.keep(other, ANSWER)
    again = IdempotencyKeys(database, keep_s=60)
    assert await again.claim(SCOPE) is None
    assert await again.claim(other) == ANSWER
