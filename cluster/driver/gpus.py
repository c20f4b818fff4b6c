"""Number of GPUs that torch would see on this machine; without a driver torch is not imported."""

from pathlib import Path

_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""NVIDIA's device, WSL's, and AMD's: without one of them torch sees no GPU."""


def count_gpus(drivers: tuple[str, ...] = _DRIVERS) -> int:
    """Number of GPUs of this process, ``CUDA_VISIBLE_DEVICES`` respected. Importing torch takes two
    seconds, so a machine without a driver is answered without it."""
    if not any(Path(driver).exists() for driver in drivers):
        return 0
    import torch

    return int(torch.cuda.device_count())
