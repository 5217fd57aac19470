"""Who may do what to whom (api.md §2). Levels: 0 User, 1 Moderator, 2 Admin, 3 Owner."""

from datetime import datetime

from modledger.domain.refusals import Forbidden
from modledger.domain.subjects import ADMIN, MODERATOR, OWNER, User

ACCESS = {MODERATOR: "Moderator access required", ADMIN: "Admin access required", OWNER: "Owner access required"}


def may_act_on(actor_id: int, actor_level: int, target_id: int | None, target_level: int) -> bool:
    """Strictly above the target, or an Owner; never oneself. ``target_id`` None: a guild whose owner is unknown."""
    return actor_id != target_id and (actor_level > target_level or actor_level == OWNER)


def require_unrestricted(actor: User, at: datetime) -> None:
    """Raises Forbidden for an actor who is timed out or banned at that second."""
    if actor.restricted(at):
        raise Forbidden("Account restricted")


def require_level(actor: User, level: int) -> None:
    """Raises Forbidden below the level."""
    if actor.level < level:
        raise Forbidden(ACCESS[level])


def require_may_act_on(actor: User, target: User | None, what: str) -> None:
    """Raises Forbidden unless the actor may act on the target; ``what`` names the target to the caller."""
    if not may_act_on(actor.id, actor.level, target.id if target else None, target.level if target else 0):
        raise Forbidden(f"You cannot act on this {what}")
