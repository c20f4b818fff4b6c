import pytest

from cluster.driver.progress import (
    Progress,
    error_console,
    progress_bar,
    progress_listener,
)


def test_the_time_left_follows_from_the_rate():
    assert Progress(title="grpo", done=12, total=80, rate=0.5).left_s == 136
    assert Progress(title="grpo", done=0, total=80, rate=0.0).left_s is None


def test_a_listener_hears_every_part_and_nothing_after_its_block():
    heard: list[Progress] = []
    with progress_bar("clips", 3) as bar:
        with progress_listener(heard.append):
            bar.advance()
            bar.advance(2)
        bar.advance()
    assert [(p.title, p.done, p.total) for p in heard] == [("clips", 1, 3), ("clips", 3, 3)]


def test_parts_of_an_earlier_attempt_do_not_count_in_the_rate():
    heard: list[Progress] = []
    with progress_listener(heard.append), progress_bar("grpo", 10) as bar:
        bar.resume(7)
        bar.advance()
    assert [p.done for p in heard] == [0, 7, 8]
    assert heard[1].rate == 0
    assert heard[2].rate > 0


def test_a_log_file_gets_a_line_at_the_end(capsys: pytest.CaptureFixture[str]):
    with progress_bar("clips", 2) as bar:
        bar.advance()
        bar.advance(note="done")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("clips: 2/2, ")
    assert line.rstrip().endswith("done")


def test_a_bar_on_standard_error_leaves_standard_output_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_bar("clips", 1, error_console) as bar:
        bar.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("clips: 1/1, ")
