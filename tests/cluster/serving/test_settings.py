from pathlib import Path

import pytest

from cluster.serving.settings import service_config
from cluster.serving.target import Target
from wire.errors import ConfigError


def test_options_replace_the_files_settings_whose_paths_start_at_its_folder(tmp_path: Path):
    file = tmp_path / "service.toml"
    file.write_text(
        'port = 9000\nmax_queue = 5\nroots = ["clips"]\narchives = {old = "runs/old"}\n'
    )
    target = Target(state=tmp_path / "s", archives={"demo": tmp_path / "demo"})
    config = service_config(target, file, {"port": 9001, "host": None, "roots": []})
    assert (config.port, config.max_queue, config.host) == (9001, 5, "127.0.0.1")
    assert config.roots == (tmp_path / "clips",)
    assert config.archives == {"demo": tmp_path / "demo", "old": tmp_path / "runs/old"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("port = 'x'", "port"),
        ("prot = 1", "port"),
        ("port = ", "not valid TOML"),
        ("state = 's'", "give --state"),
        ("archives = 3", "archives"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str):
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        service_config(Target(state=tmp_path), file, {})
