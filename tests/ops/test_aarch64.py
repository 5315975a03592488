"""The portable build of the kernels on another processor: cross-compiled, and run under emulation."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import regrow

BUILD = Path(regrow.__file__).parent / "ops/csrc/dev/build.sh"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.skipif(not BUILD.exists(), reason="the driver of the kernels is in checkouts only")
@pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason="no emulation: apt-get install g++-aarch64-linux-gnu qemu-user",
)
def test_the_kernels_are_right_on_aarch64(tmp_path):
    """NEON by way of the compiler's vectors; the driver compares with loops in double."""
    driver = tmp_path / "driver"
    environment = {**os.environ, "CXX": COMPILER, "ISA": "base", "MARCH": ""}
    subprocess.run(["sh", BUILD, driver, "-O1", "-static"], env=environment, check=True, timeout=600)
    names = subprocess.run(["aarch64-linux-gnu-objdump", "-d", driver], capture_output=True, text=True, check=True)
    assert len(re.findall(r"\bf(?:mla|mul)\tv", names.stdout)) > 1000  # vectors, not numbers one by one
    run = subprocess.run([EMULATOR, driver, "test", "10"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("10 cases: largest error")
