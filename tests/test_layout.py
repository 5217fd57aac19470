"""The rooms of the house: who may import whom, what stands where, and how the folders become `modledger.*`."""

import ast
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# docs/architecture.md, "The rooms".
MAY_IMPORT = {
    "domain": {"domain"},
    "projections": {"domain", "projections"},
    "http": {"domain", "projections", "http"},
    "workers": {"domain", "projections", "workers"},
}
# What starts an HTTP server has to know it.
MAY_ALSO_IMPORT_HTTP = {"workers/cli.py", "workers/serve.py", "workers/up.py"}

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    ".typing",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "deploy",
    "docs",
    "domain",
    "http",
    "projections",
    "pyproject.toml",
    "requirements-bench.txt",
    "requirements-build.txt",
    "requirements-dev.txt",
    "requirements.txt",
    "tests",
    "workers",
}

# Put together here, because this file may not name them either.
REGISTRY_HOSTS = [
    ".".join(labels).encode()
    for labels in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("security", "debian", "org"),
        ("proxy", "golang", "org"),
        ("index", "crates", "io"),
    )
]


def tracked_files() -> list[Path]:
    # In a clone that belongs to someone else git asks for its owner's word first; reading a list of names is harmless.
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [Path(name) for name in listed.stdout.split("\0") if name]


def modules_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_names(source: str, package: str) -> Iterator[str]:
    """The absolute dotted names that the source of a module in `package` imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                prefix = ".".join([*base, *([module] if module else [])])
                # `from modledger import http` names its room only in the list.
                yield from (f"{prefix}.{alias.name}" for alias in names)


def forbidden_imports(path: str, source: str) -> list[str]:
    """What the module at `path` (relative to the root) imports of ours and may not."""
    room = path.split("/", 1)[0]
    allowed = MAY_IMPORT[room] | ({"http"} if path in MAY_ALSO_IMPORT_HTTP else set())
    package = "modledger." + ".".join(Path(path).parent.parts)
    found = []
    for name in imported_names(source, package):
        match name.split("."):
            case ["modledger", other, *_] if other not in allowed:
                found.append(name)
            case ["modledger"] | ["domain" | "projections" | "workers" | "tests" | "bench", *_]:
                # Without its full name a module would be loaded a second time beside itself.
                found.append(name)
    return found


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_point_one_way(room: str) -> None:
    paths = [path.relative_to(ROOT).as_posix() for path in modules_of(room)]
    wrong = {path: found for path in paths if (found := forbidden_imports(path, (ROOT / path).read_text("utf-8")))}
    assert wrong == {}


@pytest.mark.parametrize(
    ("path", "source", "forbidden"),
    [
        ("domain/rank.py", "from modledger.projections import profile", ["modledger.projections.profile"]),
        ("domain/rank.py", "from modledger import http", ["modledger.http"]),
        ("domain/rank.py", "from .. import workers", ["modledger.workers"]),
        ("domain/rank.py", "from ..http.errors import answer", ["modledger.http.errors.answer"]),
        ("domain/rank.py", "from .events import UserBanned\nimport http.client", []),
        ("projections/profile.py", "def f():\n    import modledger.http.app", ["modledger.http.app"]),
        ("http/app.py", "from modledger.workers.runner import run", ["modledger.workers.runner.run"]),
        ("http/app.py", "from modledger.domain.settings import Settings\nfrom http import HTTPStatus", []),
        ("workers/clock.py", "import modledger.http.app", ["modledger.http.app"]),
        ("workers/serve.py", "import modledger.http.app", []),
        ("workers/clock.py", "from domain.events import UserBanned", ["domain.events.UserBanned"]),
        ("workers/clock.py", "import modledger", ["modledger"]),
    ],
)
def test_a_planted_import_against_the_direction_is_found(path: str, source: str, forbidden: list[str]) -> None:
    assert forbidden_imports(path, source) == forbidden


def test_the_folder_http_is_not_a_regular_package() -> None:
    assert not (ROOT / "http" / "__init__.py").exists()


def test_the_standard_library_is_found_from_the_root() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import http.client, http.server; print(http.client.__file__)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not Path(found.stdout.strip()).is_relative_to(ROOT / "http")


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_every_room_is_imported_from_its_folder(room: str) -> None:
    module = importlib.import_module(f"modledger.{room}")
    assert ROOT / room in {Path(folder).resolve() for folder in module.__path__}


def test_every_folder_with_modules_is_listed_for_the_wheel() -> None:
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for room in MAY_IMPORT for path in modules_of(room)}
    wanted = {"modledger." + ".".join(folder.parts) for folder in folders}
    assert set(packaging["packages"]) == wanted | {f"modledger.{room}" for room in MAY_IMPORT}


def test_every_file_of_a_room_that_is_no_module_is_carried_by_the_wheel() -> None:
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    patterns = packaging["package-data"]["*"]
    data = [path for path in tracked_files() if path.parts[0] in MAY_IMPORT and path.suffix != ".py"]
    left_out = [str(path) for path in data if not any(path.match(pattern.removeprefix("**/")) for pattern in patterns)]
    assert left_out == []


def test_type_checkers_see_the_rooms_under_their_import_names() -> None:
    link = ROOT / ".typing" / "modledger"
    assert link.readlink() == Path("..")


def test_the_top_level_holds_nothing_unexpected() -> None:
    assert {path.parts[0] for path in tracked_files()} <= TOP_LEVEL


def test_no_file_names_where_packages_come_from() -> None:
    named = {
        str(path): host.decode()
        for path in tracked_files()
        if (ROOT / path).is_file()
        for host in REGISTRY_HOSTS
        if host in (ROOT / path).read_bytes()
    }
    assert named == {}


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "requirements-build.txt", "requirements-bench.txt"]
)
def test_a_requirements_file_holds_exact_versions_with_hashes_and_no_addresses(name: str) -> None:
    lines = (ROOT / name).read_text("ascii").replace("\\\n", " ").splitlines()
    pins = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert pins
    for requirement, *hashes in pins:
        assert "==" in requirement
        assert hashes, requirement
        assert all(digest.startswith("--hash=sha256:") for digest in hashes), requirement
