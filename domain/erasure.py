"""The decision to erase a subject: the key goes, the events stay (design §2)."""

from modledger.domain import commands, events
from modledger.domain.facts import Decided, Facts, reason
from modledger.domain.refusals import Conflict
from modledger.domain.subjects import OWNER


def erase(command: commands.EraseSubject, facts: Facts) -> list[Decided]:
    """An Owner who may act on the subject, or the operator, erases its personal text. Not a second time while no new
    text has come: that would erase nothing but the reason of the first."""
    facts.authorise(command.target, OWNER, others=("operator",))
    facts.require_known(command.target)
    state = facts.states[str(command.target)]
    facts.require_version(state.version)
    if state.textless:
        raise Conflict(f"{command.target.kind.capitalize()} {command.target.id} is already erased")
    return [Decided(events.SubjectErased(reason=reason(command.reason)))]
