"""Replicas on a real Ray Serve, with a pipeline of a few lines in place of vLLM's."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from calibrate.decision import Evidence
from calibrate.service.protocols import ClipToClassify
from cluster.classify.machine import Machine
from cluster.serving.machine import ServingMachine
from video.address import Address, View
from wire.errors import ConfigError, GenerationError
from wire.types import Failure, FailureKind, Sample

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


class Scripted:
    """Says which process answers and what the file holds; dies of a clip that says so."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.name, self.is_alive = Path(order["directory"]).name, True

    async def evidence(self, sample: Sample, view: View | None = None) -> Evidence | Failure:
        content = Address.parse(sample.video).path.read_text()
        if content == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if content == "engine":
            self.is_alive = False
            raise GenerationError("an engine's process has ended")
        if content == "damaged":
            return Failure(kind=FailureKind.DECODE, culprit=sample.id, reason="damaged")
        return Evidence(
            trace=f"{self.name} {content} {view}",
            parsed=True,
            logprobs={"policy": (-0.5, float("nan"))},
            frames=(os.getpid(),),
        )


@asynccontextmanager
async def scripted(order: Mapping[str, Any]) -> AsyncIterator[Scripted]:
    if "broken" in order["directory"]:
        raise ConfigError("this classifier cannot be used")
    yield Scripted(order)


@pytest.fixture
def backend(ray_session: None) -> Iterator[Callable[..., Any]]:
    from cluster.serving.ray_replicas import RayServeBackend, Replicas

    made: list[Any] = []

    def make(least: int = 1, most: int = 1) -> Any:
        machine = ServingMachine(machine=Machine(num_threads=1, in_flight=8))
        made.append(RayServeBackend(machine, Replicas(least=least, most=most), opener=scripted))
        return made[-1]

    yield make
    for one in made:
        asyncio.run(one.close())


def clip(folder: Path, content: str) -> ClipToClassify:
    path = folder / f"{content}.mp4"
    path.write_text(content)
    return ClipToClassify(id=content, path=path)


async def test_replicas_answer_typed_survive_deaths_and_end(
    backend: Callable[..., Any], tmp_path: Path
):
    opened = await backend(least=2, most=2).open(tmp_path / "3")
    some = clip(tmp_path, "some")
    answers = await asyncio.gather(*[opened.evidence(some, "blank") for _ in range(20)])
    assert {one.trace for one in answers} == {"3 some blank"}
    first = {one.frames[0] for one in answers}
    assert len(first) == 2, "both replicas answer"
    assert isinstance(await opened.evidence(clip(tmp_path, "damaged")), Failure)

    others = [opened.evidence(some) for _ in range(10)]
    for fault in ("kill", "engine"):  # of one replica after the other; the clip itself stays so
        with pytest.raises(Exception, match="lost"):
            await opened.evidence(clip(tmp_path, fault))
    answers = await asyncio.gather(*others)
    assert {one.trace for one in answers} == {"3 some None"}
    await opened.close()
    with pytest.raises(Exception, match="closed"):
        await opened.evidence(some)


async def test_a_clip_that_the_node_has_not_goes_with_the_request(
    backend: Callable[..., Any], tmp_path: Path
):
    """The replica, another process, sees another file system: the path is there for us alone."""
    opened = await backend().open(tmp_path / "3")
    ours = clip(tmp_path, "ours")
    only_here = ClipToClassify(id="x", path=_OnlyHere(ours.path))
    answer = await opened.evidence(only_here)
    assert answer.trace == "3 ours None"
    with ours.path.open() as file:
        link = tmp_path / "0.mp4"  # as intake names it; in the replica another file, or none
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        for path in (link, link.readlink()):
            answer = await opened.evidence(ClipToClassify(id="x", path=path))
            assert answer.trace == "3 ours None"


class _OnlyHere(type(Path())):  # type: ignore[misc]
    """A path that does not exist where it is unpickled."""

    def __reduce__(self) -> Any:
        return Path, ("/nowhere/clip.mp4",)


async def test_a_classifier_that_does_not_start_says_why(
    backend: Callable[..., Any], tmp_path: Path
):
    with pytest.raises(GenerationError, match="cannot be used"):
        await backend().open(tmp_path / "broken")
