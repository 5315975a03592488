"""Builds the native kernels: one shared library for every instruction set and every torch >= 2.11.

The library holds no Python ABI and only torch's stable C ABI, so a wheel is tagged py3-none-<platform>. The
build reads the headers of the torch that is installed beside it and never fetches another one. Environment:

    REGROW_NO_NATIVE=1   build nothing; regrow then runs on plain torch, slowly, and says so
    REGROW_SANITIZE=1    address and undefined-behaviour sanitizers (see `make sanitize`)
    CXX                  the compiler; default c++, then g++, then clang++
    MAX_JOBS             compilers at a time; default the number of processors
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CSRC = Path("src/regrow/ops/csrc")
KERNELS = CSRC / "kernels/kernels.cpp"
TORCH_TARGET = "0x020b000000000000"  # torch 2.11: the oldest one whose stable ABI has everything we call
# Lowest first, and linked in this order: where two objects hold the same inline function the linker keeps
# the first, which must never be one that a lesser processor cannot run.
X86_LEVELS = {"base": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


def find_compiler() -> str | None:
    """The C++ compiler to use, or None if there is none."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++"]
    return next((name for name in names if shutil.which(shlex.split(name)[0])), None)


def find_torch() -> Path:
    """The directory of the installed torch, seen also from inside pip's isolated build environment."""
    folders = [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    for folder in folders:
        torch = Path(folder or ".") / "torch"
        if (torch / "include/torch/csrc/stable/library.h").exists():
            return torch.resolve()
    raise RuntimeError(
        f"regrow: no torch >= 2.11 with headers in {folders}. Remedy: install torch first, then run "
        "`pip install --no-build-isolation .`; or set REGROW_NO_NATIVE=1 to install without native kernels."
    )


def levels() -> dict[str, list[str]]:
    """Instruction-set levels that this machine's compiler can target, lowest first, with their flags."""
    x86 = platform.machine().lower() in {"x86_64", "amd64"}
    return X86_LEVELS if x86 else {"base": []}


def compile_flags(torch: Path) -> list[str]:
    """Flags of every source file."""
    includes = [f"-I{torch / 'include'}", f"-I{CSRC}"]
    debug = [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
        "-g",
        "-O1",
    ]
    return [
        *["-std=gnu++17", "-fPIC", "-O3", "-fvisibility=hidden", "-Wall", "-Wno-psabi"],
        *["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"],
        *[f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *includes],
        *(debug if os.environ.get("REGROW_SANITIZE") == "1" else []),
    ]


def objects(build: Path) -> list[tuple[Path, Path, list[str]]]:
    """(source, object, extra flags) of everything to compile: kernels once per level, the rest once."""
    once = sorted({*CSRC.glob("*.cpp"), *CSRC.glob("kernels/*.cpp")} - {KERNELS})
    rows = [(source, build / f"{source.stem}.o", []) for source in once]
    for level, flags in levels().items():
        rows.append((KERNELS, build / f"kernels.{level}.o", [f"-DREGROW_ISA={level}", *flags]))
    return rows


def build_directory() -> Path:
    """Where objects are kept from one build to the next (pip has a new directory each time)."""
    return ROOT / ("build/sanitize" if os.environ.get("REGROW_SANITIZE") == "1" else "build/native")


def run(command: list[str]) -> None:
    """Run a compiler and show what it said when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"regrow: building the native kernels failed: {shlex.join(command)}\n{done.stderr}")
    if done.stderr.strip():
        print(done.stderr, file=sys.stderr)


def newest_header(torch: Path) -> float:
    """When the last thing changed that every object depends on."""
    files = [*CSRC.rglob("*.h"), ROOT / "setup.py", torch / "version.py"]
    return max(file.stat().st_mtime for file in files)


def build_library(compiler: str, build: Path, library: Path) -> None:
    """Compile what is out of date, each object on its own, and link."""
    torch, cxx = find_torch(), shlex.split(compiler)
    build.mkdir(parents=True, exist_ok=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    flags, changed = compile_flags(torch), newest_header(torch)
    commands = [
        [*cxx, *flags, *extra, "-c", str(source), "-o", str(target)]
        for source, target, extra in objects(build)
        if not target.exists() or target.stat().st_mtime < max(changed, source.stat().st_mtime)
    ]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        list(pool.map(run, commands))
    targets = [str(target) for _, target, _ in objects(build)]
    sanitize = ["-fsanitize=address,undefined"] if os.environ.get("REGROW_SANITIZE") == "1" else []
    link = [*cxx, "-shared", *sanitize, *targets, f"-L{torch / 'lib'}", "-ltorch_cpu", "-o"]
    staged = library.with_suffix(".new")
    run([*link, str(staged)])
    staged.replace(library)  # a running process keeps the old file


def missing_compiler() -> None:
    """Say loudly that nothing native was built."""
    why = "REGROW_NO_NATIVE=1" if os.environ.get("REGROW_NO_NATIVE") == "1" else "no C++ compiler was found"
    print(
        f"\n*** regrow: native kernels were NOT built ({why}). regrow works, on plain torch, much slower.\n"
        "*** Remedy: install g++ or clang++ (or set CXX), then\n"
        "***   pip install --no-build-isolation --force-reinstall --no-deps regrow\n",
        file=sys.stderr,
    )


class BuildNative(build_ext):
    """`build_ext` that makes one plain shared library instead of a Python extension."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext):
        return []

    def build_extension(self, ext) -> None:
        compiler = find_compiler()
        if os.environ.get("REGROW_NO_NATIVE") == "1" or compiler is None:
            return missing_compiler()
        build_library(compiler, build_directory(), Path(self.get_ext_fullpath(ext.name)))


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("regrow.ops.libregrow", sources=[], optional=True)],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
    )
