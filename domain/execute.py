"""From a command to the ledger: load what the decision reads, decide, append; again when somebody was faster."""

from collections.abc import Sequence
from uuid import UUID, uuid5

import msgspec

from modledger.domain.commands import Command, Context, EraseSubject
from modledger.domain.decide import decide, needed, target_of
from modledger.domain.envelope import NewEvent, Recorded, Subject, subject_of
from modledger.domain.facts import Decided, Facts
from modledger.domain.ledger import Append, Ledger, VersionConflict
from modledger.domain.refusals import Conflict, Refused
from modledger.domain.subjects import State, evolve, fold


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a command did. ``subject`` is the target's state right after its events, also when a retry was recognised
    (``duplicate``), so that an answer made from it comes out the same. No events: there was nothing to change."""

    events: Sequence[Recorded]
    duplicate: bool
    subject: State

    @property
    def position(self) -> int:
        """The ledger position of the last event; 0 without events."""
        return self.events[-1].position if self.events else 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one command of a batch came to; the events are not recorded one by one, so they have no position."""

    events: Sequence[NewEvent] = ()
    duplicate: bool = False
    refused: Refused | None = None


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's event number ``index`` (from 0): the same at every try."""
    return uuid5(command_id, str(index))


def execute(ledger: Ledger, command: Command, context: Context) -> Outcome:
    """Carries out one command, exactly once for its command id however often it is called.

    Raises Refused when the rules do not allow it and LedgerUnavailable when the store cannot be reached or did not
    answer; then the same call may be made again. Concurrent changes of a stream that the decision read make it decide
    again, for as long as others keep succeeding.
    """
    target = target_of(command)
    while True:
        histories, states = _load(ledger, command, context)
        before = _events_of(context.command_id, histories[str(target)])
        if before:
            return _outcome(target, histories[str(target)], before, duplicate=True)
        decided = decide(command, Facts(context, states))
        if not decided:
            return Outcome(events=(), duplicate=False, subject=states[str(target)])
        append = _append(command, context, decided, states)
        try:
            appended = ledger.append(append)
        except VersionConflict:
            continue
        if appended.duplicate:
            if appended.events[0].stream != str(target):
                raise Conflict("This command id already belongs to another command")
            continue
        state = states[str(target)]
        for happened in appended.events:
            evolve(state, happened)
        return Outcome(events=appended.events, duplicate=False, subject=state)


def execute_batch(ledger: Ledger, items: Sequence[tuple[Command, Context]]) -> list[Decision]:
    """Carries out many commands in one transaction, in order, each deciding on what those before it did.

    A refused command leaves the others alone; one that is already in the ledger is a ``duplicate``. Where others write
    to the same streams meanwhile, the batch is halved until it gets through, so it may take several transactions.
    Raises LedgerUnavailable; then the same call may be made again, whatever part of it was appended.
    """
    while True:
        states: dict[str, State] = {}
        missing = {stream for command, context in items for stream in needed(command, context, states)}
        while missing:
            for stream, history in ledger.load(sorted(missing)).items():
                states[stream] = fold(subject_of(stream), history)
            missing = {s for command, context in items for s in needed(command, context, states)} - states.keys()
        # After the load: a command whose events it brought must be recognised and not decided a second time.
        known = ledger.known_commands([context.command_id for _, context in items])
        decisions: list[Decision] = []
        appends: list[Append] = []
        for command, context in items:
            if context.command_id in known:
                decisions.append(Decision(duplicate=True))
                continue
            if missing := needed(command, context, states) - states.keys():
                for stream, history in ledger.load(sorted(missing)).items():
                    states[stream] = fold(subject_of(stream), history)
            try:
                decided = decide(command, Facts(context, states))
            except Refused as refused:
                decisions.append(Decision(refused=refused))
                continue
            append = _append(command, context, decided, states)
            for event in append.events:
                evolve(states[event.stream], event)
            if append.events:
                known.add(context.command_id)
                appends.append(append)
            decisions.append(Decision(events=append.events))
        try:
            if appends:
                ledger.append_batch(appends)
        except VersionConflict:
            if len(items) > 1:
                middle = len(items) // 2
                return execute_batch(ledger, items[:middle]) + execute_batch(ledger, items[middle:])
            continue
        return decisions


def _load(ledger: Ledger, command: Command, context: Context) -> tuple[dict[str, list[Recorded]], dict[str, State]]:
    histories: dict[str, list[Recorded]] = {}
    states: dict[str, State] = {}
    while missing := needed(command, context, states) - states.keys():
        for stream, history in ledger.load(sorted(missing)).items():
            histories[stream] = history
            states[stream] = fold(subject_of(stream), history)
    return histories, states


def _append(command: Command, context: Context, decided: Sequence[Decided], states: dict[str, State]) -> Append:
    target = target_of(command)
    state = states[str(target)]
    at = context.at if state.updated_at is None else max(context.at, state.updated_at)
    new = [
        NewEvent(
            stream=str(target),
            version=state.version + 1 + index,
            event=one.event,
            event_id=event_id(context.command_id, index),
            occurred_at=one.at or at,
            actor=one.actor or context.actor,
            correlation_id=context.correlation_id,
            causation_id=context.causation_id,
            via=context.via,
            external_id=context.external_id,
        )
        for index, one in enumerate(decided)
    ]
    return Append(
        command_id=context.command_id,
        events=new,
        expected={stream: states[stream].version for stream in needed(command, context, states) & states.keys()},
        erase=(str(target),) if isinstance(command, EraseSubject) else (),
    )


def _events_of(command_id: UUID, history: Sequence[Recorded]) -> list[Recorded]:
    first = event_id(command_id, 0)
    start = next((index for index, happened in enumerate(history) if happened.event_id == first), None)
    if start is None:
        return []
    found = []
    for index, happened in enumerate(history[start:]):
        if happened.event_id != event_id(command_id, index):
            break
        found.append(happened)
    return found


def _outcome(target: Subject, history: Sequence[Recorded], mine: Sequence[Recorded], *, duplicate: bool) -> Outcome:
    until = [happened for happened in history if happened.version <= mine[-1].version]
    return Outcome(events=mine, duplicate=duplicate, subject=fold(target, until))
