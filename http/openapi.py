"""What /schema says: every operation with its id, summary, statuses, headers and an example; and the viewer of it.

Types come from the handlers' signatures; what those cannot say stands in ``Documented``, beside each handler.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import swagger_ui_bundle
from litestar import MediaType, Request, Response, Router, get
from litestar.enums import ParamType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    License,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityRequirement,
    SecurityScheme,
    Tag,
)
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import FromPath
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from modledger.http import freshness, idempotency, parameters
from modledger.http.errors import BATCH_HEADER, JSON, Problem
from modledger.http.sessions import COOKIE
from modledger.http.views import ErrorView, View

_CORRELATION_ID = "0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10"


Who = Literal["session", "bot", "public", "open", "none"]


class Documented(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation's signature does not say. ``example`` is the body of a 200; ``reads``, ``tagged``, ``keyed``,
    ``conditional`` and ``commands`` say which conventions of api.md §1 hold."""

    example: object
    body_example: object = None
    security: Who
    reads: bool
    tagged: bool
    commands: bool
    keyed: bool
    conditional: bool
    sets_cookie: bool = False
    batched: bool = False
    # An example of a 503 that bears the usual body instead of an error.
    own_503: object = None


DOCUMENTED: dict[str, Documented] = {}


@dataclass
class DocumentedOperation(Operation):
    """Litestar's description of an operation, completed from ``DOCUMENTED``."""

    def __post_init__(self) -> None:
        said = DOCUMENTED[cast("str", self.operation_id)]
        answers = self.responses or {}
        success = cast("OpenAPIResponse", answers["200"])
        success.description = "Success"
        content = (success.content or {})[JSON]
        content.examples = {"example": _example(said.example)}
        for status, answer in answers.items():
            cast("OpenAPIResponse", answer).headers = _headers(said, int(status))
        self.responses = dict(sorted(answers.items()))
        if said.own_503 is not None:
            self.responses["503"] = _own_503(content.schema, said, answers.get("503"))
        if isinstance(content.schema, Schema) and content.schema.one_of:
            # The detailed view of a user is also one of a user, so "exactly one of" would be wrong.
            content.schema.any_of, content.schema.one_of = content.schema.one_of, None
        for parameter in self.parameters or []:
            _forget_null(cast("Parameter", parameter))
        self.parameters = [*(self.parameters or []), *_header_parameters(said)] or None
        self.security = list(_SECURITY[said.security])
        if isinstance(self.request_body, RequestBody):
            self.request_body.content[JSON].examples = {"example": _example(said.body_example)}
            self.request_body.required = True
        for answer in self.responses.values():
            for media in (cast("OpenAPIResponse", answer).content or {}).values():
                media.examples = _without_ids(media.examples)
        for parameter in self.parameters or []:
            described = cast("Parameter", parameter)
            described.examples = _without_ids(described.examples)


def _own_503(
    schema: Schema | Reference | None, said: Documented, error: OpenAPIResponse | Reference | None
) -> OpenAPIResponse:
    examples = {"example": _example(said.own_503)}
    if isinstance(error, OpenAPIResponse) and error.content and schema:
        # It is not even known who asks without the database.
        otherwise = error.content[JSON]
        assert otherwise.schema is not None
        schema = Schema(any_of=[schema, otherwise.schema])
        examples["error"] = next(iter(cast("Mapping[str, Example]", otherwise.examples).values()))
    return OpenAPIResponse(
        description="Not now; the body says why",
        content={JSON: OpenAPIMediaType(schema=schema, examples=dict(examples))},
        headers=_headers(said, 503),
    )


def _without_ids(examples: Mapping[str, Example | Reference] | None) -> dict[str, Example | Reference] | None:
    # Litestar's own name for the key of an example; in OpenAPI an example has no id. Copies: the next application of
    # this process still needs the ids.
    if examples is None:
        return None
    return {key: replace(cast("Example", example), id=None) for key, example in examples.items()}


def _example(value: object) -> Example:
    # Litestar drops every null that it finds in an example; raw JSON it leaves alone.
    return Example(value=msgspec.Raw(msgspec.json.encode(value)))


_SECURITY: Mapping[str, list[SecurityRequirement]] = {
    "session": [{"session": []}],
    "bot": [{"key": []}, {"bearer": []}],
    "public": [{"session": []}, {"key": []}, {"bearer": []}],
    "open": [{}, {"session": []}, {"key": []}, {"bearer": []}],
    "none": [{}],
}


def _forget_null(parameter: Parameter) -> None:
    # "Or null" is how a parameter that may be left out looks to Litestar; no query can say null.
    schema = parameter.schema
    if not isinstance(schema, Schema) or not schema.one_of:
        return
    kinds = [one for one in schema.one_of if isinstance(one, Schema) and one.type != OpenAPIType.NULL]
    if len(kinds) == 1:
        schema.type, schema.format, schema.one_of = kinds[0].type, kinds[0].format, None


def error_responses(errors: Mapping[int, str]) -> dict[int, ResponseSpec]:
    """The error answers of an operation: an example message for each status."""
    return {
        status: ResponseSpec(
            None if status == 304 else ErrorView,
            generate_examples=False,
            description=_STATUSES[status],
            examples=[Example(id="example", value={"error": message, "correlation_id": _CORRELATION_ID})],
        )
        for status, message in errors.items()
    }


_STATUSES = {
    304: "Not modified",
    400: "The request is not valid; the message names the first bad field",
    401: "No session or key that is good now",
    403: "Not allowed; the message says what is needed",
    404: "There is no such record",
    408: "The body took too long to arrive",
    409: "Not possible in the present state, or the Idempotency-Key was used with another request",
    412: "The record has changed since the version in If-Match",
    413: "The body is too large",
    415: "The body is not announced as JSON",
    429: "Too many requests of this client, or of this bot, for now",
    500: "Unexpected; the details are in the server's log under the correlation id",
    501: "A fragment is searched for, and the database has no pg_trgm",
    503: "The database cannot be reached, or the answer would not be fresh enough",
}


def _header(kind: OpenAPIType, description: str, **more: Any) -> OpenAPIHeader:
    return OpenAPIHeader(description=description, schema=Schema(type=kind, **more))


def _headers(said: Documented, status: int) -> dict[str, OpenAPIHeader | Reference]:
    headers: dict[str, OpenAPIHeader | Reference] = {
        "X-Correlation-ID": _header(OpenAPIType.STRING, "Names the request in the log.", format=OpenAPIFormat.UUID)
    }
    if status in (200, 304) and said.tagged:
        headers["ETag"] = _header(OpenAPIType.STRING, "The version of the record, and a hash of the body.")
    if (status == 200 and said.commands) or (status in (200, 304) and said.reads):
        what = "The answer is at least as fresh as this." if said.reads else "Of the command's last event."
        headers[freshness.HEADER] = _header(OpenAPIType.INTEGER, f"A position of the ledger. {what}")
    if status in (409, 412) and said.commands:
        what = "Of the last event that it was decided on: a read that asks for it shows why."
        headers[freshness.HEADER] = _header(OpenAPIType.INTEGER, f"A position of the ledger. {what}")
    if status == 200 and said.sets_cookie:
        headers["Set-Cookie"] = _header(OpenAPIType.STRING, "The session begins, or the browser forgets it.")
    if said.keyed and status < 500:
        headers[idempotency.REPLAYED] = _header(OpenAPIType.STRING, "The first answer once more.", enum=["true"])
    if status >= 500 and said.batched:
        headers[BATCH_HEADER] = _header(
            OpenAPIType.STRING, "The batch of which a part may be done.", format=OpenAPIFormat.UUID
        )
    if status in (429, 503):
        headers["Retry-After"] = _header(OpenAPIType.INTEGER, "Seconds.", minimum=1)
    return headers


def _header_parameters(said: Documented) -> list[Parameter | Reference]:
    found: list[tuple[str, str, Schema]] = []
    text = Schema(type=OpenAPIType.STRING)
    if said.reads:
        position = Schema(type=OpenAPIType.INTEGER, minimum=0)
        found.append((freshness.HEADER, "The answer has to be at least as fresh as this position.", position))
        if said.tagged:
            found.append(("If-None-Match", "ETags that the caller has: 304 when one still holds.", text))
    if said.keyed:
        key = Schema(type=OpenAPIType.STRING, min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")
        found.append((idempotency.HEADER, "Repetitions of a request under the same key get the first answer.", key))
        if said.conditional:
            found.append(("If-Match", "The ETag that the caller has seen: 412 when the record has changed.", text))
    return [
        Parameter(name=name, param_in=ParamType.HEADER, description=description, schema=schema, required=False)
        for name, description, schema in found
    ]


class ClosedBodies(OpenAPISchemaPlugin):
    """Says of every struct that a request brings what ``parameters`` does: an unknown field is refused. Answers stay
    open, so that a client expects more of them some day."""

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        return (
            not field_definition.is_union
            and field_definition.is_subclass_of(msgspec.Struct)
            and not field_definition.is_subclass_of((View, ErrorView))
        )

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        usual = next(
            one for one in schema_creator.plugins if one is not self and one.is_plugin_supported_field(field_definition)
        )
        schema: Schema = usual.to_openapi_schema(field_definition, schema_creator)
        schema.additional_properties = False
        properties = schema.properties or {}
        for rule in parameters.body_rules(field_definition.annotation):
            _bound_ids(cast("Schema", properties[rule.name]), rule)
        return schema


def _bound_ids(schema: Schema, rule: parameters.Rule) -> None:
    # The framework knows that an id is an integer or a string, and has no words for the range of each.
    if rule.kind == "list" and isinstance(schema.items, Schema):
        _bound_ids(schema.items, rule.of[0])
    if rule.kind == "integer" and rule.choices:
        integer = Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=parameters.MAX_ID)
        digits = Schema(type=OpenAPIType.STRING, pattern="^[1-9][0-9]{0,18}$")
        null = [Schema(type=OpenAPIType.NULL)] if rule.nullable else []
        schema.one_of, schema.type = [integer, digits, *null], None


def openapi_config(version: str) -> OpenAPIConfig:
    """The document at /schema/openapi.json."""
    return OpenAPIConfig(
        title="modledger",
        version=version,
        description=(
            "An event-sourced ledger of moderation, subscriptions and permissions. Timestamps are RFC 3339;"
            " Discord ids are strings in answers and integers or strings of digits in requests;"
            " unknown parameters and fields are refused."
        ),
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        path="/schema",
        render_plugins=[_Viewer(path="/"), JsonRenderPlugin(path="/openapi.json")],
        openapi_router=Router(
            "/schema",
            route_handlers=[_page_script, _favicon, _asset],
            include_in_schema=False,
            before_request=_refuse_parameters,
            after_request=_refuse_framework_page,
        ),
        components=Components(
            security_schemes={
                "session": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
                "bearer": SecurityScheme(type="http", scheme="bearer"),
            },
        ),
        tags=[
            Tag(name=name)
            for name in (
                "Authentication",
                "Users",
                "Guilds",
                "Bots",
                "Punishments",
                "Subscriptions",
                "Permissions",
                "Audit log",
                "Statistics",
                "Health",
            )
        ],
    )


# -- the viewer: swagger-ui's own files from its package, and a page of ours without any inline script

_FILES: Path = swagger_ui_bundle.swagger_ui_path
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
# swagger-ui sets style attributes and draws its icons from data: URLs; nothing comes from any other host.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>modledger API</title>
<link rel="icon" href="/schema/favicon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/schema/assets/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="/schema/assets/swagger-ui-bundle.js"></script>
<script src="/schema/viewer.js"></script>
</body>
</html>
"""
_SCRIPT = """SwaggerUIBundle({
  url: "/schema/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<rect width="16" height="16" rx="3" fill="#243b53"/>
<path d="M4 4h8M4 8h8M4 12h5" stroke="#fff" stroke-width="1.6" stroke-linecap="round"/>
</svg>
"""


class _Viewer(OpenAPIRenderPlugin):
    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return _HTML.encode()


async def _refuse_parameters(request: Request[Any, Any, Any]) -> None:
    parameters.query_values(request.scope["query_string"], {})


async def _refuse_framework_page(response: Response[Any]) -> Response[Any]:
    # Litestar answers what it does not know below /schema with a page of its own.
    if response.status_code == 404:
        raise Problem(404, "Not found")
    if response.media_type == MediaType.HTML:
        response.headers["Content-Security-Policy"] = _CSP
    return response


@get("/viewer.js", include_in_schema=False, sync_to_thread=False)
def _page_script() -> Response[str]:
    return Response(_SCRIPT, media_type="text/javascript")


@get("/favicon.svg", include_in_schema=False, sync_to_thread=False)
def _favicon() -> Response[str]:
    return Response(_ICON, media_type="image/svg+xml")


@get("/assets/{name:str}", include_in_schema=False, sync_to_thread=True)
def _asset(name: FromPath[str]) -> Response[bytes]:
    kind = _ASSETS.get(name)
    if kind is None:
        raise Problem(404, "Not found")
    return Response(
        (_FILES / name).read_bytes(),
        # Litestar says the charset.
        media_type=kind,
        headers={"Cache-Control": "public, max-age=3600"},
    )
