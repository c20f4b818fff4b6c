import errno
import json

import pytest
from fastapi.exceptions import RequestValidationError

from calibrate.service.http.faults import problem_of, respond
from wire.errors import DataError, WorkerDied


def test_an_unforeseen_error_tells_its_id_alone_and_the_log_has_the_rest(
    caplog: pytest.LogCaptureFixture,
):
    problem = problem_of(ZeroDivisionError("secret"))
    assert problem.status == 500
    assert "secret" not in json.dumps(problem.as_json())
    assert problem.extra["error_id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


def test_faults_of_values_say_where_they_stand_and_hold_no_text_that_cannot_be_written():
    error = RequestValidationError(
        [{"loc": ("body", 0, "\ud800"), "msg": "not so", "type": "t", "input": b"\xff"}] * 60
    )
    problem = problem_of(error)
    assert problem.extra["faults"][0] == {"where": ["body", 0, "?"], "what": "not so"}
    assert len(problem.extra["faults"]) == 50
    assert json.loads(bytes(respond(problem, "/v1/x").body))["status"] == 422


def test_errors_of_the_parts_have_their_status():
    assert problem_of(DataError("no such column")).status == 422
    died = problem_of(WorkerDied("the engine ended"))
    assert (died.status, died.slug, died.headers["Retry-After"]) == (503, "engine-unavailable", "5")


def test_a_full_disk_is_told_as_one_whatever_was_written():
    assert problem_of(OSError(errno.ENOSPC, "No space left on device")).status == 507
    assert problem_of(OSError(errno.EIO, "Input/output error")).status == 500
