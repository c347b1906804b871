"""Get llama.cpp from the source package of llama-cpp-python on PyPI and build the driver over it, once, in the cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_VERSION = "0.3.36"
"""Of llama-cpp-python; pinned so that figures can be repeated."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A built driver, and what it was built from."""

    driver: Path
    package: str
    sha256: str
    llama_version: str
    compiler: str


def build(folder: Path, version: str) -> Rival:
    """Return the driver over that version's llama.cpp; download and build it unless ``folder`` has it. Exits with what is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = _require_tools()
    package = folder / f"llama_cpp_python-{version}.tar.gz"
    if not package.exists():
        _download(folder, version)
    source = folder / f"llama_cpp_python-{version}"
    if not source.is_dir():
        _unpack(package, source)
    llama = source / "vendor" / "llama.cpp"
    if not (llama / "CMakeLists.txt").is_file():
        sys.exit(f"{package.name} has no vendor/llama.cpp: choose another --llama-version")
    work = folder / f"build-{version}"
    _run_cmake(tools, llama, work)
    return Rival(
        work / "rival_driver",
        package.name,
        hashlib.sha256(package.read_bytes()).hexdigest(),
        _version(llama),
        _first_line(tools["c++"], "--version"),
    )


def _require_tools() -> dict[str, str]:
    """Find cmake, a build tool and compilers, also those that pip put beside this Python."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    wanted = {
        "cmake": ("pip install cmake", ["cmake"]),
        "make": ("pip install ninja", ["ninja", "make"]),
        "cc": ("apt-get install gcc", [os.environ.get("CC", "cc"), "cc", "gcc", "clang"]),
        "c++": ("apt-get install g++", [os.environ.get("CXX", "c++"), "c++", "g++", "clang++"]),
    }
    found = {
        tool: next((at for name in names if (at := shutil.which(name, path=path))), None)
        for tool, (_, names) in wanted.items()
    }
    missing = [f"  {tool}: for example `{wanted[tool][0]}`" for tool, at in found.items() if at is None]
    if missing:
        sys.exit("building llama.cpp needs what is not here:\n" + "\n".join(missing))
    return {tool: at for tool, at in found.items() if at is not None}


def _download(folder: Path, version: str) -> None:
    print(f"downloading the source package of llama-cpp-python {version}", file=sys.stderr)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--no-binary", "llama-cpp-python", "--dest", str(folder), f"llama-cpp-python=={version}"], check=False
    )
    if done.returncode != 0:
        sys.exit(f"pip could not download llama-cpp-python {version}; a copy of its .tar.gz in {folder} serves as well")


def _unpack(package: Path, source: Path) -> None:
    partial = source.with_name(f"{source.name}.partial-{os.getpid()}")
    with tarfile.open(package) as archive:
        archive.extractall(partial, filter="data")
    os.rename(partial / source.name, source)
    shutil.rmtree(partial)


def _run_cmake(tools: dict[str, str], llama: Path, work: Path) -> None:
    generator = "Ninja" if Path(tools["make"]).name == "ninja" else "Unix Makefiles"
    log_path = work.with_name(f"{work.name}.log")
    configure = [
        tools["cmake"],
        *("-S", str(HERE), "-B", str(work), "-G", generator, f"-DCMAKE_MAKE_PROGRAM={tools['make']}"),
        *(f"-DCMAKE_C_COMPILER={tools['cc']}", f"-DCMAKE_CXX_COMPILER={tools['c++']}", f"-DLLAMA_SOURCE={llama}"),
    ]
    compile_it = [tools["cmake"], "--build", str(work), "--target", "rival_driver", "--parallel", _jobs()]
    if not (work / "rival_driver").exists():
        print(f"building llama.cpp: about 20 minutes of one core; log in {log_path}", file=sys.stderr)
    with log_path.open("w") as log:
        for command in (configure, compile_it):
            nice = ["nice", "-n", "10", *command]
            if subprocess.run(nice, stdout=log, stderr=log, check=False).returncode != 0:
                sys.exit(f"the build of llama.cpp failed; the end of {log_path}:\n{log_path.read_text()[-2000:]}")


def _jobs() -> str:
    return str(len(os.sched_getaffinity(0)))


def _version(llama: Path) -> str:
    lines = (llama / "CMakeLists.txt").read_text(encoding="utf-8").splitlines()
    parts = {
        name: next((line.split()[-1].rstrip(")") for line in lines if f"LLAMA_VERSION_{name} " in line), "?")
        for name in ("MAJOR", "MINOR", "PATCH")
    }
    return ".".join(parts.values())


def _first_line(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split("\n", 1)[0]
