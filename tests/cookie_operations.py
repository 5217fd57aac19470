"""Every operation that a cookie opens, or that sets one: what a page of another site would like to have sent."""

import json
from typing import Any

from tests.http_client import USER
from tests.openapi_document import DOCUMENT

POSTS = {
    path: methods["post"]
    for path, methods in DOCUMENT["paths"].items()
    if "post" in methods
    and (any("session" in one for one in methods["post"]["security"]) or path.startswith("/v1/authentication/ver"))
}


def filled(path: str) -> str:
    """The path with something in the place of each parameter."""
    for name in ("user_id", "guild_id", "punishment_id", "bot_id", "id"):
        path = path.replace(f"{{{name}}}", str(USER))
    return path.replace("{batch_id}", "0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10").replace("{token_suffix}", "AAAAAA")


def example(operation: dict[str, Any]) -> str:
    """The documented example of its body, as JSON."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return json.dumps(content.get("examples", {}).get("example", {}).get("value", {}))
