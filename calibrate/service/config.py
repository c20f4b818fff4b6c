"""Settings of the calibration service: where it listens, what it lets in, and its limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from wire.config import Config

_MB = 2**20
DATABASE_FILE = "service.sqlite"


class RateLimit(Config):
    """Rate limit of each token: a bucket of ``burst`` requests that fills at ``per_second``."""

    per_second: float = Field(default=200.0, gt=0, allow_inf_nan=False)
    """Requests per second in the long run."""
    burst: int = Field(default=400, ge=1)
    """Requests at once after a rest."""


class ServiceConfig(Config):
    """Settings of the service. Only ``state`` has no default."""

    state: Path
    """Directory of its database, uploads and registered classifiers; one service at a time."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; the default is reached from this machine alone."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """0: a free one."""
    roots: tuple[Path, ...] = ()
    """Directories below which requests may name clips, archives and classifiers by path."""
    url_hosts: tuple[str, ...] = ()
    """Hosts that clips may be fetched from."""
    private_url_hosts: tuple[str, ...] = ()
    """Those of them that may have a private or loopback address."""
    url_timeout_s: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Time in which a clip is fetched from its URL."""
    archives: Mapping[str, Path] = Field(default_factory=dict)
    """Trace archives (run directories, too) by name: to browse, and to fit from."""

    max_body_bytes: int = Field(default=512 * _MB, ge=1)
    """Bytes of one upload request."""
    max_json_bytes: int = Field(default=4 * _MB, ge=1)
    """Bytes of one request without an upload."""
    max_batch_file_bytes: int = Field(default=200 * _MB, ge=1)
    """Bytes of one batch file."""
    max_clip_bytes: int = Field(default=512 * _MB, ge=1)
    """Bytes of one clip, however it comes."""
    max_seconds: float = Field(default=3_600.0, gt=0, allow_inf_nan=False)
    """Length of a clip."""
    max_frames: int = Field(default=500_000, ge=1)
    """Frames of a clip."""
    max_pixels: int = Field(default=8_192 * 4_320, ge=1)
    """Pixels of one frame."""

    max_queue: int = Field(default=256, ge=1)
    """Clips that may wait for a classifier; one more is refused (429)."""
    max_in_flight: int = Field(default=64, ge=1)
    """Clips that a classifier answers at a time; 256 suit GPUs."""
    max_requests: int = Field(default=1_024, ge=1)
    """Requests in progress at a time; one more is refused (503)."""
    request_timeout_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Time in which a clip is answered, or refused (503)."""
    body_timeout_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Time without a byte after which an upload is given up (408)."""
    drain_timeout_s: float = Field(default=150.0, gt=0, allow_inf_nan=False)
    """Time that accepted requests have when the service stops."""
    rate: RateLimit = RateLimit()
    """Requests of each token."""
    idempotency_hours: float = Field(default=24.0, gt=0, allow_inf_nan=False)
    """Time for which the answer to an Idempotency-Key is kept."""

    max_loaded: int = Field(default=1, ge=1)
    """Classifiers loaded at once: with 1, another than the champion is not answered from, and a
    promotion closes the old one before it opens the new one."""
    clip_store_gb: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Disk for uploaded clips; the least recently used go first, never those under review."""
    audit_share: float = Field(default=0.02, ge=0, le=1)
    """Share of automatic decisions, drawn at random, that people look at all the same."""
    double_blind_share: float = Field(default=0.05, ge=0, le=1)
    """Share of reviews that a second person does without seeing the first one's answer."""

    max_fits: int = Field(default=1, ge=1)
    """Fits at a time; the others wait."""
    fit_cpus: int | None = Field(default=None, ge=1)
    """Cores of this machine for fits, apart from those of serving. Not set: half of them, which
    serving may use as well, before the fits."""
    fit_gpus: tuple[int, ...] = ()
    """Indices of the GPUs for fits, apart from those of serving; none: fits use CPU cores."""

    @property
    def database(self) -> Path:
        """File of the database."""
        return self.state / DATABASE_FILE

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if wrong := [host for host in self.url_hosts if not host or set(host) & set("/@?# ")]:
            raise ValueError(
                f"url_hosts has {wrong[0]!r}; expected a host as media.example.org, or with a port "
                "as media.example.org:8443"
            )
        if unknown := [host for host in self.private_url_hosts if host not in self.url_hosts]:
            raise ValueError(
                f"private_url_hosts has {unknown[0]!r}, which is not in url_hosts; add it there"
            )
        if self.drain_timeout_s < self.request_timeout_s:
            raise ValueError(
                f"drain_timeout_s={self.drain_timeout_s} is below request_timeout_s="
                f"{self.request_timeout_s}, so that a stop would drop accepted requests; raise it"
            )
        return self
