"""States kept between commands: the same comes of every command as without, in bounded memory, and no text outlives its
erasure."""

import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest

from modledger.domain import commands
from modledger.domain.commands import Context, IssueBan, IssueWarning
from modledger.domain.envelope import OPERATOR, Actor, NewEvent, Recorded, Subject, subject_of
from modledger.domain.events import ERASED, UserPrefixChanged
from modledger.domain.execute import execute, execute_batch
from modledger.domain.kept_states import Folded, KeptStates, load_folded
from modledger.domain.ledger import UNSEEN, Append, Appended, Ledger, Seen, Since
from modledger.domain.memory_ledger import MemoryLedger
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.refusals import Conflict, Forbidden
from modledger.domain.subjects import evolve, fold, fork, new
from tests.databases import MASTER_KEY
from tests.ledger_faults import dumped, lose_key, lose_since, restore
from tests.scenario import ADMIN, DAY, NAMESPACE, NOW
from tests.test_ledger_contract import store

__all__ = ["store"]

TARGET = Subject("user", 1)
MORE = "a very particular reason"


def by(actor: Actor, name: str, at: datetime = NOW) -> Context:
    return Context(actor=actor, at=at, command_id=uuid5(NAMESPACE, name), correlation_id=UUID(int=0), via="http")


def hire(ledger: Ledger, user_id: int = ADMIN.id or 0, level: int = 2, at: datetime = NOW - DAY) -> None:
    hired = commands.ChangePermission(user_id=user_id, level=level, reason="hired")
    execute(ledger, hired, by(OPERATOR, f"{user_id} becomes {level}", at))


def warn(ledger: Ledger, kept: KeptStates, name: str, target: Subject = TARGET) -> int:
    return execute(ledger, IssueWarning(target=target, reason=MORE), by(ADMIN, name), kept).position


def everything(value: object, met: set[int]) -> int:
    """The bytes of a value and of all that it is made of, each once; classes and constants apart."""
    if id(value) in met or value is None or isinstance(value, type | bool):
        return 0
    met.add(id(value))
    size = sys.getsizeof(value)
    if isinstance(value, msgspec.Struct):
        return size + sum(everything(getattr(value, name), met) for name in value.__struct_fields__)
    if isinstance(value, dict):
        return size + sum(everything(key, met) + everything(one, met) for key, one in value.items())
    if isinstance(value, list | tuple):
        return size + sum(everything(one, met) for one in value)
    return size


class WatchedLedger(MemoryLedger):
    """Notes how many events each load brought, and lets somebody else act before the next append."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.loads: list[dict[str, int | None]] = []
        self.whole: list[str] = []
        self.meanwhile: Any = None

    def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        self.whole += streams
        return super().load(streams)

    def load_since(self, seen: Mapping[str, Seen], command_ids: Collection[UUID] = ()) -> Since:
        since = super().load_since(seen, command_ids)
        self.loads.append({s: None if events is None else len(events) for s, events in since.streams.items()})
        return since

    def append(self, append: Append) -> Appended:
        others, self.meanwhile = self.meanwhile, None
        if others:
            others()
        return super().append(append)


@pytest.fixture
def watched() -> WatchedLedger:
    ledger = WatchedLedger()
    hire(ledger)
    ledger.loads.clear()
    return ledger


# -- what is loaded


def test_the_second_command_loads_nothing_of_what_the_first_did(watched: WatchedLedger) -> None:
    kept = KeptStates()
    for number in range(3):
        warn(watched, kept, f"warning {number}")
    admin = str(ADMIN)
    assert watched.loads == [{"user:1": 0, admin: 1}, {"user:1": 0, admin: 0}, {"user:1": 0, admin: 0}]
    assert watched.whole == []


def test_only_what_another_process_did_is_loaded(watched: WatchedLedger) -> None:
    mine, others = KeptStates(), KeptStates()
    warn(watched, mine, "first")
    for number in range(3):
        warn(watched, others, f"of others {number}")
    watched.loads.clear()
    assert warn(watched, mine, "second") == watched.head()
    assert watched.loads == [{"user:1": 3, str(ADMIN): 0}]


def test_who_owns_a_guild_is_loaded_with_it_once_the_owner_is_known(watched: WatchedLedger) -> None:
    kept = KeptStates()
    guild = Subject("guild", 7)
    execute(watched, commands.RegisterGuild(guild_id=7, name="Harbour", owner_id=5), by(Actor("bot", 1), "guild"))
    watched.loads.clear()
    for number in range(2):
        warn(watched, kept, f"warning {number}", guild)
    assert [set(load) for load in watched.loads] == [
        {"guild:7", str(ADMIN)},
        {"user:5"},
        {"guild:7", str(ADMIN), "user:5"},
    ]


def test_a_batch_loads_only_what_came_since_the_last_one(watched: WatchedLedger) -> None:
    kept = KeptStates()
    for number in range(3):
        items = [(IssueWarning(target=TARGET, reason=MORE), by(ADMIN, f"{number} {index}")) for index in range(4)]
        assert [len(one.events) for one in execute_batch(watched, items, kept)] == [1] * 4
    assert [load["user:1"] for load in watched.loads] == [0, 4, 4]
    warning = IssueWarning(target=TARGET, reason=MORE)
    assert execute(watched, warning, by(ADMIN, "after"), kept).subject.version == 13


# -- retries


def test_a_retry_is_recognised_though_its_event_is_older_than_what_is_kept(store: Ledger) -> None:
    hire(store)
    kept = KeptStates()
    ban = IssueBan(target=TARGET, reason=MORE)
    first = execute(store, ban, by(ADMIN, "ban"), kept)
    number = first.events[0].version
    execute(store, commands.LiftPunishment(target=TARGET, number=number, reason="ok"), by(ADMIN, "lift"), kept)
    for name in ("one", "two"):
        warn(store, kept, name)
    again = execute(store, ban, by(ADMIN, "ban"), kept)
    assert (again.duplicate, again.events, again.subject) == (True, first.events, first.subject)
    assert store.head() == first.position + 3


def test_a_retry_is_recognised_when_somebody_else_carried_the_command_out(store: Ledger) -> None:
    hire(store)
    mine, others = KeptStates(), KeptStates()
    warn(store, mine, "known")
    ban = IssueBan(target=TARGET, reason=MORE)
    first = execute(store, ban, by(ADMIN, "ban"), others)
    again = execute(store, ban, by(ADMIN, "ban"), mine)
    assert (again.duplicate, again.events, again.subject) == (True, first.events, first.subject)
    with pytest.raises(Conflict, match="belongs to another command"):
        execute(store, IssueBan(target=Subject("user", 2), reason=MORE), by(ADMIN, "ban"), mine)


# -- somebody was faster


def test_a_conflict_is_decided_again_on_what_the_faster_did(watched: WatchedLedger) -> None:
    kept = KeptStates()
    warn(watched, kept, "known")
    ban = IssueBan(target=TARGET, reason=MORE)
    watched.meanwhile = lambda: execute(watched, ban, by(ADMIN, "faster"), KeptStates())
    with pytest.raises(Conflict, match="already has an active ban"):
        execute(watched, ban, by(ADMIN, "slower"), kept)
    watched.meanwhile = lambda: hire(watched, level=0, at=NOW)
    with pytest.raises(Forbidden, match="Moderator access required"):
        warn(watched, kept, "of one who was fired meanwhile")


def test_threads_that_share_what_is_kept_lose_nothing_and_leave_it_right(ledger: PostgresLedger) -> None:
    hire(ledger)
    kept = KeptStates(streams=4)
    targets = [Subject("user", number) for number in range(1, 6)]

    def act(number: int) -> None:
        target = targets[number % len(targets)]
        position = warn(ledger, kept, f"warning {number}", target)
        issued = ledger.at(position)
        assert issued is not None
        lift = commands.LiftPunishment(target=target, number=issued.version, reason="ok")
        execute(ledger, lift, by(ADMIN, f"lift {number}"), kept)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, range(100)))
    for target in targets:
        whole = ledger.load([str(target)])[str(target)]
        assert len(whole) == 40
        folded, _ = load_folded(ledger, kept, [str(target)])
        assert folded[str(target)].state == fold(target, whole)
    assert len(kept) <= 4


# -- the ledger is not what it was


def test_what_a_restored_ledger_no_longer_holds_is_not_decided_on(store: Ledger) -> None:
    hire(store)
    kept = KeptStates()
    warn(store, kept, "known")
    before = dumped(store)  # type: ignore[arg-type]
    ban = IssueBan(target=TARGET, reason=MORE)
    first = execute(store, ban, by(ADMIN, "ban"), kept)
    restore(store, before)  # type: ignore[arg-type]
    again = execute(store, ban, by(ADMIN, "ban"), kept)
    assert not again.duplicate
    assert [one.version for one in again.events] == [one.version for one in first.events]
    # Gone again, and now the stream is as long as it was, with something else in it.
    restore(store, before)  # type: ignore[arg-type]
    warn(store, KeptStates(), "another")
    banned = execute(store, ban, by(ADMIN, "new ban"), kept)
    assert banned.subject == fold(TARGET, store.load(["user:1"])["user:1"])
    assert banned.subject.version == 3


def test_an_admin_whose_promotion_was_lost_is_none(store: Ledger) -> None:
    hire(store, level=1)
    kept = KeptStates()
    warn(store, kept, "known")
    head = store.head()
    hire(store)
    execute(store, IssueBan(target=TARGET, reason=MORE), by(ADMIN, "ban"), kept)
    lose_since(store, head + 1)  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match="Admin access required"):
        execute(store, IssueBan(target=TARGET, reason=MORE), by(ADMIN, "ban"), kept)


# -- erasure


def held_text(kept: KeptStates, stream: str) -> str:
    return repr([one.state for one in kept.find([stream]).values()])


def test_what_is_kept_of_the_erased_goes_with_the_erasure(store: Ledger) -> None:
    hire(store)
    kept = KeptStates()
    execute(store, commands.RegisterUser(user_id=1, username="Quill"), by(OPERATOR, "known"), kept)
    warn(store, kept, "warning")
    assert MORE in held_text(kept, "user:1")
    assert "Quill" in held_text(kept, "user:1")
    execute(store, commands.EraseSubject(target=TARGET, reason="asked"), by(OPERATOR, "erase"), kept)
    assert kept.find(["user:1"]) == {}


def test_what_is_kept_of_one_erased_in_a_batch_goes_as_well(store: Ledger) -> None:
    hire(store)
    kept = KeptStates()
    warn(store, kept, "warning")
    execute_batch(store, [(commands.EraseSubject(target=TARGET, reason="asked"), by(OPERATOR, "erase"))], kept)
    assert kept.find(["user:1"]) == {}


def test_what_another_process_erased_goes_with_the_next_command(database: str, ledger: PostgresLedger) -> None:
    hire(ledger)
    kept = KeptStates()
    warn(ledger, kept, "warning")
    with PostgresLedger(database, MASTER_KEY) as other:
        execute(other, commands.EraseSubject(target=TARGET, reason="asked"), by(OPERATOR, "erase"))
    second = execute(ledger, IssueWarning(target=TARGET, reason="new"), by(ADMIN, "second"), kept).subject
    assert [one.reason for one in second.punishments.values()] == [ERASED, "new"]  # type: ignore[union-attr]
    assert MORE not in held_text(kept, "user:1")


def test_text_whose_key_is_gone_is_decided_on_no_more(store: Ledger) -> None:
    hire(store)
    kept = KeptStates()
    warn(store, kept, "warning")
    lose_key(store, "user:1")  # type: ignore[arg-type]
    prefix = commands.ChangeUserPrefix(user_id=1, prefix="?")
    state = execute(store, prefix, by(OPERATOR, "prefix"), kept).subject
    assert [one.reason for one in state.punishments.values()] == [ERASED]  # type: ignore[union-attr]
    assert MORE not in held_text(kept, "user:1")


# -- memory


def folded(user_id: int, position: int = 1, weight: int = 0) -> dict[str, Folded]:
    state = new(Subject("user", user_id))
    read = Seen(version=1, position=position)
    return {f"user:{user_id}": Folded(state=state, seen=read, weight=weight, bytes=2048 + weight)}


def test_the_longest_unused_leave_first() -> None:
    kept = KeptStates(streams=3)
    for user_id in (1, 2, 3):
        kept.keep(folded(user_id))
    kept.find(["user:1"])
    kept.keep(folded(4))
    assert set(kept.find([f"user:{user_id}" for user_id in range(1, 5)])) == {"user:1", "user:3", "user:4"}
    kept.forget(["user:3", "user:9"])
    assert len(kept) == 2


def test_no_more_bytes_are_kept_than_were_allowed() -> None:
    kept = KeptStates(size=100_000)
    for user_id in range(1, 200):
        kept.keep(folded(user_id, weight=user_id * 100))
        assert kept.bytes <= 100_000
    assert 0 < len(kept) < 20
    before = len(kept)
    kept.keep(folded(500, weight=100_000))
    assert kept.find(["user:500"]) == {}
    assert len(kept) == before
    kept.forget([f"user:{user_id}" for user_id in range(1, 200)])
    assert (len(kept), kept.bytes) == (0, 0)


def test_a_state_that_has_grown_too_large_is_kept_no_longer() -> None:
    kept = KeptStates(size=100_000)
    kept.keep(folded(1))
    kept.keep(folded(1, position=2, weight=100_000))
    assert (kept.find(["user:1"]), kept.bytes) == ({}, 0)


def test_of_two_threads_the_one_that_read_further_is_kept() -> None:
    kept = KeptStates()
    kept.keep(folded(1, position=5))
    kept.keep(folded(1, position=4))
    assert kept.find(["user:1"])["user:1"].seen.position == 5


def test_what_nobody_asked_for_in_a_while_is_gone() -> None:
    now = 0.0
    kept = KeptStates(unused=600, clock=lambda: now)
    kept.keep(folded(1) | folded(2))
    now = 400.0
    kept.find(["user:1"])
    now = 700.0
    kept.forget_unused()
    assert (len(kept), set(kept.find(["user:1", "user:2"]))) == (1, {"user:1"})
    now = 1301.0
    assert kept.find(["user:1"]) == {}
    assert kept.bytes == 0


def test_a_stream_without_events_takes_no_place(watched: WatchedLedger) -> None:
    kept = KeptStates()
    load_folded(watched, kept, ["user:77", "guild:77", "bot:77", str(ADMIN)])
    assert set(kept.find(["user:77", "guild:77", "bot:77", str(ADMIN)])) == {str(ADMIN)}


@pytest.mark.parametrize("reason", ["x", "spam, and then some more", "Ж" * 512, "😀" * 512])
def test_a_state_takes_no_more_memory_than_is_counted_for_it(ledger: PostgresLedger, reason: str) -> None:
    hire(ledger)
    kept = KeptStates()
    stream = str(TARGET)
    picture = "https://a.example/" + "p" * 2000
    known = commands.RegisterUser(user_id=1, username="Ж" * 32, avatar_url=picture)
    execute(ledger, known, by(OPERATOR, "known"), kept)
    number = 0
    for count in (0, 1, 40):
        while number < count:
            number += 1
            ban = IssueBan(target=TARGET, reason=reason, expires_at=NOW + timedelta(days=number))
            issued = execute(ledger, ban, by(ADMIN, f"ban {number}"), kept).events[-1].version
            changed = commands.AmendPunishment(target=TARGET, number=issued, expires_at=NOW + DAY * 90)
            execute(ledger, changed, by(ADMIN, f"change {number}"), kept)
            lift = commands.LiftPunishment(target=TARGET, number=issued, reason=reason)
            execute(ledger, lift, by(ADMIN, f"lift {number}"), kept)
        one = kept.find([stream])[stream]
        # Loaded anew, so that nothing of it is shared with the events that were appended.
        loaded, _ = load_folded(ledger, KeptStates(), [stream])
        assert loaded[stream].bytes == one.bytes
        taken = everything(loaded[stream], set()) + sys.getsizeof(stream)
        assert taken <= one.bytes <= 5 * taken


def test_what_a_long_stream_leaves_behind_is_small(ledger: PostgresLedger) -> None:
    for first in (0, 500):
        changes = [
            NewEvent(
                stream="user:1",
                version=number + 1,
                event=UserPrefixChanged(old_prefix="!", prefix="?"),
                event_id=uuid5(NAMESPACE, str(number)),
                occurred_at=NOW,
                actor=Actor("user", 1),
                correlation_id=UUID(int=0),
                via="http",
            )
            for number in range(first, first + 500)
        ]
        ledger.append(Append(command_id=uuid5(NAMESPACE, f"at {first}"), events=changes, expected={"user:1": first}))
    kept = KeptStates()
    found, _ = load_folded(ledger, kept, ["user:1"])
    assert found["user:1"].seen == UNSEEN.and_then(ledger.load(["user:1"])["user:1"])
    assert found["user:1"].state.version == 1000
    assert kept.bytes < 4096


# -- what is kept is nobody's to change


def told(ledger: Ledger) -> None:
    """A user, a guild and a bot, each with what changes fields and what changes a table of its state."""
    hire(ledger)
    guild = Subject("guild", 7)
    for number, command in enumerate(
        (
            commands.RegisterUser(user_id=1, username="first"),
            IssueBan(target=TARGET, reason="raid"),
            IssueWarning(target=TARGET, reason="spam"),
            commands.UpdateUser(user_id=1, username="second"),
            commands.LiftPunishment(target=TARGET, number=2, reason="a mistake"),
            IssueBan(target=TARGET, reason="raid again"),
            commands.RegisterGuild(guild_id=7, name="Harbour", owner_id=5),
            IssueBan(target=guild, reason="spam"),
            commands.UpdateGuild(guild_id=7, name="Haven"),
            commands.AmendPunishment(target=guild, number=2, reason="spam, and a lot of it"),
            commands.RegisterBot(bot_id=9, name="helper", owner_id=5),
            commands.UpdateBot(bot_id=9, name="servant"),
        )
    ):
        execute(ledger, command, by(OPERATOR, f"told {number}"))


@pytest.mark.parametrize("stream", ["user:1", "guild:7", "bot:9"])
def test_whoever_goes_on_from_a_kept_state_leaves_it_as_it_was(stream: str) -> None:
    ledger = MemoryLedger(lambda: NOW)
    told(ledger)
    events = ledger.load([stream])[stream]
    whole = fold(subject_of(stream), events)
    for after in range(1, len(events)):
        kept = Folded(state=new(subject_of(stream)), seen=UNSEEN).and_then(events[:after])
        before = deepcopy(kept.state)
        later = [kept.and_then(events[after:until]) for until in (after + 1, len(events))]
        assert later[-1].state == whole != before
        assert later[0].state == fold(subject_of(stream), events[: after + 1])
        mine = fork(kept.state)
        assert mine == before
        for happened in events[after:]:
            evolve(mine, happened)
        assert mine == whole
        assert kept.state == before


def test_a_batch_goes_on_folding_without_a_trace_in_what_is_kept(watched: WatchedLedger) -> None:
    kept = KeptStates()
    warn(watched, kept, "first")
    before = deepcopy({stream: one.state for stream, one in kept.find([str(TARGET), str(ADMIN)]).items()})
    assert len(before) == 2
    ban = (IssueBan(target=TARGET, reason="raid"), by(ADMIN, "ban"))
    warning = (IssueWarning(target=TARGET, reason="spam"), by(ADMIN, "warning"))
    assert [len(one.events) for one in execute_batch(watched, [ban, warning], kept)] == [1, 1]
    assert {stream: one.state for stream, one in kept.find(before).items()} == before
    assert warn(watched, kept, "afterwards") == watched.head()
