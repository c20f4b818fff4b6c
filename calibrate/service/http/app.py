"""Application of the service: its routes behind the gate."""

from fastapi import FastAPI

from calibrate.service.http import faults
from calibrate.service.http.gate import Gate
from calibrate.service.http.openapi import describe
from calibrate.service.http.replays import Replays
from calibrate.service.routes import (
    audit,
    batches,
    classifiers,
    classify,
    decisions,
    files,
    fits,
    frames,
    health,
    page,
    policies,
    reviews,
    shift,
    splits,
    tokens,
    traces,
)
from calibrate.service.service import Service

_ROUTERS = (
    audit.router,
    batches.router,
    classifiers.router,
    classify.router,
    decisions.router,
    files.router,
    fits.router,
    frames.router,
    health.router,
    page.router,
    policies.router,
    reviews.router,
    shift.router,
    splits.router,
    tokens.router,
    traces.router,
)
"""Each part adds its own."""


def make_app(service: Service) -> FastAPI:
    """The ASGI application of an open service. The pages of FastAPI that load scripts from
    elsewhere are off; ``/openapi.json`` needs a token, as all but health and the empty page."""
    app = FastAPI(
        title="DeepIntuit calibration service",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    faults.add_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    describe(app)
    app.add_middleware(Replays, service=service)
    app.add_middleware(Gate, service=service)
    return app
