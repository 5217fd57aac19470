"""Asks pip-audit whether anything that we pin has a known hole: the last step of ``make check``.

Exit status 1 for a hole. Where no index answers that knows of holes (offline, or behind a mirror that does not keep
them) it says so and ends with 0: then nothing was audited, and nobody is told that it was.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FILES = ("requirements.txt", "requirements-build.txt", "requirements-dev.txt", "requirements-bench.txt")
GIVE_UP_SECONDS = 300


def audit(pins: list[str], command: list[str]) -> tuple[int, str]:
    """The exit status and what to say. ``pins``: ``name==version`` each; ``command`` is pip-audit without a file."""
    # One first: where that is not known, no other is asked for.
    probe = _ask(pins[:1], command)
    if probe is None or not [one for one in probe if "vulns" in one]:
        return 0, "not audited: no index was reached that knows of vulnerabilities"
    found = _ask(pins, command)
    if found is None:
        return 0, "not audited: the index did not answer for all"
    holes = [f"{one['name']} {one['version']}: {hole['id']}" for one in found for hole in one.get("vulns", [])]
    skipped = [one["name"] for one in found if "vulns" not in one]
    said = f"audited {len(found) - len(skipped)} of {len(pins)} pinned packages: {len(holes)} known vulnerabilities"
    if skipped:
        said += f"\nnot audited, unknown there: {', '.join(skipped)}"
    return int(bool(holes)), "\n".join([said, *holes])


def _ask(pins: list[str], command: list[str]) -> list[dict[str, Any]] | None:
    try:
        ran = subprocess.run(
            [*command, "--requirement", "/dev/stdin"],
            input="\n".join(pins) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=GIVE_UP_SECONDS,
        )
        found: list[dict[str, Any]] = json.loads(ran.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    return found


def pinned(texts: list[str]) -> list[str]:
    """``name==version`` of each line that pins, once."""
    lines = (line.split(" ")[0].split(";")[0] for text in texts for line in text.splitlines())
    return sorted({line for line in lines if "==" in line and not line.startswith("#")})


def main() -> None:
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    status, said = audit(
        pinned([Path(file).read_text("utf-8") for file in FILES]), [sys.executable, "-m", "pip_audit", *options]
    )
    print(f"pip-audit: {said}")
    sys.exit(status)


if __name__ == "__main__":
    main()
