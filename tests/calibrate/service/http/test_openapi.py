from pathlib import Path

import httpx

from calibrate.service.http.gate import OPEN_PATHS
from tests.calibrate.service.running import make_config, running


def test_every_operation_says_its_scope_and_its_problems(tmp_path: Path):
    with running(make_config(tmp_path)) as service:
        schema = httpx.get(f"{service.url}/openapi.json", headers=service.headers()).json()
    assert schema["components"]["schemas"]["Problem"]["required"][0] == "type"
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            content = operation["responses"]["500"]["content"]
            assert list(content) == ["application/problem+json"]
            assert ("security" in operation) == (path not in OPEN_PATHS), path
    assert schema["paths"]["/metrics"]["get"]["security"] == [{"token": ["read"]}]
