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
COMPILERS = ["c++", "g++", "clang++"]
SANITIZE = os.environ.get("REGROW_SANITIZE") == "1"
INSTALL = "pip install --no-build-isolation --force-reinstall --no-deps regrow (in a checkout: make native)"


def find_compiler() -> str | None:
    """The C++ compiler to use, or None if there is none."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else COMPILERS
    return next((name for name in names if shutil.which(shlex.split(name)[0])), None)


def why_nothing() -> tuple[str, str] | None:
    """Why no native kernels can be built, and the remedy; None if they can."""
    if os.environ.get("REGROW_NO_NATIVE") == "1":
        return "REGROW_NO_NATIVE=1 was set when regrow was installed", "unset REGROW_NO_NATIVE"
    if find_compiler():
        return None
    if "CXX" in os.environ:
        return f"CXX={os.environ['CXX']} is no program on this machine", "unset CXX or name a C++ compiler"
    return f"none of {', '.join(COMPILERS)} was found", "install g++ or clang++"


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
        "-g1",
        "-O1",
    ]
    return [
        *["-std=gnu++20", "-fPIC", "-O3", "-fvisibility=hidden", "-Wall", "-Wno-psabi"],
        *["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"],
        *[f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", *includes],
        *(debug if SANITIZE else []),
    ]


def kernel_flags(level: str) -> list[str]:
    """Flags of the kernels of one level beside those of every file."""
    flags = [f"-DREGROW_ISA={level}", *levels()[level]]
    if not SANITIZE:
        return flags
    if level == "v4" and "avx512vl" not in Path("/proc/cpuinfo").read_text():
        return [*flags, "-fno-sanitize=all"]  # it will not run here
    # The address sanitizer sees what these would; they triple the time to compile.
    return [*flags, "-fno-sanitize=null,object-size,pointer-overflow"]


def objects(build: Path) -> list[tuple[Path, Path, list[str]]]:
    """(source, object, extra flags) of everything to compile: kernels once per level, the rest once."""
    once = sorted({*CSRC.glob("*.cpp"), *CSRC.glob("kernels/*.cpp")} - {KERNELS})
    rows = [(source, build / f"{source.stem}.o", []) for source in once]
    return rows + [(KERNELS, build / f"kernels.{level}.o", kernel_flags(level)) for level in levels()]


def build_directory() -> Path:
    """Where objects are kept from one build to the next (pip has a new directory each time)."""
    return ROOT / ("build/sanitize" if SANITIZE else "build/native")


def run(command: list[str]) -> None:
    """Run a compiler and show what it said when it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"regrow: building the native kernels failed: {shlex.join(command)}\n{done.stderr}\n"
            "Remedy: set CXX to a compiler of C++20 (g++ 10 or clang++ 12, say), or REGROW_NO_NATIVE=1 to install "
            "without native kernels."
        )
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
        list(pool.map(run, reversed(commands)))  # the kernels, which take longest, first
    targets = [str(target) for _, target, _ in objects(build)]
    sanitize = ["-fsanitize=address,undefined"] if SANITIZE else []
    link = [*cxx, "-shared", *sanitize, *targets, f"-L{torch / 'lib'}", "-ltorch_cpu", "-o"]
    staged = library.with_suffix(".new")
    run([*link, str(staged)])
    staged.replace(library)  # a running process keeps the old file


def say_nothing_built(why: str, remedy: str, note: Path) -> None:
    """Say so loudly, and leave a note that `regrow.ops` reads: pip shows nothing of what a build prints."""
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{why}\n{remedy}, then run {INSTALL}\n")
    print(
        f"\n*** regrow: native kernels were NOT built: {why}. regrow works, on plain torch, much slower.\n"
        f"*** Remedy: {remedy}, then run\n***   {INSTALL}\n",
        file=sys.stderr,
    )


class BuildNative(build_ext):
    """`build_ext` that makes one plain shared library instead of a Python extension."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def get_export_symbols(self, ext):
        return []

    def build_extension(self, ext) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        note = library.with_suffix(".absent")
        if why := why_nothing():
            if not self.inplace:
                library.unlink(missing_ok=True)  # left by an earlier build; it must not get into the wheel
            return say_nothing_built(*why, note)
        note.unlink(missing_ok=True)
        build_library(str(find_compiler()), build_directory(), library)


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("regrow.ops.libregrow", sources=[], optional=True)],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
    )
