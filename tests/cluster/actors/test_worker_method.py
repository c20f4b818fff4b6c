import inspect

import pytest
import ray

from cluster.actors.learner_actor import LearnerActor
from cluster.actors.rollout_actor import RolloutActor
from cluster.actors.worker_method import worker_method
from learner.worker import LearnerWorker
from rollout.worker import RolloutWorker


class Worker:
    def add(self, first: int, second: int = 1) -> int:
        """Sum."""
        return first + second

    async def add_later(self, first: int, *, second: int = 1) -> int:
        return first + second


class Actor:
    add = worker_method(Worker.add)
    add_later = worker_method(Worker.add_later)

    def __init__(self) -> None:
        self.worker = Worker()


async def test_an_actors_method_is_its_workers():
    actor = Actor()
    assert (actor.add(1), actor.add(1, second=2)) == (2, 3)
    assert (await actor.add_later(1), await actor.add_later(1, second=2)) == (2, 3)
    assert Actor.add.__doc__ == "Sum."
    assert inspect.iscoroutinefunction(Actor.add_later)
    assert not inspect.iscoroutinefunction(Actor.add)


@pytest.mark.parametrize(
    ("actor", "worker", "name"),
    [(LearnerActor, LearnerWorker, "train_step"), (RolloutActor, RolloutWorker, "answer")],
)
def test_it_has_the_workers_signature(actor: type, worker: type, name: str):
    assert inspect.signature(getattr(actor, name)) == inspect.signature(getattr(worker, name))


async def test_a_worker_that_is_not_built_yet_is_told():
    actor = RolloutActor(None, "r0")  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"start\(\) comes first"):
        await actor.begin_update()


@pytest.mark.ray
def test_ray_finds_the_methods_and_refuses_wrong_arguments(ray_session: None):
    ray.cloudpickle.register_pickle_by_value(inspect.getmodule(Actor))
    actor = ray.remote(num_cpus=0)(Actor).remote()
    calls = [actor.add.remote(1, second=2), actor.add_later.remote(1, second=2)]
    assert ray.get(calls, timeout=240) == [3, 3]
    with pytest.raises(TypeError, match="third"):
        actor.add.remote(1, third=2)
    ray.kill(actor)
