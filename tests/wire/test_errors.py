import pytest

from wire.errors import (
    ConfigError,
    DataError,
    PeersLost,
    RankDied,
    RankHung,
    WorkerDied,
    root_causes,
)


def test_an_error_of_its_own_is_its_root_cause() -> None:
    error = DataError("a clip")
    assert root_causes(error) == [error]


def test_the_errors_of_nested_groups_come_in_their_order() -> None:
    one, two, three = ConfigError("1"), WorkerDied("2"), KeyboardInterrupt()
    inner = BaseExceptionGroup("inner", [two, three])
    assert root_causes(BaseExceptionGroup("outer", [one, inner])) == [one, two, three]


def test_what_ray_wrapped_counts_instead_of_the_wrapper() -> None:
    wrapper, cause = RuntimeError("task failed"), DataError("a clip")
    wrapper.cause = cause  # type: ignore[attr-defined]
    assert root_causes(ExceptionGroup("group", [wrapper])) == [cause]
    wrapper.cause = None  # type: ignore[attr-defined]
    assert root_causes(wrapper) == [wrapper]


@pytest.mark.parametrize("kind", [RankDied, RankHung, PeersLost])
def test_a_lost_rank_is_its_own_root_cause_though_it_names_why(
    kind: type[RankDied | RankHung | PeersLost],
) -> None:
    error = kind("rank 0 is lost; learner.max_restarts = 5 are used up; --resume goes on")
    assert root_causes(ExceptionGroup("loops", [error])) == [error]
