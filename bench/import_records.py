"""`modledger import` of a file of real shape (a ban database of 1,700 records was the pattern)."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psycopg

from bench.memory import cpu_seconds
from bench.server import create_database
from bench.table import Result
from bench.world import World
from modledger.domain.postgres_ledger import PostgresLedger
from modledger.workers.importer import import_file
from modledger.workers.migrate import migrate

FREQUENT = ["spam", "raid", "scam link", "insults", "alt account", "nsfw", "ads", "slurs", "trolling", "ban evasion"]
WORDS = ["posted", "sent", "the", "same", "in", "general", "chat", "after", "warning", "to", "others", "again", "links"]
FIRST_USER, FIRST_GUILD, FIRST_BOT = 100_000_000_000_000_000, 200_000_000_000_000_000, 300_000_000_000_000_000
STAFF = 40


def records(count: int, now: datetime, seed: int = 1) -> list[dict[str, Any]]:
    """``count`` records of all six kinds, none of which breaks a rule: subjects first, then what happened in order of
    time."""
    draw = random.Random(seed)
    users, guilds, bots = max(STAFF, count * 40 // 100), count * 2 // 100, count // 500
    subjects = [_user(number, now, draw) for number in range(users)]
    subjects += [_guild(number, users, now, draw) for number in range(guilds)]
    subjects += [_bot(number, users, now, draw) for number in range(bots)]
    acts: list[dict[str, Any]] = []
    acts += [act for number in range(count // 50) for act in _tiers(FIRST_USER + number * 3, number, now, draw)]
    acts += [_level(number, now, draw) for number in range(min(count // 50, users))]
    target = 0
    while len(subjects) + len(acts) < count:
        acts += _punishments(FIRST_USER + draw.randrange(2 * users), target, now, draw)
        target += 1
    acts = sorted(acts[: count - len(subjects)], key=lambda act: str(act["created_at"]))
    return [*subjects[: count - len(acts)], *acts]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def _user(number: int, now: datetime, draw: random.Random) -> dict[str, Any]:
    user_id = FIRST_USER + number
    return {
        "kind": "user",
        "external_id": f"u{number}",
        "discord_id": str(user_id),
        "username": f"user_{number}",
        "avatar_url": f"https://cdn.discordapp.com/avatars/{user_id}/{draw.getrandbits(64):016x}.png",
        "created_at": _text(now - timedelta(days=1500, seconds=draw.randrange(86400 * 300))),
    }


def _guild(number: int, users: int, now: datetime, draw: random.Random) -> dict[str, Any]:
    return {
        "kind": "guild",
        "external_id": f"g{number}",
        "discord_id": str(FIRST_GUILD + number),
        "name": f"Guild {number}",
        "owner_discord_id": str(FIRST_USER + draw.randrange(users)),
        "created_at": _text(now - timedelta(days=1400, seconds=draw.randrange(86400 * 100))),
    }


def _bot(number: int, users: int, now: datetime, draw: random.Random) -> dict[str, Any]:
    return {
        "kind": "bot",
        "external_id": f"b{number}",
        "discord_id": str(FIRST_BOT + number),
        "name": f"Bot {number}",
        "owner_discord_id": str(FIRST_USER + draw.randrange(users)),
        "created_at": _text(now - timedelta(days=1300)),
    }


def _level(number: int, now: datetime, draw: random.Random) -> dict[str, Any]:
    return {
        "kind": "permission",
        "external_id": f"l{number}",
        "discord_user_id": str(FIRST_USER + number),
        "old_level": 0,
        "new_level": 1 + (number % 20 == 0),
        "changed_by_id": None if number < STAFF else str(FIRST_USER + number % STAFF),
        "reason": "joined the team",
        "created_at": _text(now - timedelta(days=1000, seconds=draw.randrange(86400 * 100))),
    }


def _tiers(user_id: int, number: int, now: datetime, draw: random.Random) -> Iterator[dict[str, Any]]:
    """A trial and, for most, a month of premium after it; the ends are left to be found."""
    at = now - timedelta(days=draw.randrange(5, 900))
    for order, (tier, days) in enumerate([(1, 7), (2, 30)][: 1 + (draw.random() < 0.6)]):
        if at >= now:
            return
        yield {
            "kind": "subscription",
            "external_id": f"s{number}-{order}",
            "discord_user_id": str(user_id),
            "old_tier": 0,
            "new_tier": tier,
            "expires_at": _text(at + timedelta(days=days)),
            "granted_by_id": None,
            "reason": None,
            "created_at": _text(at),
        }
        at += timedelta(days=days + draw.randrange(60))


def _punishments(user_id: int, target: int, now: datetime, draw: random.Random) -> Iterator[dict[str, Any]]:
    """All of one user's: half have one, one in a hundred more than 20, nobody more than 44. One after the other."""
    user_id += target * 1_000_000
    at = now - timedelta(days=1000, seconds=draw.randrange(86400 * 150))
    for order in range(min(44, int(draw.paretovariate(1.0)))):
        at += timedelta(seconds=draw.randrange(3600, 86400 * 18))
        if at >= now - timedelta(hours=1):
            return
        kind = draw.choices(["WARNING", "TIMEOUT", "BAN"], [35, 40, 25])[0]
        expires = lifted = None
        if kind == "TIMEOUT":
            expires = at + timedelta(seconds=60 + int(draw.lognormvariate(8.19, 1.2)))  # median one hour
        elif kind == "BAN" and draw.random() > 0.19:
            expires = at + timedelta(days=1 + int(draw.expovariate(1 / 20)))
        if draw.random() < 0.33 and kind != "WARNING":
            lifted = at + (min(expires, now) - at) * draw.random() if expires else at + (now - at) * draw.random()
        yield {
            "kind": "punishment",
            "external_id": f"p{target}-{order}",
            "discord_user_id": str(user_id),
            "discord_guild_id": None,
            "punishment_type": kind,
            "discord_issued_by_id": str(FIRST_USER + min(STAFF - 1, int(draw.paretovariate(0.6)) - 1)),
            "reason": draw.choice(FREQUENT) if draw.random() < 0.3 else _reason(draw),
            "expires_at": _text(expires),
            "is_lifted": lifted is not None,
            "lifted_at": _text(lifted),
            "discord_lifted_by_id": None if lifted is None else str(FIRST_USER + draw.randrange(STAFF)),
            "created_at": _text(at),
        }
        if kind == "BAN":
            end = lifted or expires
            if end is None or end >= now:
                return
            at = max(at, end)
        elif kind == "TIMEOUT" and expires is not None:
            at = max(at, lifted or expires)


def _reason(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=min(14, 1 + int(draw.expovariate(0.5)))))


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def measure(world: World) -> dict[str, Result | str]:
    """Each round into a database of its own, that is empty."""
    now, took, second, used = datetime.now(UTC), [], 0.0, []
    path = world.folder() / "records.jsonl"
    write(path, records(world.effort.records, now))
    postmaster = _postmaster(world.scratch())
    for _ in range(world.effort.rounds):
        conninfo = create_database(world.scratch(), "import_records")
        migrate(conninfo)
        with PostgresLedger(conninfo, bytes(range(32))) as ledger:
            for again in (False, True):
                cpu, began = (time.process_time(), cpu_seconds(postmaster)), time.perf_counter()
                report = import_file(ledger, path, now=now)
                rate = report.read / (time.perf_counter() - began)
                if again:
                    second = rate
                else:
                    took.append(rate)
                    spent = (time.process_time() - cpu[0], cpu_seconds(postmaster) - cpu[1])
                    used.append([seconds * 1e6 / report.read for seconds in spent])
    size = path.stat().st_size / 1e6
    python, database = (median(each) for each in zip(*used, strict=True))
    note = (
        f"{world.effort.records:,} records of all kinds, {size:.1f} MB; CPU of a record {python:.0f} µs, and"
        f" {database:.0f} µs in PostgreSQL; the same file again {second:,.0f} records/s"
    )
    return {"import": Result(figure=took, note=note)}


def _postmaster(conninfo: str) -> int:
    """The process that started the one behind a connection; 0 where the kernel does not tell."""
    with psycopg.connect(conninfo) as connection:
        stat = Path(f"/proc/{connection.info.backend_pid}/stat")
        return int(stat.read_text().rpartition(")")[2].split()[1]) if stat.exists() else 0
