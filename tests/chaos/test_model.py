"""The model of one subject, by small histories of which the answer is known."""

from typing import Any

import pytest

from tests.chaos.history import Command, History, Read
from tests.chaos.model import disorder

USER = "user:7"
OWNER, ADMIN, OTHER_ADMIN, MODERATOR = (1, 3), (2, 2), (22, 2), (3, 1)


def made(kind: str, status: int, by: tuple[int, int], began: float, **more: Any) -> Command:
    outcome = {200: "acknowledged", 0: "unknown"}.get(status, "refused")
    about: dict[str, Any] = {"subject": USER, "token": f"{kind} {began}", "ended": began + 1, "keyed": True}
    return Command(
        kind=kind, status=status, actor=by[0], actor_level=by[1], began=began, **{**about, "outcome": outcome, **more}
    )


def warned(number: int, began: float, by: tuple[int, int] = ADMIN, **more: Any) -> Command:
    return made("warn", 200, by, began, answer={"id": number}, **more)


def banned(number: int, began: float, by: tuple[int, int] = ADMIN, **more: Any) -> Command:
    return made("ban", 200, by, began, answer={"id": number}, **more)


def timed_out(number: int, began: float, end: int, **more: Any) -> Command:
    moment = f"1970-01-01T00:00:{end:02}Z"
    return made("timeout", 200, ADMIN, began, answer={"id": number}, body={"expires_at": moment}, **more)


def taken(kind: str, number: int, began: float, **more: Any) -> Command:
    error = f"User 7 already has an active {kind}: punishment {number}"
    body = {"expires_at": "1970-01-01T00:00:59Z"} if kind == "timeout" else {}
    return made(kind, 409, ADMIN, began, answer={"error": error}, body=body, **more)


def lifted(number: int, began: float, status: int = 200, by: tuple[int, int] = ADMIN) -> Command:
    return made("lift", status, by, began, punishment_id=number, answer={"id": number})


def levelled(level: int, old: int, began: float) -> Command:
    return made("permission", 200, ADMIN, began, body={"permission_level": level}, answer={"old_level": old})


def subscribed(kind: str, status: int, began: float, **body: Any) -> Command:
    return made(kind, status, ADMIN, began, body=body)


def search(began: float, *open_ids: int) -> Read:
    records = [{"id": number, "is_lifted": False} for number in open_ids]
    return Read(
        kind="search", subject=USER, session=2, began=began, ended=began + 1, own=0, told=0, shared=True,
        skew_low=0.0, skew_high=0.0, position=0, answer={"punishments": records, "total": len(records)},
    )  # fmt: skip


SOUND: dict[str, list[Command | Read]] = {
    "a ban, a second one refused, lifted, and another": [
        banned(10, 0), taken("ban", 10, 2), lifted(10, 4), banned(11, 6), search(8, 11)
    ],
    "a ban that replaces another": [banned(10, 0), banned(11, 2, body={"replace": True}), search(4, 11)],
    "a timeout beside a ban": [banned(10, 0), timed_out(11, 2, 59), search(4, 10, 11)],
    "a timeout that ended makes room": [timed_out(10, 0, 5), timed_out(11, 7, 59), search(9, 10, 11)],
    "an end between two moments is either": [timed_out(10, 0, 5), taken("timeout", 10, 4.5), timed_out(11, 5.2, 59)],
    "a server that is behind believes the end that was recorded": [
        timed_out(10, 10, 25, skew_low=-30.0, skew_high=-30.0), timed_out(11, 26, 59, skew_low=-30.0, skew_high=-30.0),
    ],
    "a server that is behind takes what has ended for active": [
        timed_out(10, 10, 25), taken("timeout", 10, 26, skew_low=-30.0, skew_high=-30.0)
    ],
    "what is over cannot be lifted": [timed_out(10, 0, 5), lifted(10, 7, 409), warned(12, 9), search(11, 10, 12)],
    "an admin leaves what is another's, an owner does not": [
        banned(10, 0), lifted(10, 2, 403, OTHER_ADMIN), lifted(10, 4, by=OWNER)
    ],
    "a moderator acts on users and not on moderators": [
        warned(10, 0, MODERATOR), levelled(1, 0, 2), made("warn", 403, MODERATOR, 4), levelled(0, 1, 6),
        warned(11, 8, MODERATOR),
    ],
    "one trial ever": [subscribed("trial", 200, 0), subscribed("revoke", 200, 2), subscribed("trial", 409, 4)],
    "nothing to revoke after a lifetime was revoked": [
        subscribed("grant", 200, 0, tier=3), subscribed("grant", 409, 2, tier=2), subscribed("revoke", 200, 4),
        subscribed("revoke", 409, 6),
    ],
    "two bans at once of which one is refused": [banned(10, 0), taken("ban", 10, 0.5)],
}  # fmt: skip
UNSOUND: dict[str, list[Command | Read]] = {
    "two active bans": [banned(10, 0), banned(11, 2)],
    "a ban refused for one that was lifted": [banned(10, 0), lifted(10, 2), taken("ban", 10, 4)],
    "a ban refused for one that never was": [taken("ban", 10, 0)],
    "lifted twice": [warned(10, 0), lifted(10, 2), lifted(10, 4)],
    "a lift refused for no reason": [warned(10, 0), lifted(10, 2, 409)],
    "a lift of what was acknowledged finds nothing": [warned(10, 0), lifted(10, 2, 404)],
    "an admin lifts another admin's": [banned(10, 0), lifted(10, 2, by=OTHER_ADMIN)],
    "a moderator warns a moderator": [levelled(1, 0, 0), warned(10, 2, MODERATOR)],
    "a level that was not the old one": [levelled(1, 0, 0), levelled(0, 0, 2)],
    "two trials": [subscribed("trial", 200, 0), subscribed("revoke", 200, 2), subscribed("trial", 200, 4)],
    "a timeout refused after the other ended": [timed_out(10, 0, 5), taken("timeout", 10, 7)],
    "a server that is behind finds room before the end came anywhere": [
        timed_out(10, 10, 50, skew_low=-30.0, skew_high=-30.0),
        timed_out(11, 26, 59, skew_low=-30.0, skew_high=-30.0),
    ],
    "a second timeout before the first ended": [timed_out(10, 0, 50), timed_out(11, 2, 59)],
    "a read without what was acknowledged": [warned(10, 0), search(2)],
    "a read with what was lifted": [warned(10, 0), lifted(10, 2), search(4, 10)],
    "reads that go back": [made("warn", 0, ADMIN, 0, token="later"), search(2, 77), search(4)],
}


def check(history: list[Command | Read]) -> bool:
    commands = [one for one in history if isinstance(one, Command)]
    reads = [one for one in history if isinstance(one, Read)]
    recorded = {
        one.token: one.answer["id"] for one in commands if one.kind in ("warn", "ban", "timeout") and "id" in one.answer
    }
    return disorder(History(commands, reads, []), USER, {**recorded, "later": 77}) is None


@pytest.mark.parametrize("name", SOUND)
def test_what_may_happen_to_a_user_passes(name: str) -> None:
    assert check(SOUND[name])


@pytest.mark.parametrize("name", UNSOUND)
def test_what_may_not_happen_to_a_user_is_found(name: str) -> None:
    assert not check(UNSOUND[name])


def test_a_command_that_nobody_knows_of_counts_when_the_ledger_has_it() -> None:
    unknown = made("ban", 0, ADMIN, 0, token="later")
    assert check([unknown, taken("ban", 77, 2)])
    assert not check([made("ban", 0, ADMIN, 0, token="never"), taken("ban", 77, 2)])
