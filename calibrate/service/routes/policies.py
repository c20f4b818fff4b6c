"""Routes of policies: make, read, preview, retire."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from calibrate.service.decisions.outcome import outcome_of
from calibrate.service.policies.policy import ActivePolicy, NewPolicy, Policy
from calibrate.service.problems import Problem
from calibrate.service.routes.context import MayAdmin, MayRead, ServiceDep, problems
from calibrate.service.service import Service
from calibrate.service.state.registered import RegisteredClassifier
from calibrate.thresholds.label_threshold import LabelThreshold
from wire.config import Config

router = APIRouter(prefix="/v1/policies", tags=["policies"])

PolicyId = Annotated[str, Path(min_length=1, max_length=64)]
_LATEST = 1000


class ThresholdShown(Config):
    """Threshold of a policy for one classifier."""

    classifier: int
    """Version."""
    value: float | None
    """Fires at this probability and above; null: never."""
    explanation: str
    """In words: target, n, bound, or what it lacks."""
    num_held_out: int | None = None
    """Held-out clips that it was derived from; null: it could not be."""
    num_fired: int | None = None
    num_counted: int | None = None
    num_wrong: int | None = None
    bound: float | None = None
    num_needed: int | None = None


class PolicyWithThreshold(Policy):
    """Policy, and its threshold for the champion."""

    threshold: ThresholdShown | None = None
    """Null: there is no champion, or the policy is retired."""


class PolicyList(Config):
    """The newest version of each policy."""

    policies: tuple[PolicyWithThreshold, ...]


class PolicyVersions(Config):
    """All versions of a policy."""

    versions: tuple[Policy, ...]


class Effect(Config):
    """What a policy would have done with the newest decisions of a classifier."""

    decisions: int
    """That were looked at, at most 1000."""
    fires: int
    changes: int
    """Whose action would be another than without policies."""


class PolicyPreview(Config):
    """What a policy would be."""

    threshold: ThresholdShown
    effect: Effect


@router.get("")
async def every(service: ServiceDep, _caller: MayRead) -> PolicyList:
    """The newest version of each policy, the retired ones too, with the champion's thresholds."""
    champion = await _champion(service)
    active = {} if champion is None else await _active(service, champion)
    return PolicyList(
        policies=tuple(
            PolicyWithThreshold(**one.model_dump(), threshold=active.get((one.id, one.version)))
            for one in await service.policies.newest()
        )
    )


@router.post("", status_code=201)
async def create(wanted: NewPolicy, service: ServiceDep, caller: MayAdmin) -> PolicyWithThreshold:
    """Make a policy, or the next version of one; it is in force from then on. A threshold that is
    not attainable is no fault: then the policy never fires."""
    champion = await _champion(service)
    policy = await service.policies.create(wanted, caller, champion)
    active = {} if champion is None else await _active(service, champion)
    return PolicyWithThreshold(
        **policy.model_dump(), threshold=active.get((policy.id, policy.version))
    )


@router.post("/preview", responses=problems(404))
async def preview(
    wanted: NewPolicy,
    service: ServiceDep,
    _caller: MayRead,
    classifier: Annotated[str, Query(min_length=1, max_length=64)] = "champion",
) -> PolicyPreview:
    """Threshold that a policy would have for a classifier, and what it would have done with that
    one's newest decisions. Nothing is made."""
    registered = await service.database.run(lambda: service.registry.get(classifier))
    policy = await service.policies.preview(wanted, registered)
    effect = await _effect(service, policy, registered)
    return PolicyPreview(threshold=_shown(policy, registered.version), effect=effect)


@router.get("/{policy_id}", responses=problems(404))
async def versions(policy_id: PolicyId, service: ServiceDep, _caller: MayRead) -> PolicyVersions:
    """All versions of a policy, from the first on."""
    return PolicyVersions(versions=tuple(await service.policies.versions(policy_id)))


@router.get("/{policy_id}/thresholds", responses=problems(404))
async def thresholds(
    policy_id: PolicyId, service: ServiceDep, _caller: MayRead
) -> tuple[ThresholdShown, ...]:
    """Thresholds of a policy's newest version for every registered classifier: what a promotion
    would change."""
    newest = (await service.policies.versions(policy_id))[-1]
    registered = await service.database.run(service.registry.list)
    return tuple(
        [
            _shown(active, one.version)
            for one in registered
            for active in await service.policies.at([(newest.id, newest.version)], one)
        ]
    )


@router.delete("/{policy_id}", responses=problems(404))
async def retire(policy_id: PolicyId, service: ServiceDep, caller: MayAdmin) -> Policy:
    """End a policy: its last version never fires. It stays readable."""
    return await service.policies.retire(policy_id, caller)


async def _champion(service: Service) -> RegisteredClassifier | None:
    try:
        return await service.database.run(lambda: service.registry.get("champion"))
    except Problem:
        return None


async def _active(
    service: Service, classifier: RegisteredClassifier
) -> dict[tuple[str, int], ThresholdShown]:
    return {
        (one.policy.id, one.policy.version): _shown(one, classifier.version)
        for one in await service.policies.active(classifier)
    }


async def _effect(
    service: Service, policy: ActivePolicy, classifier: RegisteredClassifier
) -> Effect:
    latest = await service.decisions.latest(classifier.version, _LATEST)

    def compare() -> Effect:
        with_it = [outcome_of(one.evidence, classifier.calibration, [policy]) for one in latest]
        without = [outcome_of(one.evidence, classifier.calibration) for one in latest]
        return Effect(
            decisions=len(latest),
            fires=sum(one.policies[0].fires for one in with_it),
            changes=sum(
                one.action != other.action for one, other in zip(with_it, without, strict=True)
            ),
        )

    return await service.database.run(compare)


def _shown(active: ActivePolicy, classifier: int) -> ThresholdShown:
    threshold: LabelThreshold | None = active.threshold
    counts = (
        {}
        if threshold is None
        else {
            name: getattr(threshold, name)
            for name in (
                "num_held_out",
                "num_fired",
                "num_counted",
                "num_wrong",
                "bound",
                "num_needed",
            )
        }
    )
    return ThresholdShown(
        classifier=classifier, value=active.value, explanation=active.explanation, **counts
    )
