"""Sources to measure: a folder, or a revision in a worktree of its own; and what is built from them, in their build/compare."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tritserve.cli.locate import command_settings
from tritserve.settings import writable_cache_dir

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder with the sources."""

    folder: Path

    @classmethod
    def of(cls, side: str) -> Tree:
        """Return the tree that ``side`` names: a folder that has ``native/``, or a revision of this repository, checked out once."""
        folder = Path(side).expanduser().resolve()
        if (folder / "native" / "CMakeLists.txt").is_file():
            return cls(folder)
        found = _run(
            "git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{side}^{{commit}}", allow_failure=True
        )
        if not found:
            sys.exit(f"{side!r} is neither a folder with the sources nor a revision of {ROOT}")
        folder = writable_cache_dir(command_settings(None)) / "trees" / found[:12]
        if not folder.is_dir():
            _run("git", "-C", str(ROOT), "worktree", "prune")
            _run("git", "-C", str(ROOT), "worktree", "add", "--detach", "--quiet", str(folder), found)
        return cls(folder)

    def kerncheck(self) -> Path:
        """Build and return kerncheck."""
        return self._build("native", "kerncheck", "-DTRIT_BUILD_TESTS=ON") / "kerncheck"

    def package(self) -> Path:
        """Build the extension; return a folder for PYTHONPATH that holds this tree's package with it."""
        build = self._build("extension", "_trit", "-DSKBUILD=1", f"-DPython_EXECUTABLE={sys.executable}")
        site = self.folder / "build" / "compare" / "site"
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(self.folder / "server" / "tritserve", site / "tritserve", ignore=shutil.ignore_patterns("*.so"))
        _run(_tool("cmake"), "--install", str(build), "--prefix", str(site))
        return site

    def _build(self, name: str, target: str, *options: str) -> Path:
        build = self.folder / "build" / "compare" / name
        print(f"building {target} of {self.folder}", file=sys.stderr)
        ninja = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}"]
        source = str(self.folder / "native")
        _run(_tool("cmake"), "-S", source, "-B", str(build), *ninja, "-DCMAKE_BUILD_TYPE=Release", *options)
        _run(_tool("cmake"), "--build", str(build), "--target", target)
        return build


def _tool(name: str) -> str:
    """Find a program that pip installed beside this Python, or one of the system."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"{name} is needed to build the sides: pip install {name}")
    return found


def _run(*command: str, allow_failure: bool = False) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and not allow_failure:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()
