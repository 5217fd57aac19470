"""From a command to the ledger: load what the decision reads, decide, append; again when somebody was faster."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from uuid import UUID, uuid5

import msgspec

from modledger.domain.commands import Command, Context, EraseSubject
from modledger.domain.decide import decide, needed, target_of
from modledger.domain.envelope import NewEvent, Recorded, Subject
from modledger.domain.facts import Decided, Facts
from modledger.domain.kept_states import Folded, KeptStates, load_folded
from modledger.domain.ledger import Append, Appended, Ledger, LedgerUnavailable, VersionConflict, each_tried, tried
from modledger.domain.refusals import Conflict, Refused
from modledger.domain.subjects import State, evolve, fold, fork


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


class DecidedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """``decisions``: one for each command. ``unchanged``: the streams on which it was decided that a command brings
    nothing."""

    decisions: list[Decision]
    appends: list[Append]
    unchanged: set[str]


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of a command's event number ``index`` (from 0): the same at every try."""
    return uuid5(command_id, str(index))


def execute(ledger: Ledger, command: Command, context: Context, kept: KeptStates | None = None) -> Outcome:
    """Carries out one command, exactly once for its command id however often it is called.

    With ``kept`` only those events are loaded that came since the last command on the same streams. Raises Refused when
    the rules do not allow it and LedgerUnavailable when the store cannot be reached or did not answer; then the same
    call may be made again. LedgerDamaged: not before somebody has mended it. Concurrent changes of a stream that the
    decision read make it decide again, for as long as others keep succeeding.
    """
    kept = KeptStates() if kept is None else kept
    while True:
        folded, known = _load(ledger, [(command, context)], kept)
        if before := _recognised(ledger, command, context, known):
            return before
        decided = _decided(command, context, folded)
        if isinstance(decided, Outcome):
            return decided
        try:
            appended = ledger.append(decided)
        except VersionConflict:
            continue
        if outcome := _done(command, decided, appended, folded, kept):
            return outcome


def execute_together(
    ledger: Ledger, asked: Sequence[tuple[Command, Context]], kept: KeptStates
) -> list[Outcome | Exception | None]:
    """Carries out commands of several callers at once: what all of them read comes in one round trip, and what they
    append is committed together. Each is decided, refused and appended alone. Answers for each in its place what
    ``execute`` would answer or raise, or None where somebody was faster, one before it in the list included: then
    nothing was done, and it is to be asked again."""
    try:
        folded, known = _load(ledger, asked, kept)
    except LedgerUnavailable as error:
        return [error] * len(asked)
    except Exception:
        # A stream that cannot be read concerns those who need it.
        return [*each_tried(partial(execute, ledger, command, context, kept) for command, context in asked)]
    answers: list[Outcome | Exception | None] = [None] * len(asked)
    appends: dict[int, Append] = {}
    again: dict[int, Callable[[], Outcome]] = {}
    states = _states(folded)
    for place, (command, context) in enumerate(asked):
        if context.command_id in known:
            again[place] = partial(execute, ledger, command, context, kept)
            continue
        reads = needed(command, context, states)
        decided = tried(_decided, command, context, {stream: folded[stream] for stream in reads})
        if isinstance(decided, Append):
            appends[place] = decided
        else:
            answers[place] = decided
    for (place, append), appended in zip(appends.items(), ledger.append_together(list(appends.values())), strict=True):
        if isinstance(appended, Appended):
            answers[place] = tried(_done, asked[place][0], append, appended, folded, kept)
        elif not isinstance(appended, VersionConflict):
            answers[place] = appended
    for place, answer in zip(again, each_tried(again.values()), strict=True):
        answers[place] = answer
    return answers


def execute_batch(
    ledger: Ledger, items: Sequence[tuple[Command, Context]], kept: KeptStates | None = None
) -> list[Decision]:
    """Carries out many commands in one transaction, in order, each deciding on what those before it did.

    A refused command leaves the others alone; one that is already in the ledger is a ``duplicate``. Where others write
    to the same streams meanwhile, the batch is halved until it gets through, so it may take several transactions.
    ``kept`` as for ``execute``. Raises LedgerUnavailable; then the same call may be made again, whatever part of it was
    appended. And LedgerDamaged as ``execute``.
    """
    kept = KeptStates() if kept is None else kept
    while True:
        states: dict[str, State] = {}
        missing = {stream for command, context in items for stream in needed(command, context, states)}
        while missing:
            states |= _forks(ledger, kept, missing)
            missing = {s for command, context in items for s in needed(command, context, states)} - states.keys()
        # After the load: a command whose events it brought must be recognised and not decided a second time.
        known = ledger.known_commands([context.command_id for _, context in items])
        decided = decide_batch(items, states, known, lambda streams: _forks(ledger, kept, streams))
        try:
            if decided.appends:
                ledger.append_batch(decided.appends)
        except VersionConflict:
            if len(items) > 1:
                middle = len(items) // 2
                return execute_batch(ledger, items[:middle], kept) + execute_batch(ledger, items[middle:], kept)
            continue
        kept.forget(stream for append in decided.appends for stream in append.erase)
        return decided.decisions


def decide_batch(
    items: Sequence[tuple[Command, Context]],
    states: dict[str, State],
    known: set[UUID],
    load: Callable[[set[str]], Mapping[str, State]],
) -> DecidedBatch:
    """Decides each command on what those before it did, and takes the events into ``states``, which are the caller's
    own. Those of all targets have to be there; others that turn out to be needed are loaded. ``known``: the commands
    that were carried out before."""
    decisions: list[Decision] = []
    appends: list[Append] = []
    unchanged: set[str] = set()
    done = set(known)
    for command, context in items:
        if context.command_id in done:
            decisions.append(Decision(duplicate=True))
            continue
        streams = needed(command, context, states)
        while not streams <= states.keys():
            # Not by a difference of sets, which goes through all that there is in ``states``.
            states |= load({stream for stream in streams if stream not in states})
            streams = needed(command, context, states)
        try:
            decided = decide(command, Facts(context, states))
        except Refused as refused:
            decisions.append(Decision(refused=refused))
            unchanged |= streams
            continue
        if not decided:
            decisions.append(Decision())
            unchanged |= streams
            continue
        append = _append(command, context, decided, states, streams)
        for event in append.events:
            evolve(states[event.stream], event)
        done.add(context.command_id)
        appends.append(append)
        decisions.append(Decision(events=append.events))
    return DecidedBatch(decisions=decisions, appends=appends, unchanged=unchanged)


def _load(
    ledger: Ledger, asked: Sequence[tuple[Command, Context]], kept: KeptStates
) -> tuple[dict[str, Folded], dict[UUID, str]]:
    """What the decisions read, and the streams that hold commands already. What is kept tells what else will be needed,
    an owner or issuer, so that all of it comes in one round trip."""
    folded: dict[str, Folded] = {}
    known: dict[UUID, str] = {}
    states: dict[str, State] = {}
    while missing := _needed(asked, states) - states.keys():
        likely = states | _states(kept.find(missing))
        while more := _needed(asked, likely) - likely.keys() - missing:
            missing |= more
            likely |= _states(kept.find(more))
        loaded, holds = load_folded(
            ledger, kept, missing, () if folded else [context.command_id for _, context in asked]
        )
        folded |= loaded
        known |= holds
        states = _states(folded)
    return folded, known


def _needed(asked: Sequence[tuple[Command, Context]], states: Mapping[str, State]) -> set[str]:
    return {stream for command, context in asked for stream in needed(command, context, states)}


def _recognised(ledger: Ledger, command: Command, context: Context, known: Mapping[UUID, str]) -> Outcome | None:
    """What the command did when it was carried out before."""
    target = target_of(command)
    stream = str(target)
    if known.get(context.command_id) != stream:
        return None
    history = ledger.load([stream])[stream]
    before = _events_of(context.command_id, history)
    return _outcome(target, history, before, duplicate=True) if before else None


def _decided(command: Command, context: Context, folded: Mapping[str, Folded]) -> Append | Outcome:
    """What the command appends, or its outcome where there is nothing to change. Raises Refused."""
    states = _states(folded)
    try:
        decided = decide(command, Facts(context, states))
    except Refused as refused:
        refused.position = max(one.seen.position for one in folded.values())
        raise
    if not decided:
        return Outcome(events=(), duplicate=False, subject=states[str(target_of(command))])
    return _append(command, context, decided, states)


def _done(
    command: Command, append: Append, appended: Appended, folded: Mapping[str, Folded], kept: KeptStates
) -> Outcome | None:
    """The outcome; None where another try of the same command was faster. Raises Conflict."""
    stream = str(target_of(command))
    if appended.duplicate:
        if appended.events[0].stream != stream:
            raise Conflict("This command id already belongs to another command")
        return None
    now = folded[stream].and_then(appended.events)
    if append.erase:
        # Or what was kept before the erasure would stand here until the next command.
        kept.forget([stream])
    else:
        kept.keep({stream: now})
    return Outcome(events=appended.events, duplicate=False, subject=now.state)


def _states(folded: Mapping[str, Folded]) -> dict[str, State]:
    return {stream: one.state for stream, one in folded.items()}


def _forks(ledger: Ledger, kept: KeptStates, streams: Collection[str]) -> dict[str, State]:
    """States that the batch may go on folding; its own events have no position yet, so they are not kept."""
    folded, _ = load_folded(ledger, kept, streams)
    return {stream: fork(one.state) for stream, one in folded.items()}


def _append(
    command: Command,
    context: Context,
    decided: Sequence[Decided],
    states: dict[str, State],
    read: Collection[str] | None = None,
) -> Append:
    """``read``: the streams that the decision read; found out anew unless given."""
    if read is None:
        read = needed(command, context, states) & states.keys()
    # The target's is among what is read, and where nothing else is, it need not be named anew.
    stream = next(iter(read)) if len(read) == 1 else str(target_of(command))
    state = states[stream]
    at = context.at if state.updated_at is None else max(context.at, state.updated_at)
    new = [
        NewEvent(
            stream=stream,
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
        expected={one: states[one].version for one in read},
        erase=(stream,) if isinstance(command, EraseSubject) else (),
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
