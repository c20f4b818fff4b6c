"""A bucket of moto's S3 server, over real HTTP. (No test file.)"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest


@contextmanager
def s3_bucket(name: str = "yard") -> Iterator[str]:
    """An empty bucket while the block runs; its address."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(variable, value)
        httpx.post(f"http://{host}:{port}/moto-api/reset")  # its state outlives a server
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(name)
        yield f"s3://{name}"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()
