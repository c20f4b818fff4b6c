"""Routes of health and metrics: whether the process lives, whether it can answer, its figures."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from calibrate.service.problems import Problem
from calibrate.service.routes.context import MayRead, ServiceDep, problems

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Health of the service."""

    status: Literal["live", "ready"]


@router.get("/v1/health/live")
async def live() -> Health:
    """Whether the process answers. No token needed."""
    return Health(status="live")


@router.get("/v1/health/ready", responses=problems(503))
async def ready(service: ServiceDep) -> Health:
    """Whether a clip would be answered now; 503 with the reason while it loads or stops. No token
    needed."""
    if reasons := service.not_ready():
        raise Problem(503, "not-ready", "; ".join(reasons), headers={"Retry-After": "5"})
    return Health(status="ready")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(service: ServiceDep, _caller: MayRead) -> Response:
    """Figures of the service, in Prometheus' text format."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
