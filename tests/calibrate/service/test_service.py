from pathlib import Path

import pytest

from calibrate.service.service import open_service
from tests.calibrate.service.running import make_config, make_parts
from wire.errors import ConfigError


async def test_a_state_directory_has_one_service(tmp_path: Path):
    config = make_config(tmp_path)
    async with open_service(config, make_parts()):
        with pytest.raises(ConfigError, match="another service uses"):
            async with open_service(config, make_parts()):
                pass
    async with open_service(config, make_parts()) as service:
        await service.start()
        assert service.not_ready() == ["there is no champion: register a classifier and promote it"]
        service.draining = True
        assert service.not_ready() == ["the service is stopping"]
