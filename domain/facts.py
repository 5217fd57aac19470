"""What a decision may look at: the command's context and the folded streams, and what it answers."""

from collections.abc import Mapping
from datetime import UTC, datetime
from unicodedata import category

import msgspec

from modledger.domain.commands import Context
from modledger.domain.envelope import Actor, Subject
from modledger.domain.events import ERASED, Event
from modledger.domain.rank import require_level, require_may_act_on, require_unrestricted
from modledger.domain.refusals import Forbidden, Invalid, NotFound, Stale
from modledger.domain.subjects import Account, Bot, Guild, State, User

MAX_REASON = 512


class Decided(msgspec.Struct, frozen=True):
    """An event that shall happen to the command's target. ``at`` None: at the time of the command, by its actor."""

    event: Event
    at: datetime | None = None
    actor: Actor | None = None


class Facts(msgspec.Struct, frozen=True):
    """The folded streams that a command needs, by stream name."""

    context: Context
    states: Mapping[str, State]

    @property
    def actor(self) -> User | None:
        """The acting user; None when a bot, the system or an operator acts."""
        user_id = self.context.actor.user_id
        return None if user_id is None else self.user(user_id)

    def user(self, user_id: int) -> User:
        state = self.states[f"user:{user_id}"]
        assert isinstance(state, User)
        return state

    def guild(self, guild_id: int) -> Guild:
        state = self.states[f"guild:{guild_id}"]
        assert isinstance(state, Guild)
        return state

    def bot(self, bot_id: int) -> Bot:
        state = self.states[f"bot:{bot_id}"]
        assert isinstance(state, Bot)
        return state

    def account(self, target: Subject) -> Account:
        """The target as what users and guilds have in common."""
        state = self.states[str(target)]
        assert isinstance(state, Account)
        return state

    def answerable(self, target: Subject) -> User | None:
        """The user whose rank protects the target: itself, or the owner of a guild or bot; None without an owner."""
        state = self.states[str(target)]
        if isinstance(state, User):
            return state
        return None if state.owner_id is None else self.user(state.owner_id)

    def at(self, target: Subject) -> datetime:
        """The time of the decision: the command's, but never before what already happened to the target, so that a
        server whose clock is behind cannot end something before it began."""
        known = self.states[str(target)].updated_at
        return self.context.at if known is None else max(self.context.at, known)

    def authorise(self, target: Subject, level: int, *, others: tuple[str, ...] = ("system", "operator")) -> None:
        """Raises Forbidden unless the actor is an unrestricted user of at least that level who may act on the target,
        or of one of the ``others`` kinds."""
        actor = self.actor
        if actor is None:
            if self.context.actor.kind not in others:
                raise Forbidden("This needs a user's session")
            return
        require_unrestricted(actor, self.context.at)
        require_level(actor, level)
        require_may_act_on(actor, self.answerable(target), target.kind)

    def require_known(self, target: Subject) -> None:
        """Raises NotFound for a subject that nothing ever happened to."""
        if self.states[str(target)].version == 0:
            raise NotFound(f"{target.kind.capitalize()} not found")

    def require_version(self, version: int) -> None:
        """Raises Stale when the caller has seen another version of the record."""
        if self.context.if_match is not None and self.context.if_match != version:
            raise Stale(f"The record has changed since: it is at version {version}")


def reason(text: str) -> str:
    """A reason without the white space around it: 1–512 characters, no NUL (api.md §3); raises Invalid."""
    trimmed = text.strip()
    if not 1 <= len(trimmed) <= MAX_REASON:
        raise Invalid(f"reason must be between 1 and {MAX_REASON} characters")
    if "\0" in trimmed:
        raise Invalid("reason must not contain a NUL character")
    return trimmed


def moment(field: str, value: datetime) -> datetime:
    """A point in time in UTC and whole seconds, as it will be shown; raises Invalid without an offset."""
    if value.tzinfo is None:
        raise Invalid(f"{field} must have an offset, such as Z")
    if value.tzinfo is UTC and not value.microsecond:
        return value
    try:
        return value.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise Invalid(f"{field} is out of range") from None


def display_name(field: str, text: str, least: int, most: int) -> str:
    """A name without the white space around it; raises Invalid for a length out of range or control characters."""
    trimmed = text.strip()
    if not least <= len(trimmed) <= most:
        raise Invalid(f"{field} must be between {least} and {most} characters")
    if has_control_characters(trimmed):
        raise Invalid(f"{field} must not contain control characters")
    if trimmed == ERASED:
        raise Invalid(f"{field} must not be {ERASED}")
    return trimmed


def has_control_characters(text: str) -> bool:
    """Whether a NUL, a line break or the like stands in it. Not ``isprintable`` alone: that also refuses joined emoji,
    the ideographic space and every character younger than this Python."""
    return not text.isprintable() and any(category(character) == "Cc" for character in text)
