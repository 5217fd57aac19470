"""Decisions about permission levels (api.md §2): Admins assign up to 1, Owners up to 2, the command line all."""

from modledger.domain import commands, events
from modledger.domain.envelope import Subject
from modledger.domain.facts import Decided, Facts, reason
from modledger.domain.refusals import Conflict, Forbidden, Invalid
from modledger.domain.subjects import ADMIN, OWNER, USER


def change(command: commands.ChangePermission, facts: Facts) -> list[Decided]:
    """Sets a user's level. Only the command line may do so for a user never seen, and only it makes an Owner."""
    target = Subject("user", command.user_id)
    facts.authorise(target, ADMIN, others=("operator",))
    if not USER <= command.level <= OWNER:
        raise Invalid("permission_level must be between 0 and 3")
    actor = facts.actor
    user = facts.user(command.user_id)
    same = command.level == user.level
    if actor is not None:
        facts.require_known(target)
        if command.level == OWNER and not same:
            raise Forbidden("An Owner is made by the command line only")
        if command.level >= actor.level and not same:
            raise Forbidden("Owner access required")
    facts.require_version(user.version)
    text = reason(command.reason)
    if same:
        raise Conflict(f"User {user.id} already has level {user.level}")
    return [Decided(events.PermissionChanged(old_level=user.level, new_level=command.level, reason=text))]
