from pathlib import Path

from learner.ranks.free_memory import free_bytes

MB = 2**20


def test_a_containers_limit_counts(tmp_path: Path):
    (tmp_path / "memory.max").write_text(f"{100 * MB}\n")
    (tmp_path / "memory.current").write_text(f"{80 * MB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {10 * MB}\n")
    assert free_bytes(tmp_path) == 30 * MB


def test_an_old_containers_limit_counts(tmp_path: Path):
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{100 * MB}")
    (folder / "memory.usage_in_bytes").write_text(f"{80 * MB}")
    (folder / "memory.stat").write_text(f"total_inactive_file {5 * MB}\n")
    assert free_bytes(tmp_path) == 25 * MB


def test_a_container_without_a_limit_leaves_the_machines(tmp_path: Path):
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(tmp_path) > 10 * MB
