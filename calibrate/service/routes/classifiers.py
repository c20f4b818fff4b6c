"""Routes of classifiers: the registry's versions, and the aliases that move between them.

Answers follow ``champion`` from the moment that a promotion has returned; a request names its
version with ``classifier`` (routes/classify.py).
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from calibrate.classifier import classifier_of_run
from calibrate.service.problems import Problem
from calibrate.service.routes.context import MayAdmin, MayFit, MayRead, ServiceDep, problems
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.service.state.registry import Promotion
from calibrate.service.state.roots import MAX_PATH, directory_below

router = APIRouter(prefix="/v1", tags=["classifiers"])

Ref = Annotated[str, InPath(max_length=32, description="A version's number, or an alias")]


class ClassifierSummary(BaseModel):
    """Registered classifier, in short."""

    version: int
    hash: str
    name: str
    method: str
    policy_version: str
    source: str
    created_at: str
    created_by: str
    label_names: list[str]
    figures: dict[str, Any]
    """``headline``: numbers by name, null where nothing was measured."""


class Aliases(BaseModel):
    """Versions that have an alias; null: none has it."""

    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None


class ClassifierList(BaseModel):
    """All versions, from the first on."""

    classifiers: list[ClassifierSummary]
    aliases: Aliases


class ToRegister(BaseModel):
    """Classifier to register."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    path: str = Field(min_length=1, max_length=MAX_PATH)
    """Directory of a published classifier, or of a run, below a root of the service."""


class Challenger(BaseModel):
    """Version to propose in the champion's place."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=1, le=2**63 - 1)


class ChampionChange(BaseModel):
    """Promotion or roll-back to make."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    expected_champion: int | None = Field(default=None, ge=1, le=2**63 - 1)
    """Version that must be champion now, else 409: so a change that another one overtook, or that
    is sent twice, is not made. Not given: whichever it is."""
    reason: str = Field(default="", max_length=2000)
    """Stands in the audit log."""


@router.get("/classifiers")
async def every(service: ServiceDep, _caller: MayRead) -> ClassifierList:
    """All versions with their headline figures, and the aliases."""
    known = await service.database.run(service.registry.list)
    aliases = await service.database.run(service.registry.aliases)
    return ClassifierList(
        classifiers=[_summary(one, whole=False) for one in known], aliases=Aliases(**aliases)
    )


@router.get("/classifiers/{ref}", responses=problems(404))
async def one(ref: Ref, service: ServiceDep, _caller: MayRead) -> ClassifierSummary:
    """One version with all its figures: of its evaluation, its calibration, its prediction sets and
    its threshold."""
    return _summary(await service.database.run(lambda: service.registry.get(ref)), whole=True)


@router.post(
    "/classifiers",
    status_code=201,
    responses={
        200: {"model": ClassifierSummary, "description": "It was registered before"},
        **problems(404, 507),
    },
)
async def register(
    given: ToRegister, service: ServiceDep, caller: MayFit, response: Response
) -> ClassifierSummary:
    """Register a published classifier: all its bytes are checked, which takes as long as reading
    its weights. It answers to its number at once; promote it to make it the champion."""
    directory = _published(given.path, service.config.roots)
    async with service.registry.turn:
        before = {one.version for one in await service.database.run(service.registry.list)}
        try:
            taken = await asyncio.to_thread(
                service.registry.register, directory, source=given.path, by=caller.name
            )
        except OSError as error:
            raise _unreadable(given.path, error) from error
    response.headers["Location"] = f"/v1/classifiers/{taken.version}"
    response.status_code = 200 if taken.version in before else 201
    return _summary(taken, whole=True)


@router.post("/classifiers/{version}/promote", responses=problems(404, 409))
async def promote(
    version: Annotated[int, InPath(ge=1, le=2**63 - 1)],
    service: ServiceDep,
    caller: MayAdmin,
    given: ChampionChange | None = None,
) -> Promotion:
    """Make a version the champion. It is loaded first, then made champion in one transaction; no
    request fails meanwhile, and each is answered by one version. If it does not start, all stays as
    it was (503). The champion before it becomes ``previous``."""
    given = given or ChampionChange()
    return await service.serving.promote(
        version,
        by=caller.name,
        reason=given.reason,
        expected_champion=given.expected_champion,
    )


@router.post("/aliases/champion/rollback", responses=problems(409))
async def roll_back(
    service: ServiceDep, caller: MayAdmin, given: ChampionChange | None = None
) -> Promotion:
    """Make the previous champion the champion again, as a promotion does. A second roll-back takes
    it back."""
    given = given or ChampionChange()
    return await service.serving.roll_back(
        by=caller.name, reason=given.reason, expected_champion=given.expected_champion
    )


@router.get("/aliases")
async def aliases(service: ServiceDep, _caller: MayRead) -> Aliases:
    """Versions of champion, challenger and previous."""
    return Aliases(**await service.database.run(service.registry.aliases))


@router.put("/aliases/challenger", responses=problems(404, 409))
async def propose(given: Challenger, service: ServiceDep, caller: MayFit) -> Aliases:
    """Propose a version as challenger."""
    return Aliases(
        **await service.database.run(
            lambda: service.registry.set_challenger(given.version, by=caller.name)
        )
    )


@router.delete("/aliases/challenger")
async def withdraw(service: ServiceDep, caller: MayFit) -> Aliases:
    """Withdraw the challenger, if there is one."""
    return Aliases(
        **await service.database.run(lambda: service.registry.set_challenger(None, by=caller.name))
    )


def _published(text: str, roots: tuple[Path, ...]) -> Path:
    """Directory of a classifier, given itself or by its run. Raises Problem, DataError."""
    directory = directory_below(roots, text)
    try:
        if (directory / "run.json").is_file():
            return directory_below(roots, classifier_of_run(directory))
    except OSError as error:
        raise _unreadable(text, error) from error
    return directory


def _unreadable(text: str, error: OSError) -> Problem:
    return Problem(
        422,
        "classifier-unreadable",
        f"{text[:200]!r} cannot be read by the service: {error.strerror}; give it the right to",
    )


def _summary(one: RegisteredClassifier, *, whole: bool) -> ClassifierSummary:
    return ClassifierSummary(**one.as_json(whole=whole))
