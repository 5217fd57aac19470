"""The rules of api.md §2 and §3 told a second time, from recorded events alone; of ours it uses the names only.

The property test compares the decisions with this; so it shares no code with ``rank``, ``facts`` or ``subjects``.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from modledger.domain import commands, events
from modledger.domain.commands import Command
from modledger.domain.envelope import Actor, Recorded

History = Sequence[Recorded]

LEAST_LEVEL: dict[type[Command], int] = {
    commands.IssueWarning: 1,
    commands.IssueTimeout: 1,
    commands.LiftPunishment: 1,
    commands.VoidPunishment: 1,
    commands.OverturnPunishment: 1,
    commands.AmendPunishment: 1,
    commands.IssueBan: 2,
    commands.GrantSubscription: 2,
    commands.StartTrial: 2,
    commands.RevokeSubscription: 2,
    commands.ChangePermission: 2,
    commands.UpdateGuild: 2,
    commands.RegisterBot: 2,
    commands.UpdateBot: 2,
    commands.RegenerateBotKey: 2,
    commands.EraseSubject: 3,
}
CHANGES = (
    commands.LiftPunishment,
    commands.VoidPunishment,
    commands.OverturnPunishment,
    commands.AmendPunishment,
)
# What no user brings, or also others than users: kinds of actors by command.
OTHERS: dict[type[Command], set[str]] = {
    commands.RegisterUser: {"bot", "system", "operator"},
    commands.UpdateUser: {"bot", "system", "operator"},
    commands.RegisterGuild: {"bot", "system", "operator"},
    commands.UpdateGuild: {"bot", "system", "operator"},
    commands.SyncGuild: {"bot", "system", "operator"},
    commands.SyncBot: {"bot"},
    commands.ChangePermission: {"operator"},
    commands.EraseSubject: {"operator"},
    commands.ChangeUserPrefix: {"operator"},
    commands.ChangeGuildPrefix: {"operator"},
    commands.LapsePunishment: {"system"},
    commands.EndSubscription: {"system"},
}
BRING_OWNERS = events.GuildRegistered | events.GuildOwnerChanged | events.BotRegistered | events.BotOwnerChanged
SWITCHES = events.BotRegistered | events.BotActivated | events.BotDeactivated | events.SubjectErased
KINDS: dict[Any, str] = {
    events.UserWarned: "warning",
    events.GuildWarned: "warning",
    events.UserTimedOut: "timeout",
    events.UserBanned: "ban",
    events.GuildBlacklisted: "blacklisting",
}


class Span(msgspec.Struct):
    """A punishment from ``start`` to ``end`` (None: for ever); ``over``: an event ended it."""

    number: int
    kind: str
    issuer: Actor
    start: datetime
    end: datetime | None
    over: bool = False

    def holds(self, at: datetime) -> bool:
        return not self.over and (self.end is None or self.end > at)


def stream_of(command: Command) -> str:
    fields: Any = command
    if hasattr(command, "target"):
        return str(fields.target)
    for kind in ("bot", "guild", "user"):
        if hasattr(command, f"{kind}_id"):
            return f"{kind}:{getattr(command, f'{kind}_id')}"
    raise AssertionError(command)


def of(history: History, stream: str) -> list[Recorded]:
    return [happened for happened in history if happened.stream == stream]


def level(history: History, user_id: int | None) -> int:
    """The level given last; 0 for nobody."""
    given = [
        one.event.new_level for one in of(history, f"user:{user_id}") if isinstance(one.event, events.PermissionChanged)
    ]
    return given[-1] if given else 0


def owner(history: History, stream: str) -> int | None:
    """Whose rank protects the stream: the user's own, or the one who owned the guild or bot last."""
    if stream.startswith("user:"):
        return int(stream.removeprefix("user:"))
    owners = [one.event.owner_id for one in of(history, stream) if isinstance(one.event, BRING_OWNERS)]
    return owners[-1] if owners else None


def inactive(history: History, stream: str) -> bool:
    """Whether the bot is registered and was switched off last."""
    switches = [one.event for one in of(history, stream) if isinstance(one.event, SWITCHES)]
    return bool(switches) and isinstance(switches[-1], events.BotDeactivated)


def spans(history: History, stream: str) -> list[Span]:
    """Every punishment of the subject."""
    found: dict[int, Span] = {}
    for one in of(history, stream):
        event: Any = one.event
        if type(event) in KINDS:
            end = getattr(event, "expires_at", None)
            found[one.version] = Span(one.version, KINDS[type(event)], one.actor, one.occurred_at, end)
        elif isinstance(event, events.PunishmentAmended):
            found[event.number].end = event.expires_at
        elif event.TOPIC.startswith("punishment."):
            found[event.number].end, found[event.number].over = one.occurred_at, True
    return list(found.values())


def restricted(history: History, user_id: int | None, at: datetime) -> bool:
    return any(span.kind in ("timeout", "ban") and span.holds(at) for span in spans(history, f"user:{user_id}"))


def above(history: History, actor_id: int | None, other_id: int | None) -> bool:
    mine = level(history, actor_id)
    return actor_id != other_id and (mine == 3 or mine > level(history, other_id))


def may(command: Command, actor: Actor, at: datetime, history: History) -> bool:
    """Whether this actor is allowed to do this to that target, whatever else may stand in the way."""
    stream = stream_of(command)
    if isinstance(command, commands.SyncBot):
        return str(actor) == stream and not inactive(history, stream)
    if isinstance(command, commands.UpdateGuild) and command.state is not msgspec.UNSET and actor.kind == "bot":
        return False
    if actor.kind != "user":
        return actor.kind in OTHERS.get(type(command), {"system", "operator"})
    if isinstance(command, commands.ChangeUserPrefix):
        return command.user_id == actor.id
    if isinstance(command, commands.ChangeGuildPrefix):
        return owner(history, stream) == actor.id
    least = LEAST_LEVEL.get(type(command))
    if least is None or restricted(history, actor.id, at) or level(history, actor.id) < least:
        return False
    protected = owner(history, stream)
    if isinstance(command, CHANGES):
        changed = [span for span in spans(history, stream) if span.number == command.number]
        return all(may_change(span, actor, protected, history) for span in changed)
    if not above(history, actor.id, protected):
        return False
    if isinstance(command, commands.UpdateGuild | commands.UpdateBot) and isinstance(command.owner_id, int):
        return above(history, actor.id, command.owner_id)
    if isinstance(command, commands.RegisterBot):
        return above(history, actor.id, command.owner_id)
    if isinstance(command, commands.ChangePermission):
        return command.level < level(history, actor.id) and command.level < 3
    if isinstance(command, commands.IssueTimeout | commands.IssueBan) and command.replace:
        kind = "timeout" if isinstance(command, commands.IssueTimeout) else "ban"
        kind = "blacklisting" if stream.startswith("guild:") else kind
        now = max([at, *(one.occurred_at for one in of(history, stream))])
        replaced = [span for span in spans(history, stream) if span.kind == kind and span.holds(now)]
        return all(may_change(span, actor, protected, history) for span in replaced)
    return True


def may_change(span: Span, actor: Actor, protected: int | None, history: History) -> bool:
    """Own ones; from Admin on the system's, and those whose issuer and target are both below."""
    if actor.id == protected:
        return False
    if span.issuer == actor:
        return True
    if level(history, actor.id) < 2:
        return False
    if span.issuer.kind != "user":
        return True
    return above(history, actor.id, span.issuer.id) and above(history, actor.id, protected)


def overlaps(history: History, stream: str) -> list[tuple[int, int]]:
    """Pairs of bans, timeouts or blacklistings of one subject that hold at one instant."""
    exclusive = [span for span in spans(history, stream) if span.kind != "warning"]
    return [
        (one.number, other.number)
        for one in exclusive
        for other in exclusive
        if one.number < other.number
        and one.kind == other.kind
        and (one.end is None or other.start < one.end)
        and (other.end is None or one.start < other.end)
        and one.start != one.end
        and other.start != other.end
    ]


def tiers_follow_each_other(history: History, stream: str) -> bool:
    """Each change of a tier starts from the tier that the one before it led to, or from Basic once that ran out."""
    tier, until = 0, None
    for one in of(history, stream):
        event: Any = one.event
        if not event.TOPIC.startswith("subscription."):
            continue
        ran_out = until is not None and until <= one.occurred_at
        if isinstance(event, events.SubscriptionEnded):
            if not ran_out or until != one.occurred_at or event.old_tier != tier:
                return False
            tier, until = 0, None
        elif isinstance(event, events.SubscriptionRevoked):
            if ran_out or tier == 0 or event.old_tier != tier:
                return False
            tier, until = 0, None
        elif isinstance(event, events.SubscriptionRenewed):
            if ran_out or tier != 2 or event.old_expires_at != until or event.expires_at <= event.old_expires_at:
                return False
            until = event.expires_at
        else:
            if ran_out or event.old_tier != tier:
                return False
            tier, until = (1 if isinstance(event, events.TrialStarted) else event.tier), event.expires_at
    return True
