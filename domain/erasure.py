"""The decision to erase a subject: the key goes, the events stay (design §2)."""

from modledger.domain import commands, events
from modledger.domain.facts import Decided, Facts, reason
from modledger.domain.subjects import OWNER


def erase(command: commands.EraseSubject, facts: Facts) -> list[Decided]:
    """An Owner who may act on the subject, or the operator, erases its personal text."""
    facts.authorise(command.target, OWNER, others=("operator",))
    facts.require_known(command.target)
    facts.require_version(facts.states[str(command.target)].version)
    return [Decided(events.SubjectErased(reason=reason(command.reason)))]
