import os
import subprocess
import sys

import pytest

from cluster.classify.engine_log import EngineLog

LATER = "import sys; sys.stdin.readline(); sys.stderr.write('later\\n')"


def test_a_process_started_inside_prints_into_the_log_as_long_as_it_lives(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = EngineLog()
    os.write(2, b"before\n")
    with log.captured():
        os.write(1, b"first\n")
        sys.stderr.write("stopping\n")
        process = subprocess.Popen([sys.executable, "-c", LATER], stdin=subprocess.PIPE)
    os.write(2, b"after\n")
    process.communicate(b"go\n")
    assert log.tail() == ["first", "later"]
    out, err = capfd.readouterr()
    assert (out, err) == ("", "before\nstopping\nafter\n")
