"""Names that people read: no folder, no secret, nothing unprintable, short."""

from calibrate.service.intake.names import shown_name, shown_url


def test_a_name_loses_its_folders_and_what_cannot_be_printed() -> None:
    assert shown_name("../../etc/passwd") == "passwd"
    assert shown_name(r"C:\clips\cat.mp4") == "cat.mp4"
    assert shown_name("a\0b\n\x1b[31m\u202e.mp4") == "a?b??[31m?.mp4"
    assert shown_name("") == shown_name("///") == "clip"


def test_a_name_of_10_kb_is_shortened() -> None:
    assert len(shown_name("x" * 10_240)) == 200
    assert shown_name("x" * 10_240).endswith("...")


def test_a_url_loses_its_query_its_fragment_and_a_password() -> None:
    assert shown_url("https://h.example/a/b.mp4?token=s3cret#t=1") == "https://h.example/a/b.mp4"
    assert shown_url("https://me:s3cret@h.example/a.mp4") == "https://h.example/a.mp4"
