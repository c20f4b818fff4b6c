import socket

import pytest

from cluster.actors.ray_address import answers, ray_answers


def test_an_address_answers_while_something_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
        assert ray_answers(f"127.0.0.1:{port}")
        assert ray_answers(f"ray://127.0.0.1:{port}")
    assert not answers("127.0.0.1", port)
    assert not ray_answers(f"ray://127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["auto", "local", "host:port"])
def test_a_form_that_only_ray_knows_is_left_to_ray(address: str):
    assert ray_answers(address)
