"""What /schema says, as it goes out, and the application that says it: made once in each process of the suite, because
to make it takes longer than most tests."""

import json
from typing import Any

import msgspec
from litestar import Litestar

from modledger.http.app import create_app
from tests.http_client import MASTER_KEY, SETTINGS

# Never started: no database is needed for the document.
APP: Litestar = create_app(SETTINGS, conninfo="", master_key=MASTER_KEY)
DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(APP.openapi_schema.to_schema()))
# Method, path and what is said of it, by operationId.
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
