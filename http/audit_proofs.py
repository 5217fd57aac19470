"""GET /v1/admin/audit/head, /proof/{position}, /consistency: what an auditor needs to trust nobody (docs/proof.md)."""

from functools import partial
from typing import Annotated, Any, TypeVar

from litestar import Response
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta

from modledger.domain import seal_proofs
from modledger.domain.seal_proofs import Ask, Steps, base64_of
from modledger.domain.signed_heads import read_head
from modledger.domain.subjects import ADMIN
from modledger.http.answers import reply
from modledger.http.endpoints import STAFF, AnyRequest, read
from modledger.http.errors import bad
from modledger.http.parameters import ID_SCHEMA, MAX_ID
from modledger.http.services import services
from modledger.http.views import Moment, View
from modledger.http.wire import Cursor, Row

T = TypeVar("T")

Base64 = Annotated[str, Meta(description="Bytes in base64.", extra_json_schema={"format": "byte"})]
Size = Annotated[int, Meta(ge=1, description="How many events.")]


class AuditHeadView(View, kw_only=True):
    """The newest signed head: the first ``tree_size`` events of the ledger, up to ``position``, have this root.
    ``note`` is what was signed, with the signature."""

    tree_size: Size
    position: int
    root: Base64
    sealed_at: Moment
    note: str


class InclusionView(View, kw_only=True):
    """That the event with the bytes ``leaf`` is in the ledger that ``head`` seals."""

    position: int
    leaf_index: Annotated[int, Meta(ge=0)]
    tree_size: Size
    leaf: Base64
    path: list[Base64]
    head: str


class ConsistencyView(View, kw_only=True):
    """That the ledger of ``to_size`` events begins with the one of ``from_size``. The heads are those that were signed
    at these sizes, null where none was."""

    from_size: Size
    to_size: Size
    from_root: Base64
    to_root: Base64
    path: list[Base64]
    from_head: str | None
    to_head: str | None


_ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
_SIBLING = "KGwrZxAMmb9Lf0dWCc3mqzFQYkIWW8b5nrmYSqCrXPA="
_NOTE = (
    f"modledger/0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10\n4711\n{_ROOT}\nposition 4713\nat 2026-03-10T12:00:00Z\n\n"
    "— modledger/0d4f7a52-3c5e-4d0a-9c53-6a1f6c2b9e10 Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeO"
    "oRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
_NOT_SEALED = "Position 4714 is not sealed yet: the last head is of position 4713"
_NOTHING = "Nothing is sealed yet"


async def _carry_out(request: AnyRequest, steps: Steps[T]) -> T:
    """What the steps come to, on one connection. Raises what they raise, and Unavailable."""
    reader = services(request).reader
    try:
        ask = next(steps)
        while True:
            ask = steps.send(await reader.doing(partial(_rows, ask)))
    except StopIteration as done:
        answer: T = done.value
        return answer


async def _rows(ask: Ask, cursor: Cursor) -> list[Row]:
    if ask.copies:
        async with cursor.copy(ask.query.encode()) as messages:
            return [(bytes(message),) async for message in messages]
    await cursor.execute(ask.query.encode(), ask.parameters)
    return await cursor.fetchall()


@read(
    "/v1/admin/audit/head",
    operation_id="get_audit_head",
    summary="The newest signed head of the sealed ledger",
    access=STAFF[ADMIN],
    tag="Audit log",
    example={
        "tree_size": 4711,
        "position": 4713,
        "root": _ROOT,
        "sealed_at": "2026-03-10T12:00:00Z",
        "note": _NOTE,
    },
    errors={404: _NOTHING},
    fresh=False,
)
async def get_audit_head(request: AnyRequest) -> Response[AuditHeadView]:
    sealed = await _carry_out(request, seal_proofs.last_head())
    head = read_head(sealed.note)
    view = AuditHeadView(
        tree_size=head.tree_size,
        position=head.position,
        root=base64_of(head.root),
        sealed_at=head.at,
        note=sealed.note,
    )
    return reply(request, view, None)


@read(
    "/v1/admin/audit/proof/{position:str}",
    operation_id="prove_event",
    summary="The proof that an event is in the sealed ledger, as it was",
    access=STAFF[ADMIN],
    tag="Audit log",
    example={
        "position": 4712,
        "leaf_index": 4709,
        "tree_size": 4711,
        "leaf": "AAkAAAAIAAAAAAAAEmg=",
        "path": [_SIBLING],
        "head": _NOTE,
    },
    errors={404: "Event not found", 409: _NOT_SEALED},
    fresh=False,
)
async def prove_event(
    request: AnyRequest,
    position: Annotated[
        int, PathParameter(ge=1, le=MAX_ID, description="A position of the ledger.", schema_extra=ID_SCHEMA)
    ],
) -> Response[InclusionView]:
    proof = await _carry_out(request, seal_proofs.inclusion(position))
    view = InclusionView(
        position=proof.position,
        leaf_index=proof.leaf_index,
        tree_size=proof.tree_size,
        leaf=base64_of(proof.leaf),
        path=[base64_of(one) for one in proof.path],
        head=proof.head,
    )
    return reply(request, view, None)


def _size(name: str, description: str) -> Any:
    return QueryParameter(name=name, ge=1, le=MAX_ID, description=description, schema_extra=ID_SCHEMA)


@read(
    "/v1/admin/audit/consistency",
    operation_id="prove_consistency",
    summary="The proof that the sealed ledger of one size begins with that of another",
    access=STAFF[ADMIN],
    tag="Audit log",
    example={
        "from_size": 4710,
        "to_size": 4711,
        "from_root": _SIBLING,
        "to_root": _ROOT,
        "path": [_SIBLING],
        "from_head": None,
        "to_head": _NOTE,
    },
    errors={400: "from must not be greater than to", 404: _NOTHING, 409: "4712 events are not sealed yet"},
    fresh=False,
)
async def prove_consistency(
    request: AnyRequest,
    first: Annotated[int, _size("from", "The tree size of the head that is known already.")],
    second: Annotated[int | None, _size("to", "Another one; all that are sealed where it is left out.")] = None,
) -> Response[ConsistencyView]:
    if second is not None and first > second:
        raise bad("from must not be greater than to")
    proof = await _carry_out(request, seal_proofs.consistency(first, second))
    view = ConsistencyView(
        from_size=proof.from_size,
        to_size=proof.to_size,
        from_root=base64_of(proof.from_root),
        to_root=base64_of(proof.to_root),
        path=[base64_of(one) for one in proof.path],
        from_head=proof.from_head,
        to_head=proof.to_head,
    )
    return reply(request, view, None)


HANDLERS = [get_audit_head, prove_event, prove_consistency]
