import httpx
import pytest

from calibrate.service.http.fingerprint import Fingerprint


def of_form(
    name: str, data: bytes, boundary: str, *, chunk: int = 10_000, query: bytes = b""
) -> str:
    request = httpx.Request(
        "POST",
        "http://h/",
        files={"video": (name, data)},
        data={"id": "a"},
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    content = request.read()
    assert boundary.encode() in content
    fingerprint = Fingerprint(request.headers["content-type"], query)
    for start in range(0, len(content), chunk):
        fingerprint.add(content[start : start + chunk])
    assert not fingerprint.broken
    return fingerprint.hex()


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_a_retry_of_a_form_under_another_boundary_has_the_same_fingerprint(chunk: int):
    first = of_form("a.mp4", b"\r\n--x" * 500, "one")
    assert of_form("a.mp4", b"\r\n--x" * 500, "another", chunk=chunk) == first


def test_other_data_names_and_queries_have_other_fingerprints():
    prints = {
        of_form("a.mp4", b"data", "b"),
        of_form("b.mp4", b"data", "b"),
        of_form("a.mp4", b"date", "b"),
        of_form("a.mp4", b"data", "b", query=b"x=1"),
    }
    assert len(prints) == 4


def test_a_body_that_only_says_it_is_a_form_has_none():
    fingerprint = Fingerprint("multipart/form-data; boundary=b", b"")
    fingerprint.add(b"no form at all")
    assert fingerprint.broken


def test_a_form_whose_boundary_is_too_long_has_none():
    assert Fingerprint(f"multipart/form-data; boundary={'b' * 300}", b"").broken
