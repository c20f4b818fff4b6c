import pickle

from calibrate.service.problems import Problem


def test_a_problem_has_the_members_of_the_standard_and_its_own():
    problem = Problem(429, "queue-full", "256 clips wait; try again", extra={"waiting": 256})
    assert problem.as_json("/v1/classify") == {
        "type": "urn:deepintuit:problem:queue-full",
        "title": "Queue full",
        "status": 429,
        "detail": "256 clips wait; try again",
        "instance": "/v1/classify",
        "waiting": 256,
    }


def test_a_problem_crosses_processes():
    problem = Problem(503, "engine-unavailable", "later", headers={"Retry-After": "3"})
    again = pickle.loads(pickle.dumps(problem))
    assert (again.status, again.slug, again.detail) == (503, "engine-unavailable", "later")
    assert again.headers == {"Retry-After": "3"}
