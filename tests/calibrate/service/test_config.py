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


@pytest.mark.parametrize("host", ["http://media.example.org", "media.example.org/clips", "", "a@b"])
def test_a_host_is_a_name_and_no_url(tmp_path: Path, host: str):
    with pytest.raises(ValueError, match=r"expected a host as media\.example\.org"):
        ServiceConfig(state=tmp_path, url_hosts=(host,))
