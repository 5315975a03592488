"""The machine a measurement was made on."""

from __future__ import annotations

import platform
import resource
import sys
from pathlib import Path

import torch

__all__ = ["computes_bf16", "peak_memory_mib", "processor"]


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def computes_bf16() -> bool:
    """Returns whether oneDNN computes bfloat16 here; without AVX-512 it is emulated, far slower than float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def peak_memory_mib() -> float:
    """The largest resident size that this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
