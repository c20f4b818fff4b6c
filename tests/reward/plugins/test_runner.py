"""User functions in real processes: shapes, deadlines, restarts, what dies with whom."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from reward.plugins.runner import Value
from tests.reward.plugins.user_rewards import alive, ask, running, until_dead, values
from wire.errors import ConfigError
from wire.types import Failure

PLUGIN = """
import os, pathlib, subprocess, sys, threading, time

def compute_score(data_source, solution_str, ground_truth, extra_info=None, fps=None):
    if solution_str == "sleep":
        time.sleep(600)
    if solution_str == "escape":
        code = '''
import os, pathlib, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(600)
os._exit(0)
'''
        subprocess.run([sys.executable, "-c", code, ground_truth])
        time.sleep(600)
    if solution_str == "orphan":
        if os.fork() == 0:
            os.setsid()
            pathlib.Path(ground_truth).write_text(str(os.getpid()))
            time.sleep(600)
        while not pathlib.Path(ground_truth).exists():
            time.sleep(0.01)
        os.kill(os.getppid(), 9)
        time.sleep(600)
    if solution_str == "raise":
        raise KeyError("rubric")
    if solution_str == "exit":
        os._exit(3)
    if solution_str == "exit soon":
        threading.Timer(0.05, os._exit, (5,)).start()
    if solution_str == "print":
        print("noise " * 1_000_000)
        sys.stderr.write("noise " * 1_000_000)
    if solution_str == "crash with words":
        sys.stderr.write("cannot open the rubric" + chr(10))
        os._exit(3)
    if solution_str == "extra":
        return extra_info["fps"] + fps
    if solution_str == "pid":
        return os.getpid()
    if solution_str == "pid, slowly":  # so that no process is free for both halves
        time.sleep(1)
        return os.getpid()
    return {"score": len(solution_str), "words": 3, "note": "not a number", "nan": float("nan")}
"""


async def test_the_next_trace_is_scored_by_the_same_process_after_an_exception(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        first, failed, second = await values(runner, "pid", "raise", "pid")
        assert first == second
        assert "KeyError('rubric') at" in str(failed)


async def test_the_place_of_an_exception_is_in_its_failure(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        (failed,) = await runner.score(ask("raise"))
        assert isinstance(failed, Failure)
        assert 'raise KeyError("rubric")' in failed.traceback


async def test_the_last_words_of_a_process_are_in_its_failure(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        (failed,) = await runner.score(ask("crash with words"))
        assert isinstance(failed, Failure)
        assert (failed.reason, failed.traceback) == (
            "its process ended with exit code 3",
            "cannot open the rubric",
        )


async def test_further_numbers_of_a_dict_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        assert await runner.score(ask("four")) == [Value(value=4.0, extras={"words": 3.0})]


async def test_half_a_character_in_a_name_is_replaced_since_no_archive_takes_it(
    tmp_path: Path,
) -> None:
    source = "def compute_score(solution_str):\n    return {'score': 1, chr(0xD800): 2}\n"
    async with running(tmp_path, source) as runner:
        assert await runner.score(ask("x")) == [Value(value=1.0, extras={"?": 2.0})]


async def test_a_reply_about_no_trace_is_no_reply(tmp_path: Path) -> None:
    source = """
import os, pathlib
def compute_score(solution_str):
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if pathlib.Path(f"/proc/self/fd/{fd}").readlink().name.startswith("socket"):
                os.write(fd, b'{"index": [0], "value": 1.0}\\n')
        except OSError:
            pass
    return 2.0
"""
    async with running(tmp_path, source) as runner:
        (failed,) = await values(runner, "x")
        assert "wrote on the runner's pipe" in str(failed)


async def test_a_sleeper_is_killed_on_time_and_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN, timeout_s=1.0) as runner:
        (old,) = await values(runner, "pid")
        begin = time.perf_counter()
        late, new = await values(runner, "sleep", "pid")
        assert "no answer within 1 s" in str(late)
        assert time.perf_counter() - begin < 5.0
        assert new != old
        assert isinstance(old, float)
        assert not alive(int(old))


async def test_what_left_the_session_of_a_killed_function_dies_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN, timeout_s=2.0) as runner:
        (late,) = await values(runner, "escape", label=str(tmp_path / "pid"))
        assert "no answer" in str(late)
        assert not alive(int((tmp_path / "pid").read_text()))


async def test_nothing_outlives_a_guard_that_was_killed(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        failed, after = await values(runner, "orphan", "four", label=str(tmp_path / "pid"))
        assert "guard was ended" in str(failed)
        assert after == 4.0
        assert not alive(int((tmp_path / "pid").read_text()))


ORPHAN = """
import asyncio, os, signal, sys
from reward.config import RewardTerm
from reward.plugins.question import Asked, Question
from reward.plugins.runner import PluginRunner

async def main(spec):
    runner = PluginRunner(RewardTerm(function=spec, timeout_s=60.0))
    def ask(text):
        asked = Asked(text=text, token_ids=(1,), is_truncated=False, policy_version="0.0")
        return runner.score(Question(sample_id="", split="", label="", columns={"fps": 1},
                                     prompt="", step=0, traces=(asked,)))
    (pid,) = await ask("pid")
    sys.stdout.write(f"{pid.value:.0f}")
    sys.stdout.flush()
    asyncio.create_task(ask("sleep"))
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


async def test_a_sleeper_does_not_outlive_a_driver_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text(PLUGIN)
    spec = f"{tmp_path / 'hostile.py'}:compute_score"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORPHAN, spec), stdout=asyncio.subprocess.PIPE, env=env
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.read(32))
    assert await parent.wait() == -signal.SIGKILL
    await until_dead(pid)


async def test_a_driver_that_found_us_in_its_working_folder_starts_the_same_code(
    tmp_path: Path,
) -> None:
    (tmp_path / "hostile.py").write_text(PLUGIN)
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward/__init__.py").write_text("raise RuntimeError('another package')")
    spec = f"{tmp_path / 'hostile.py'}:compute_score"
    script = "import os, sys; sys.path.append(os.environ['OTHER'])\n" + ORPHAN
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, spec),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"OTHER": str(tmp_path)},
        cwd=Path(__file__).parents[3],
    )
    assert parent.stdout is not None
    assert int(await parent.stdout.read(32)) > 0
    assert await parent.wait() == -signal.SIGKILL


async def test_a_process_that_ends_between_two_questions_costs_no_trace(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        assert await values(runner, "exit soon") == [9.0]
        await asyncio.sleep(1.0)
        assert await values(runner, "four") == [4.0]
        figures = runner.take_figures()
        assert (figures["num_started"], figures["num_lost"]) == (2, 1)


async def test_printing_a_lot_disturbs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        assert await values(runner, "print", "print") == [5.0, 5.0]
    assert 0 < len(capfd.readouterr().err) < 20_000


async def test_columns_arrive_and_long_texts_too(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        assert await values(runner, "extra") == [4.0]
        assert await values(runner, "\ud800" + "x" * 1_000_000) == [1_000_001.0]


async def test_the_event_loop_keeps_turning_while_a_function_sleeps(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN, timeout_s=1.0) as runner:
        turns = 0
        waiting = asyncio.create_task(runner.score(ask("sleep")))
        while not waiting.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert turns > 20


async def test_closing_in_the_middle_of_a_call_does_not_wait_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        waiting = asyncio.create_task(values(runner, "sleep", "sleep"))
        await asyncio.sleep(0.3)
        begin = time.perf_counter()
        await runner.close()
        assert time.perf_counter() - begin < 20.0
        assert all(isinstance(reason, str) for reason in await waiting)


async def test_processes_of_one_function_share_its_traces_out(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN, concurrency=2) as runner:
        pids = await values(runner, *["pid, slowly"] * 4)
        assert len(set(pids)) == 2


async def test_latencies_are_per_call_and_taken_once(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        await values(runner, "four", "raise", "five")
        figures = runner.take_figures()
        assert figures["num_started"] == 1
        assert 0 < figures["latency_p50_s"] <= figures["latency_p99_s"]
        assert runner.take_figures() == {
            "num_started": 0.0,
            "num_split": 0.0,
            "num_lost": 0.0,
        }


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def compute_score(text): ...", "wrong signature"),
        ("import os; os._exit(9)", "exit code 9"),
        ("raise RuntimeError('x' * 100_000)", "RuntimeError"),
        ("def compute_score(solution_str, rubric): ...", "needs .'rubric'."),
    ],
)
async def test_a_file_that_cannot_be_loaded_is_a_config_error(
    tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        async with running(tmp_path, source, columns={"fps"}):
            pass


async def test_a_file_broken_while_running_is_a_failure(tmp_path: Path) -> None:
    async with running(tmp_path, PLUGIN) as runner:
        (tmp_path / "hostile.py").write_text("compute_score = 3")
        exited, refused = await values(runner, "exit", "four")
        assert "exit code 3" in str(exited)
        assert "not a function" in str(refused)


BATCHED = """
import os, time

def rewards(prompts, completions, fps, **kwargs):
    assert len(prompts) == len(completions) == len(fps), "columns are lists"
    if "sleep" in completions:
        time.sleep(600)
    if "exit" in completions:
        os._exit(3)
    if "raise" in completions:
        raise KeyError("rubric")
    if "short" in completions:
        return [1.0]
    if "no list" in completions:
        return 1.0
    kwargs["log_metric"]("asked", len(completions))
    special = {"none": None, "nan": float("nan"), "text": "1.0", "ids": kwargs["completion_ids"]}
    return [special.get(text, float(len(text))) for text in completions]
"""


async def test_a_batch_is_one_call(tmp_path: Path) -> None:
    async with running(tmp_path, BATCHED, function="rewards") as runner:
        extras = {"asked": 3.0}
        assert await runner.score(ask("a", "none", "ccc")) == [
            Value(value=1.0, extras=extras),
            Value(value=None, extras=extras),
            Value(value=3.0, extras=extras),
        ]


async def test_a_bad_value_in_a_batch_is_the_failure_of_its_trace(tmp_path: Path) -> None:
    async with running(tmp_path, BATCHED, function="rewards") as runner:
        first, nan, text, ids = await values(runner, "a", "nan", "text", "ids")
        assert first == 1.0
        assert "returned nan" in str(nan)
        assert "'1.0' (str)" in str(text)
        assert "[[7, 9], [7, 9], [7, 9], [7, 9]]" in str(ids)


@pytest.mark.parametrize(
    ("bad", "words"), [("raise", "KeyError"), ("exit", "exit code 3"), ("sleep", "no answer")]
)
async def test_a_trace_that_breaks_its_batch_fails_alone(
    tmp_path: Path, bad: str, words: str
) -> None:
    async with running(tmp_path, BATCHED, function="rewards", timeout_s=3.0) as runner:
        before, failed, after = await values(runner, "a", bad, "ccc")
        assert (before, after) == (1.0, 3.0)
        assert words in str(failed)
        assert runner.take_figures()["num_split"] == 1


@pytest.mark.parametrize(("bad", "words"), [("short", "1 rewards for 2"), ("no list", "a list")])
async def test_rewards_that_cannot_be_matched_with_traces_fail_the_group(
    tmp_path: Path, bad: str, words: str
) -> None:
    async with running(tmp_path, BATCHED, function="rewards") as runner:
        assert all(words in str(reason) for reason in await values(runner, "a", bad))


VERL_BATCH = """
import os, time

def compute_score(data_sources, solution_strs, ground_truths, extra_infos, fps=None):
    assert len(data_sources) == len(solution_strs) == len(ground_truths) == len(extra_infos)
    if "sleep" in solution_strs:
        time.sleep(600)
    if "exit" in solution_strs:
        os._exit(3)
    if "raise" in solution_strs:
        raise KeyError("rubric")
    if "short" in solution_strs:
        return [1.0]
    if "long" in solution_strs:
        return [1.0] * (len(solution_strs) + 1)
    if "no list" in solution_strs:
        return {"score": 1.0}
    special = {
        "none": None, "nan": float("nan"), "text": "1.0", "no score": {"reward": 1.0},
        "fps": fps and fps[0] + extra_infos[0]["fps"],
    }
    return [special.get(text, {"score": len(text), "words": 3}) for text in solution_strs]
"""


async def test_verls_batch_manager_is_one_call_for_a_group(tmp_path: Path) -> None:
    async with running(tmp_path, VERL_BATCH, concurrency=2) as runner:
        assert await runner.score(ask("a", "none", "fps")) == [
            Value(value=1.0, extras={"words": 3.0}),
            Value(value=None),
            Value(value=4.0),
        ]
        nan, text, no_score, good = await values(runner, "nan", "text", "no score", "good")
        assert "returned nan, expected a finite number" in str(nan)
        assert "'1.0' (str)" in str(text)
        assert "a dict without 'score'; its keys: ['reward']" in str(no_score)
        assert good == 4.0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("short", "returned 1 rewards for 2 completions"),
        ("long", "returned 3 rewards for 2 completions"),
        ("no list", "returned {'score': 1.0} (dict), expected a list of one reward"),
    ],
)
async def test_scores_of_verls_batch_manager_that_fit_no_trace_fail_the_group(
    tmp_path: Path, bad: str, words: str
) -> None:
    async with running(tmp_path, VERL_BATCH) as runner:
        assert all(words in str(reason) for reason in await values(runner, "a", bad))


@pytest.mark.parametrize(
    ("bad", "words"), [("raise", "KeyError"), ("exit", "exit code 3"), ("sleep", "no answer")]
)
async def test_a_trace_that_breaks_a_call_of_verls_batch_manager_fails_alone(
    tmp_path: Path, bad: str, words: str
) -> None:
    async with running(tmp_path, VERL_BATCH, timeout_s=3.0) as runner:
        before, failed, after = await values(runner, "a", bad, "ccc")
        assert (before, after) == (1.0, 3.0)
        assert words in str(failed)


ASYNC = """
import asyncio, os

together = 0

async def compute_score(solution_str, ground_truth):
    global together
    together += 1
    await asyncio.sleep({"sleep": 600, "exit": 0}.get(solution_str, 0.05))
    if solution_str == "raise":
        raise KeyError("rubric")
    if solution_str == "exit":
        os._exit(3)
    return together
"""


async def test_traces_of_an_async_function_are_asked_side_by_side(tmp_path: Path) -> None:
    async with running(tmp_path, ASYNC) as runner:
        first, failed, last = await values(runner, "a", "raise", "c")
        assert (first, last) == (3.0, 3.0)
        assert "KeyError" in str(failed)


async def test_a_late_trace_of_an_async_function_fails_alone(tmp_path: Path) -> None:
    async with running(tmp_path, ASYNC, timeout_s=2.0) as runner:
        first, late, last = await values(runner, "a", "sleep", "c")
        assert (first, last) == (3.0, 3.0)
        assert "no answer" in str(late)


async def test_the_trace_that_kills_an_async_function_fails_alone(tmp_path: Path) -> None:
    async with running(tmp_path, ASYNC) as runner:
        first, dead, last = await values(runner, "a", "exit", "c")
        assert (first, last) == (1.0, 1.0)
        assert "exit code 3" in str(dead)


async def test_what_a_call_changes_in_its_arguments_is_no_other_calls(tmp_path: Path) -> None:
    source = """
def verl(solution_str, extra_info, own):
    extra_info["spans"].append(1); own.append(1)
    return len(extra_info["spans"]) + len(own)

def trl(completions, spans, own):
    own.append(1)
    return [spans[k].append(1) or len(spans[k]) + len(own) for k in range(len(completions))]
"""
    for function in ("verl", "trl"):
        async with running(tmp_path, source, function=function, params={"own": []}) as runner:
            for _ in range(2):
                assert await values(runner, "a", "b", columns={"spans": []}) == [2.0, 2.0]


async def test_params_that_no_process_can_be_started_with_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="200 kB as JSON, expected at most 100; put them in a"):
        async with running(tmp_path, PLUGIN, params={"method": "x" * 200_000}):
            pass
