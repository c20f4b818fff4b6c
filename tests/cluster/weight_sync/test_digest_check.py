from collections.abc import Sequence

from cluster.actors.learner_actor import WeightSyncResult
from cluster.weight_sync.digest_check import DigestCheck
from rollout.engine import WeightDigests
from wire.errors import WorkerDied

OLD = {"q": 1, "k": 2}
NEW = {"q": 3, "k": 2}


class Engines:
    """Digests of each engine: the tensors that it was given to load, and what it keeps."""

    def __init__(self, *names: str) -> None:
        self.loaded = dict.fromkeys(names, OLD)
        self.resident = dict.fromkeys(names, 7)
        self.dead: set[str] = set()

    async def weight_digests(self, name: str) -> list[WeightDigests]:
        if name in self.dead:
            raise WorkerDied(f"{name} ended")
        return [WeightDigests(loaded=self.loaded[name], resident=self.resident[name])] * 2

    def take(self, loaded: dict[str, int], resident: int, names: Sequence[str]) -> None:
        for name in names:
            self.loaded[name], self.resident[name] = loaded, resident


def sent(digests: dict[str, int]) -> WeightSyncResult:
    return WeightSyncResult(failures={}, figures={}, digests=digests)


async def test_engines_that_loaded_what_was_sent_pass_update_after_update():
    engines = Engines("a", "b")
    check = DigestCheck(engines)  # type: ignore[arg-type]
    for step, digests in enumerate([OLD, NEW, NEW, OLD]):
        engines.take(digests, digests["q"] * 10, ["a", "b"])
        assert not (await check.checked(sent(digests), ["a", "b"])).failures, step


async def test_an_engine_with_older_weights_fails_by_the_name_of_a_tensor():
    engines = Engines("a", "b")
    check = DigestCheck(engines)  # type: ignore[arg-type]
    engines.take(NEW, 8, ["a"])
    failures = (await check.checked(sent(NEW), ["a", "b"])).failures
    assert list(failures) == ["b"]
    assert "1 of 2 tensors" in failures["b"]
    assert "q has other values" in failures["b"]


async def test_tensors_that_traded_places_or_were_left_out_fail():
    engines = Engines("a", "b", "c")
    check = DigestCheck(engines)  # type: ignore[arg-type]
    engines.loaded |= {"a": {"q": 2, "k": 1}, "b": {"q": 1}, "c": {**OLD, "v": 5}}
    failures = (await check.checked(sent(OLD), ["a", "b", "c"])).failures
    assert "2 of 2 tensors" in failures["a"]
    assert "k was not loaded" in failures["b"]
    assert "v was not sent" in failures["c"]


async def test_an_engine_that_loads_and_keeps_the_old_weights_fails():
    engines = Engines("a")
    check = DigestCheck(engines)  # type: ignore[arg-type]
    assert not (await check.checked(sent(OLD), ["a"])).failures
    engines.take(NEW, 7, ["a"])
    for _ in range(2):  # the second try too
        failures = (await check.checked(sent(NEW), ["a"])).failures
        assert "did not change with this update" in failures["a"]
    engines.take(NEW, 8, ["a"])
    assert not (await check.checked(sent(NEW), ["a"])).failures


async def test_an_engine_whose_weights_change_by_themselves_fails():
    engines = Engines("a")
    check = DigestCheck(engines)  # type: ignore[arg-type]
    await check.checked(sent(OLD), ["a"])
    engines.take(OLD, 9, ["a"])
    assert "changed with this update" in (await check.checked(sent(OLD), ["a"])).failures["a"]


async def test_engines_that_failed_already_and_runs_without_digests_are_not_asked():
    engines = Engines("a", "b")
    engines.dead = {"b"}
    check = DigestCheck(engines)  # type: ignore[arg-type]
    failed = WeightSyncResult(failures={"b": "arrived damaged"}, figures={}, digests=OLD)
    assert (await check.checked(failed, ["a", "b"])).failures == {"b": "arrived damaged"}
    assert (await check.checked(sent({}), ["a", "b"])).failures == {}
    assert "b ended" in (await check.checked(sent(OLD), ["a", "b"])).failures["b"]
