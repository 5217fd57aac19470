"""pytest plugin: what takes long to make, made by whichever process of the suite needs it first, and copied by all."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest


def fast_folder() -> str:
    """Where test clusters go: into memory if there is room (initdb is four times as fast), else where TMPDIR says."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * 1024**3:  # Docker gives 64 MB
        return str(memory)
    return tempfile.gettempdir()


_FOLDER = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", {}).get("made_once")
    config.stash[_FOLDER] = Path(given or tempfile.mkdtemp(prefix="modledger-test-", dir=fast_folder()))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of xdist's gets the folder of the one that started it."""
    node.workerinput["made_once"] = str(node.config.stash[_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


class MadeOnce(Protocol):
    def __call__(self, name: str, make: Callable[[Path], None], to: Path) -> Path: ...


@pytest.fixture(scope="session")
def made_once(pytestconfig: pytest.Config) -> MadeOnce:
    """Copies a folder to ``to``, which does not exist yet, and answers that. ``make`` makes the first one, at the place
    that it is given; the others wait for it."""
    folder = pytestconfig.stash[_FOLDER]

    def copied(name: str, make: Callable[[Path], None], to: Path) -> Path:
        made = folder / name
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                make(folder / f"{name}.new")
                (folder / f"{name}.new").rename(made)
        return copy_folder(made, to)

    return copied


def copy_folder(folder: Path, to: Path) -> Path:
    # Several times as fast as shutil.copytree on a thousand small files.
    subprocess.run(["cp", "-a", folder, to], check=True)
    return to
