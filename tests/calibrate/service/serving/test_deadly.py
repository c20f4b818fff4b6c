from pathlib import Path

from calibrate.service.serving.deadly import DeadlyClips


def test_a_deadly_file_is_refused_for_a_while_under_any_name(tmp_path: Path) -> None:
    now = [0.0]
    deadly = DeadlyClips(60.0, clock=lambda: now[0])
    clip, other, alias = tmp_path / "a", tmp_path / "b", tmp_path / "alias"
    clip.write_text("a")
    other.write_text("b")
    alias.symlink_to(clip)
    assert deadly.seconds_left(clip) == 0
    deadly.add(clip)
    deadly.add(tmp_path / "missing")
    assert deadly.seconds_left(alias) == 60
    assert deadly.seconds_left(other) == deadly.seconds_left(tmp_path / "missing") == 0
    clip.write_text("mended")
    assert deadly.seconds_left(clip) == 0
    deadly.add(clip)
    now[0] = 61.0
    assert deadly.seconds_left(clip) == 0
