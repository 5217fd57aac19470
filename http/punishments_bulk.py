"""Punishments in bulk: up to 200 items in one request, each decided and answered on its own, and a whole batch lifted
again (api.md §4).

The batch's id is the command id of its request, an item's follows from it: so a repetition under the same
Idempotency-Key does each item once, and the ledger alone knows what a batch did.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID, uuid5

import msgspec
import structlog
from anyio import to_thread
from litestar import Response
from litestar.params import JSONBody, PathParameter
from msgspec import Meta

from modledger.domain import commands
from modledger.domain.commands import Command
from modledger.domain.envelope import Recorded, Subject, subject_of
from modledger.domain.events import Issued
from modledger.domain.execute import Outcome
from modledger.domain.ledger import Ledger, LedgerUnavailable
from modledger.domain.subjects import MODERATOR
from modledger.http import freshness
from modledger.http.answers import Made, actor_of, answer_once, context_of
from modledger.http.endpoints import STAFF, AnyRequest, command
from modledger.http.errors import BATCH_HEADER, LASTING, Problem, bad, problem_of
from modledger.http.idempotency import Answer
from modledger.http.parameters import MAX_ID, BodyId, Reason, Rule, body_rules, check_fields
from modledger.http.punishment_changes import LIFTED_EXAMPLE, changed, issuing
from modledger.http.punishments import ISSUED_EXAMPLE, BanBody, ReasonBody, TimeoutBody, ban, issued, timeout
from modledger.http.services import services
from modledger.http.views import View

log = structlog.get_logger("modledger.http")

MOST_ITEMS = 200
# The longest reasons, each character written as two escapes, with room for the rest of their items.
BODY_LIMIT = 1280 * 1024
# Targets of one batch that are worked on at once: their commands are carried out together (command_groups.py).
SIDE_BY_SIDE = 8


# -- items


class _OfAccount(msgspec.Struct, kw_only=True):
    action: str
    target: Literal["user", "guild"]
    id: BodyId


class _OfUser(msgspec.Struct, kw_only=True):
    action: str
    target: Literal["user"]
    id: BodyId


class _OfPunishment(msgspec.Struct, kw_only=True):
    action: str
    punishment_id: Annotated[int, Meta(ge=1, le=MAX_ID)]


_Of = _OfAccount | _OfUser | _OfPunishment
_Body = ReasonBody | TimeoutBody | BanBody
# What each action is about, and what else its operation takes.
_ACTIONS: Mapping[str, tuple[type[_Of], type[_Body]]] = {
    "warn": (_OfAccount, ReasonBody),
    "timeout": (_OfUser, TimeoutBody),
    "ban": (_OfAccount, BanBody),
    "lift": (_OfPunishment, ReasonBody),
}
_RULES: Mapping[str, list[Rule]] = {
    action: [*body_rules(of), *body_rules(body)] for action, (of, body) in _ACTIONS.items()
}
_FIELDS = {rule.name for rules in _RULES.values() for rule in rules}


def item_of(value: object) -> tuple[_Of, _Body]:
    """The item that a value of ``items`` stands for; null is as good as left out. Raises Problem 400, which names the
    first bad field as the operation of the same name would."""
    if not isinstance(value, dict):
        raise bad("item must be an object")
    given = {name: one for name, one in value.items() if one is not None or name not in _FIELDS}
    action = given.get("action")
    if action is None:
        raise bad("action is required")
    if not isinstance(action, str) or action not in _ACTIONS:
        raise bad(f"action must be one of {', '.join(_ACTIONS)}")
    known = {rule.name for rule in _RULES[action]}
    for name in given:
        if name in _FIELDS and name not in known:
            raise bad(f"{name} does not apply to {action}")
    check_fields(given, _RULES[action])
    of, body = _ACTIONS[action]
    return msgspec.convert(given, of), msgspec.convert(given, body)


_ITEM = (
    "{action: warn | timeout | ban | lift, target: user | guild, id, punishment_id, reason, expires_at, replace}. To"
    " warn, time out or ban: target, id and what the operation of that name takes. To lift: punishment_id and reason."
    " An item that is not like this is refused alone."
)
_DESCRIBED = {"extra": {"items": {"description": _ITEM}}}


class BulkBody(msgspec.Struct, kw_only=True):
    """Each item is decided and answered on its own; those of one target in their order."""

    items: Annotated[list[Any], Meta(min_length=1, max_length=MOST_ITEMS, extra_json_schema=_DESCRIBED)]


class RevertBody(msgspec.Struct, kw_only=True):
    """Why, for each of the punishments that are lifted."""

    reason: Reason


# -- answers


# msgspec knows no union of these in a field.
_VIEWS = ("PunishmentIssuedView", "PunishmentView")
_ONE_OF = [*({"$ref": f"#/components/schemas/{name}"} for name in _VIEWS), {"type": "null"}]


class BulkResultView(View, kw_only=True):
    """``index`` of the item; ``status`` and ``error`` that it would have been answered with alone; ``punishment`` as
    issued, or the record of one that was lifted, null when refused."""

    index: int
    status: int
    punishment: Annotated[Any, Meta(extra_json_schema={"extra": {"one_of": _ONE_OF}})]
    error: str | None


class BulkView(View, kw_only=True):
    """``batch_id`` names what was done, also to revert it."""

    batch_id: UUID
    results: list[BulkResultView]


_BATCH = "7c2f8d3e-0c43-5f0e-9a57-1d6b8e4f2a90"
_REFUSED = {"index": 1, "status": 400, "punishment": None, "error": "reason is required"}


# -- execution


class _Step(msgspec.Struct, frozen=True):
    """One item that can be tried: its command, and what its outcome looks like."""

    index: int
    target: Subject
    command: Command
    view: Callable[[Outcome], Made]


def command_id(batch_id: UUID, index: int) -> UUID:
    """The command id of a batch's item."""
    return uuid5(batch_id, str(index))


def _refused(index: int, problem: Problem) -> BulkResultView:
    return BulkResultView(index=index, status=problem.status, punishment=None, error=problem.message)


def _planned(ledger: Ledger, values: Sequence[object]) -> list[_Step | BulkResultView]:
    """A step for each item that makes sense, and the refusal of each that does not."""
    items: list[tuple[_Of, _Body] | Problem] = []
    for value in values:
        try:
            items.append(item_of(value))
        except Problem as problem:
            items.append(problem)
    wanted = {item[0].punishment_id for item in items if isinstance(item, tuple) and isinstance(item[0], _OfPunishment)}
    found = ledger.at_all(wanted) if wanted else {}
    planned: list[_Step | BulkResultView] = []
    for index, item in enumerate(items):
        try:
            if isinstance(item, Problem):
                raise item
            planned.append(_step(index, *item, found))
        except Problem as problem:
            planned.append(_refused(index, problem))
    return planned


def _step(index: int, of: _Of, body: _Body, found: Mapping[int, Recorded]) -> _Step:
    """Raises Problem 404 for the lift of a punishment that is not there."""
    if isinstance(of, _OfPunishment):
        return _lift(index, issuing(found.get(of.punishment_id)), body.reason)
    target = Subject(of.target, int(of.id))
    match body:
        case TimeoutBody():
            return _Step(index, target, timeout(target.id, body), issued)
        case BanBody():
            return _Step(index, target, ban(target, body), issued)
        case ReasonBody():
            return _Step(index, target, commands.IssueWarning(target=target, reason=body.reason), issued)


def _lift(index: int, event: Recorded, reason: str) -> _Step:
    target = subject_of(event.stream)
    lift = commands.LiftPunishment(target=target, number=event.version, reason=reason)
    return _Step(index, target, lift, changed)


def _seen(step: _Step) -> Callable[[Outcome], tuple[Any, int]]:
    return lambda outcome: (step.view(outcome)[0], outcome.position)


async def _named(request: AnyRequest, run: Callable[[UUID], Awaitable[Answer]]) -> Response[Any]:
    """The answer of ``run``; where it fails in the middle its batch is named in the header, since nobody could look up
    otherwise what had been done before."""

    async def naming(batch_id: UUID) -> Answer:
        try:
            return await run(batch_id)
        except Exception as error:
            problem = problem_of(error)
            if problem is None or problem.status < 500:
                raise
            headers = {**problem.headers, BATCH_HEADER: str(batch_id)}
            raise Problem(problem.status, problem.message, headers) from error

    return await answer_once(request, str(actor_of(request)), naming)


async def _carry_out(request: AnyRequest, batch_id: UUID, planned: Sequence[_Step | BulkResultView]) -> Answer:
    """Does the steps: those of one target one after the other, targets side by side. Should the database go away in the
    middle, no further target is begun, the whole is answered with 503, and the same again does what is missing."""
    has = services(request)
    actor = actor_of(request)
    of_target: dict[Subject, list[_Step]] = {}
    for step in planned:
        if isinstance(step, _Step):
            of_target.setdefault(step.target, []).append(step)

    async def act(steps: list[_Step]) -> list[tuple[BulkResultView, int]]:
        done = []
        for step in steps:
            context = context_of(request, actor, command_id(batch_id, step.index))
            caused = msgspec.structs.replace(context, causation_id=batch_id)
            try:
                made, position = await has.commands.execute(step.command, caused, _seen(step))
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    # Such as an event that only a newer program can read: what the others did is answered all the same.
                    log.exception("unexpected error", item=step.index)
                    problem = Problem(500, "Internal server error")
                elif isinstance(error, LASTING):
                    log.error("somebody has to see to it", error=str(error), item=step.index)
                elif problem.status >= 500:
                    raise
                done.append((_refused(step.index, problem), int(problem.headers.get(freshness.HEADER, 0))))
                continue
            result = BulkResultView(index=step.index, status=200, punishment=made, error=None)
            done.append((result, position))
        return done

    turn = asyncio.Semaphore(SIDE_BY_SIDE)
    gone = False

    async def in_turn(steps: list[_Step]) -> list[tuple[BulkResultView, int]]:
        nonlocal gone
        async with turn:
            # Each would wait for the database as long as the one before.
            if gone:
                return []
            try:
                return await act(steps)
            except LedgerUnavailable:
                gone = True
                raise

    # All that were begun come to their end, also when one of them fails.
    tried = await asyncio.gather(*map(in_turn, of_target.values()), return_exceptions=True)
    done = []
    for group in tried:
        if isinstance(group, BaseException):
            raise group
        done += group
    refused = [step for step in planned if isinstance(step, BulkResultView)]
    results = sorted([*refused, *(result for result, _ in done)], key=lambda result: result.index)
    position = max((position for _, position in done), default=0) or await to_thread.run_sync(has.ledger.head)
    body = msgspec.json.encode(BulkView(batch_id=batch_id, results=results))
    return Answer(status=200, body=body, headers={freshness.HEADER: str(position)})


@command(
    "/v1/admin/punishments/bulk",
    operation_id="punish_in_bulk",
    summary="Up to 200 warnings, timeouts, bans and lifts, each decided and answered on its own",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={
        "batch_id": _BATCH,
        "results": [{"index": 0, "status": 200, "punishment": ISSUED_EXAMPLE, "error": None}, _REFUSED],
    },
    body_example={
        "items": [
            {"action": "ban", "target": "user", "id": "123456789012345678", "reason": "Terms of service violation"},
            {"action": "warn", "target": "guild", "id": "876543210987654321"},
        ]
    },
    errors={400: f"items must hold between 1 and {MOST_ITEMS} items"},
    batched=True,
    body_limit=BODY_LIMIT,
)
async def punish_in_bulk(request: AnyRequest, data: JSONBody[BulkBody]) -> Response[BulkView]:
    ledger = services(request).ledger

    async def run(batch_id: UUID) -> Answer:
        planned = await to_thread.run_sync(_planned, ledger, data.items)
        return await _carry_out(request, batch_id, planned)

    return await _named(request, run)


@command(
    "/v1/admin/punishments/bulk/{batch_id:str}/revert",
    operation_id="revert_punishments_in_bulk",
    summary="Lift what a batch issued, each punishment decided and answered on its own",
    access=STAFF[MODERATOR],
    tag="Punishments",
    example={
        "batch_id": "3b1f0f6e-5d0a-5c0b-8f0e-6f2d9c7a1e44",
        "results": [{"index": 0, "status": 200, "punishment": LIFTED_EXAMPLE, "error": None}],
    },
    body_example={"reason": "The wrong list"},
    errors={404: "Batch not found"},
    batched=True,
)
async def revert_punishments_in_bulk(
    request: AnyRequest,
    batch_id: Annotated[UUID, PathParameter(description="The batch_id of the answer.")],
    data: JSONBody[RevertBody],
) -> Response[BulkView]:
    ledger = services(request).ledger

    def plan() -> list[_Step | BulkResultView]:
        ids = {command_id(batch_id, index): index for index in range(MOST_ITEMS)}
        batch = ledger.of_commands(ids)
        if not batch:
            raise Problem(404, "Batch not found")
        return [
            _lift(ids[of], event, data.reason)
            for of, happened in batch.items()
            for event in happened
            if isinstance(event.event, Issued)
        ]

    async def run(revert_id: UUID) -> Answer:
        return await _carry_out(request, revert_id, await to_thread.run_sync(plan))

    return await _named(request, run)


HANDLERS = [punish_in_bulk, revert_punishments_in_bulk]
