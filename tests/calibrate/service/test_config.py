from pathlib import Path

import pytest
from pydantic import ValidationError

from calibrate.service.config import ServiceConfig


def test_the_defaults_reach_this_machine_alone():
    config = ServiceConfig(state=Path("s"))
    assert (config.host, config.roots, config.url_hosts) == ("127.0.0.1", (), ())


def test_a_private_host_is_an_allowed_host():
    with pytest.raises(ValidationError, match="'files', which is not in url_hosts"):
        ServiceConfig(state=Path("s"), private_url_hosts=("files",))


def test_a_stop_has_time_for_every_accepted_request():
    with pytest.raises(ValidationError, match="would drop accepted requests"):
        ServiceConfig(state=Path("s"), request_timeout_s=200)
