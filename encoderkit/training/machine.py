"""What this machine is good at: device, arithmetic, compiler. Measured or looked up once, at the start of a run."""

import ctypes
import resource
import shutil
import sys
import time
from typing import Literal

import torch
from torch import nn

from encoderkit.errors import UsageError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Let the process keep the memory that tensors free, for the next ones.

    glibc gives large blocks back to the kernel and asks for them again, zeroed page by page, several times an update:
    a quarter of the time of a small model. Peak memory grows by a few percent. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """The device to use: a GPU if there is one."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: str) -> Literal["fp32", "bf16"]:
    """The arithmetic to use: bf16 only where this machine multiplies matrices clearly faster with it.

    A processor without bfloat16 instructions can be a hundred times slower with it, so it is measured, not looked up. Those
    that gain have products three times as fast or more; with less, all else that is slower in bf16 would eat it up, and the
    choice would be one of chance.
    """
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _product_seconds(torch.bfloat16) < 0.5 * _product_seconds(torch.float32) else "fp32"


def has_bf16() -> bool:
    """Whether the processor has instructions for bfloat16, as torch sees it."""
    # Builds for Apple's processors have no oneDNN, and so no such operator.
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # pyright: ignore[reportPrivateUsage]


def check_precision(module: nn.Module, precision: Literal["fp32", "bf16"], device: str) -> None:
    """Raise `UsageError` for what torch cannot compute: an LSTM in bf16 on a processor without instructions for it."""
    lstm = any(isinstance(part, nn.LSTM) for part in module.modules())
    if precision == "bf16" and device == "cpu" and lstm and not has_bf16():
        message = "bf16 was asked for, and torch has no LSTM in bf16 for this processor, which lacks the instructions"
        raise UsageError(message, fix="precision fp32, or auto")


def _product_seconds(dtype: torch.dtype) -> float:
    """The time of a product as small models have it; the best of a few, and few if it is slow.

    The processor's, so that what else runs here does not decide about the arithmetic, and so about the last digits.
    """
    a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
    best, started = float("inf"), time.perf_counter()
    for _ in range(8):
        before = time.process_time()
        torch.mm(a, b)
        best = min(best, time.process_time() - before)
        if time.perf_counter() - started > 0.1:
            break
    return best


def peak_memory(device: str) -> int:
    """Bytes of the GPU that were in use at the most, or of this process on the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # each system has its own unit


def product_rate(device: str, precision: Literal["fp32", "bf16"]) -> float:
    """Floating-point operations a second of one large matrix product: what this machine can do at most. The best of a few."""
    n, k, m = (4096, 512, 2048) if device == "cpu" else (8192, 8192, 8192)
    a, b = (torch.ones(shape, dtype=DTYPES[precision], device=device) for shape in ((n, k), (k, m)))
    best, started = float("inf"), time.perf_counter()
    while time.perf_counter() - started < 0.3:
        before = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - before)
    return 2 * n * k * m / best


def check_compiler(compiled: bool, device: str) -> None:
    """Raise `UsageError` for a run that is compiled where nothing can be."""
    if compiled and not can_compile(device):
        fix = "install g++, or --set training.compile=off"
        raise UsageError("the run is compiled (training.compile), but no C++ compiler was found", fix=fix)


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs here: a C++ compiler on the CPU."""
    return device != "cpu" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))
