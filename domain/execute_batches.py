"""Many batches of commands one after another: the next is loaded and decided while the ledger appends the last."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from threading import Thread
from time import monotonic
from uuid import UUID

import msgspec

from modledger.domain.commands import Command, Context
from modledger.domain.decide import needed, target_of
from modledger.domain.envelope import subject_of
from modledger.domain.execute import Decision, decide_batch, execute_batch
from modledger.domain.kept_states import BYTES, STREAM_BYTES, STREAMS, UNUSED_SECONDS, most_bytes
from modledger.domain.ledger import UNSEEN, Ledger, Prepared, VersionConflict
from modledger.domain.subjects import State, fold

Items = Sequence[tuple[Command, Context]]


def execute_batches(
    ledger: Ledger,
    batches: Iterable[Items],
    *,
    streams: int = STREAMS,
    size: int = BYTES,
    clock: Callable[[], float] = monotonic,
) -> Generator[list[Decision], None, None]:
    """Carries out each batch as ``execute_batch`` does, in their order, and answers each once it is in the ledger.

    While the ledger appends one, the next is taken, loaded, decided and encoded; it is sent when the one before is
    there. What earlier batches did is not loaded again. Nothing of that has to be right: an append is refused unless
    each stream that its batch read, and be it for a refusal, is where the decision saw it. Then that batch is carried
    out by itself, on what is loaded anew, and the one after it decided again. From batch to batch at most so many
    ``streams`` and ``size`` bytes stay in memory, and by ``clock`` (seconds) none that no batch asked for in ten
    minutes. As in one batch, refusals cannot name the ids of punishments that these batches issued.

    Raises as ``execute_batch``, and what taking a batch raises, but answers those before it first; no later one was
    sent then, and the same batches may be given again. Left in the middle it waits for the one that is under way.
    """
    ahead = _Ahead(ledger, streams, size, clock)
    coming = iter(batches)
    under_way: _Batch | None = None
    try:
        while True:
            items: Items | None = None
            batch: _Batch | None = None
            failed: Exception | None = None
            answer: list[Decision] | None = None
            try:
                if (items := next(coming, None)) is not None:
                    batch = ahead.decide(items, under_way)
            except Exception as error:
                failed = error
            if under_way is not None:
                if under_way.landed():
                    ahead.last = under_way.last or ahead.last
                    answer = under_way.decisions
                else:
                    ahead.forget()
                    answer = execute_batch(ledger, under_way.items)
                    if items is not None:
                        failed, batch = None, ahead.decide(items, None)
            if batch is not None:
                batch.send(ledger)
            under_way = batch
            if answer is not None:
                yield answer
            if failed is not None:
                raise failed
            if batch is None:
                return
    finally:
        if under_way is not None:
            under_way.wait()


class _Batch(msgspec.Struct, kw_only=True):
    """A batch that is decided, and may be under way. ``prepared`` None: it has nothing that the ledger could refuse."""

    items: Items
    decisions: list[Decision]
    appended: list[UUID]
    prepared: Prepared | None
    outcome: "Future[None]" = msgspec.field(default_factory=Future)

    @property
    def last(self) -> UUID | None:
        """The last command that brings something."""
        return self.appended[-1] if self.appended else None

    def send(self, ledger: Ledger) -> None:
        if self.prepared is None:
            self.outcome.set_result(None)
        else:
            # A daemon, so that who is told twice to stop does: what is under way then is there whole or not at all.
            Thread(target=self._send, args=(ledger, self.prepared), name="batch", daemon=True).start()

    def _send(self, ledger: Ledger, prepared: Prepared) -> None:
        try:
            ledger.append_prepared(prepared)
        # Whatever it is, it is raised where the outcome is asked for.
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(None)

    def landed(self) -> bool:
        """Waits; whether it is in the ledger now. False: somebody was faster. Raises what the append raised."""
        try:
            self.outcome.result()
        except VersionConflict:
            return False
        return True

    def wait(self) -> None:
        self.outcome.exception()


class _Ahead:
    """The states of streams as the latest batches left them, of which one may be under way.

    Two generations: that of the batches since the last turn, and the one before, in which what is asked for again is
    found; each holds half of what may stay. The streams of a batch that is under way are never among those that go.
    ``last``: a command that the ledger has to know, or it is not the one that these states were made with.
    """

    def __init__(self, ledger: Ledger, streams: int, size: int, clock: Callable[[], float]) -> None:
        self._ledger, self._streams, self._size, self._clock = ledger, streams, size, clock
        self.forget()

    def forget(self) -> None:
        self.last: UUID | None = None
        self._states: dict[str, State] = {}
        self._earlier: dict[str, State] = {}
        # How many bytes each takes at most.
        self._sizes: dict[str, int] = {}
        self._earlier_sizes: dict[str, int] = {}
        self._bytes = 0
        self._turned = self._clock()
        # Of the streams that this batch asked for those that were loaded and have events.
        self._met: set[str] = set()

    def decide(self, items: Items, under_way: _Batch | None) -> _Batch:
        ids = [context.command_id for _, context in items]
        known = self._ledger.known_commands(ids if self.last is None else [*ids, self.last])
        if self.last is not None and self.last not in known:
            self.forget()
        if under_way is not None:
            known.update(under_way.appended)
        self._turn()
        fresh = [item for item in items if item[1].command_id not in known]
        wanted = {stream for command, context in fresh for stream in needed(command, context, self._states)}
        self._met.clear()
        self._states |= self._find({stream for stream in wanted if stream not in self._states})
        if self._met:
            # After the load: a command whose events it brought must be recognised and not decided a second time.
            again = [context.command_id for command, context in fresh if str(target_of(command)) in self._met]
            known |= self._ledger.known_commands(again)
        decided = decide_batch(items, self._states, known, self._find)
        for append in decided.appends:
            for new in append.events:
                self._grow(new.stream, most_bytes(new.event))
        prepared = None
        if decided.appends or decided.unchanged:
            prepared = self._ledger.prepare_batch(
                decided.appends,
                {stream: self._states[stream].version for stream in decided.unchanged},
                None if under_way is None else under_way.prepared,
            )
        return _Batch(
            items=items,
            decisions=decided.decisions,
            appended=[append.command_id for append in decided.appends],
            prepared=prepared,
        )

    def _turn(self) -> None:
        now = self._clock()
        late = now - self._turned > UNUSED_SECONDS / 2
        if late or self._bytes > self._size / 2 or len(self._states) > self._streams / 2:
            self._earlier, self._states = self._states, {}
            self._earlier_sizes, self._sizes = self._sizes, {}
            self._bytes, self._turned = 0, now

    def _find(self, streams: set[str]) -> dict[str, State]:
        """The states of streams that are not at hand."""
        found = {}
        for stream in streams:
            if stream in self._earlier:
                found[stream] = self._earlier.pop(stream)
                self._grow(stream, self._earlier_sizes.pop(stream))
        if missing := sorted(stream for stream in streams if stream not in found):
            for stream, came in self._ledger.load_since(dict.fromkeys(missing, UNSEEN)).streams.items():
                history = came or []
                found[stream] = fold(subject_of(stream), history)
                self._grow(stream, STREAM_BYTES + sum(most_bytes(happened.event) for happened in history))
                if history:
                    self._met.add(stream)
        return found

    def _grow(self, stream: str, size: int) -> None:
        self._sizes[stream] = self._sizes.get(stream, 0) + size
        self._bytes += size
