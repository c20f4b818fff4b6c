"""Classification: one request, from its clip to the decision on disk. Knows no HTTP.

    ClassifyRequest -> intake (an upload comes admitted) -> Serving -> Decisions -> record

A request over HTTP, one of many in a body and a line of a batch are all answered here.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt, ValidationError, model_validator

from calibrate.service.caller import Caller
from calibrate.service.decisions.decisions import Decisions
from calibrate.service.decisions.record import DecisionRecord
from calibrate.service.intake.clips import AdmittedClip, Intake
from calibrate.service.problems import Problem
from calibrate.service.protocols import ClipToClassify
from calibrate.service.serving.champion import CHAMPION
from calibrate.service.serving.serving import Serving
from calibrate.service.serving.together import all_of
from wire.config import Config

MAX_INPUTS = 32
_ID, _TEXT, _ADDRESS = 512, 100_000, 4_096
_DAYS_S = 1e6
Control = Literal["shuffled", "blank", "reversed"]
Second = Annotated[float, Field(ge=0, le=_DAYS_S, allow_inf_nan=False)]
ShortText = Annotated[str, Field(max_length=_TEXT)]


class ClassifySettings(Config):
    """What a request says beside its clip."""

    id: str | None = Field(default=None, min_length=1, max_length=_ID)
    """Seeds the trace: the same id, clip and classifier give the same answer. Default: the clip's
    hash."""
    window: tuple[Second, Second] | None = None
    """First second, and the one before which it ends; none: the whole video."""
    columns: dict[Annotated[str, Field(min_length=1, max_length=_ID)], ShortText] = Field(
        default={}, max_length=64
    )
    """Texts that the classifier's prompts show of each clip, by column."""
    text: ShortText | None = None
    """Text of the clip, where prompts show one."""
    classifier: Annotated[str, Field(min_length=1, max_length=32)] | StrictInt = CHAMPION
    """A version's number, or an alias: champion, challenger, previous."""
    control: Control | None = None
    """Ask again about frames in another order, grey ones, or frames backwards, and compare."""

    @model_validator(mode="after")
    def _has_frames(self) -> "ClassifySettings":
        if self.window is not None and self.window[0] >= self.window[1]:
            raise ValueError(
                f"window {list(self.window)} holds no frame; give [first second, end], end later"
            )
        return self


class VideoPlace(Config):
    """Place of a clip: one of both."""

    path: str | None = Field(default=None, min_length=1, max_length=_ADDRESS)
    """File below a root of the service."""
    url: str | None = Field(default=None, min_length=1, max_length=_ADDRESS)
    """Address at an allowed host."""

    @model_validator(mode="after")
    def _one_place(self) -> "VideoPlace":
        if (self.path is None) == (self.url is None):
            raise ValueError('give either {"path": ...} or {"url": ...}')
        return self


class ClassifyRequest(ClassifySettings):
    """Request about a clip that lies somewhere."""

    video: VideoPlace


class Classification:
    """Answers requests about clips with decisions."""

    def __init__(self, intake: Intake, serving: Serving, decisions: Decisions) -> None:
        self._intake, self._serving, self._decisions = intake, serving, decisions

    async def of_request(
        self,
        request: ClassifyRequest,
        caller: Caller,
        request_id: str,
        *,
        background: bool = False,
    ) -> DecisionRecord:
        """Decision about a clip at a path or URL. Raises Problem."""
        self._serving.refuse_if_full(background=background)  # before anything is fetched
        if request.video.path is not None:
            clip = await self._intake.from_path(request.video.path)
        else:
            clip = await self._intake.from_url(request.video.url or "")
        return await self.of_clip(clip, request, caller, request_id, background=background)

    async def of_clip(
        self,
        clip: AdmittedClip,
        settings: ClassifySettings,
        caller: Caller,
        request_id: str,
        *,
        background: bool = False,
    ) -> DecisionRecord:
        """Decision about a clip that was let in. Raises Problem."""
        sample_id = settings.id if settings.id is not None else clip.video_hash
        asked = ClipToClassify(
            id=sample_id,
            path=clip.path,
            window=settings.window,
            columns=settings.columns,
            text=settings.text,
        )
        try:
            answered = await self._serving.classify(
                asked,
                classifier=str(settings.classifier),
                view=settings.control,
                caller=caller.token_id,
                background=background,
            )
        except Problem as problem:
            raise clip.named(problem) from problem
        clip.refuse_changed(answered.evidence.video_hash)
        return await self._decisions.decide(
            answered,
            clip,
            sample_id=sample_id,
            window=settings.window,
            columns=settings.columns,
            text=settings.text,
            caller=caller,
            request_id=request_id,
            view=settings.control,
        )

    async def of_requests(
        self, requests: Sequence[ClassifyRequest], caller: Caller, request_id: str
    ) -> list[DecisionRecord | Problem]:
        """Decisions in the order of the requests, or the problem in the place of one."""

        async def one(number: int, request: ClassifyRequest) -> DecisionRecord | Problem:
            try:
                return await self.of_request(request, caller, f"{request_id}.{number}")
            except Problem as problem:
                return problem

        return await all_of([one(*pair) for pair in enumerate(requests)])


class BatchLines:
    """Lines of batches, answered behind all other requests."""

    def __init__(self, classification: Classification, decisions: Decisions) -> None:
        self._classification, self._decisions = classification, decisions

    async def classify(
        self, body: Mapping[str, Any], caller: Caller, request_id: str
    ) -> Mapping[str, Any]:
        """The decision about a line's clip. Raises Problem."""
        try:
            request = ClassifyRequest.model_validate(body)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]
            )
            raise Problem(422, "unusable-value", f"the line's body: {faults}") from error
        record = await self._classification.of_request(request, caller, request_id, background=True)
        return record.as_json()

    async def decided(self, request_id: str) -> Mapping[str, Any] | None:
        """The decision that was made for a request before; None: there is none."""
        record = await self._decisions.of_request(request_id)
        return None if record is None else record.as_json()
