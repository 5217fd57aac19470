"""Which streams a command's decision reads, and which decision answers it. Pure: no clock, no I/O."""

from collections.abc import Mapping

from modledger.domain import commands, erasure, identity, importing, permissions, punishments, subscriptions
from modledger.domain.commands import Command, Context
from modledger.domain.envelope import Subject
from modledger.domain.facts import Decided, Facts
from modledger.domain.subjects import Account, State, User


def target_of(command: Command) -> Subject:
    """The subject whose stream the command writes."""
    match command:
        # First, as these come by the thousand.
        case importing.Import():
            return importing.subject(command)
        case (
            commands.RegisterUser()
            | commands.UpdateUser()
            | commands.ChangeUserPrefix()
            | commands.ChangePermission()
            | commands.IssueTimeout()
        ):
            return Subject("user", command.user_id)
        case commands.RegisterGuild() | commands.UpdateGuild() | commands.SyncGuild() | commands.ChangeGuildPrefix():
            return Subject("guild", command.guild_id)
        case commands.RegisterBot() | commands.UpdateBot() | commands.SyncBot() | commands.RegenerateBotKey():
            return Subject("bot", command.bot_id)
        case (
            commands.GrantSubscription()
            | commands.StartTrial()
            | commands.RevokeSubscription()
            | commands.EndSubscription()
            | commands.IssueWarning()
            | commands.IssueBan()
            | commands.AmendPunishment()
            | commands.LiftPunishment()
            | commands.VoidPunishment()
            | commands.OverturnPunishment()
            | commands.LapsePunishment()
            | commands.EraseSubject()
        ):
            return command.target
    raise TypeError(f"{type(command).__name__} is not a command of the domain")


def needed(command: Command, context: Context, states: Mapping[str, State]) -> set[str]:
    """The streams that the decision reads, as far as the states at hand tell; asked again until nothing is missing."""
    if isinstance(command, importing.Import):
        return {str(importing.subject(command))}
    target = target_of(command)
    streams = {str(target)}
    actor_id = context.actor.user_id
    if actor_id is not None:
        streams.add(f"user:{actor_id}")
    state = states.get(str(target))
    if state is not None and not isinstance(state, User) and state.owner_id is not None:
        streams.add(f"user:{state.owner_id}")
    match command:
        case (
            commands.RegisterBot(owner_id=int(owner_id))
            | commands.UpdateBot(owner_id=int(owner_id))
            | commands.UpdateGuild(owner_id=int(owner_id))
        ):
            streams.add(f"user:{owner_id}")
        case (
            commands.AmendPunishment()
            | commands.LiftPunishment()
            | commands.VoidPunishment()
            | commands.OverturnPunishment()
        ) if isinstance(state, Account) and command.number in state.punishments:
            streams |= _issuers(state, command.number)
        case commands.IssueTimeout(replace=True) | commands.IssueBan(replace=True) if isinstance(state, Account):
            active = [number for number, punishment in state.punishments.items() if punishment.ending is None]
            streams |= _issuers(state, *active)
    return streams


def _issuers(account: Account, *numbers: int) -> set[str]:
    issuers = (account.punishments[number].issued_by.user_id for number in numbers)
    return {f"user:{user_id}" for user_id in issuers if user_id is not None}


def decide(command: Command, facts: Facts) -> list[Decided]:
    """The events that the command brings about, in order; raises Refused. Empty: nothing to change."""
    match command:
        case importing.Import():
            return importing.bring(command, facts)
        case commands.RegisterUser():
            return identity.register_user(command, facts)
        case commands.UpdateUser():
            return identity.update_user(command, facts)
        case commands.ChangeUserPrefix():
            return identity.change_user_prefix(command, facts)
        case commands.RegisterGuild():
            return identity.register_guild(command, facts)
        case commands.UpdateGuild():
            return identity.update_guild(command, facts)
        case commands.SyncGuild():
            return identity.sync_guild(command, facts)
        case commands.ChangeGuildPrefix():
            return identity.change_guild_prefix(command, facts)
        case commands.RegisterBot():
            return identity.register_bot(command, facts)
        case commands.UpdateBot():
            return identity.update_bot(command, facts)
        case commands.SyncBot():
            return identity.sync_bot(command, facts)
        case commands.RegenerateBotKey():
            return identity.regenerate_bot_key(command, facts)
        case commands.ChangePermission():
            return permissions.change(command, facts)
        case commands.GrantSubscription():
            return subscriptions.grant(command, facts)
        case commands.StartTrial():
            return subscriptions.start_trial(command, facts)
        case commands.RevokeSubscription():
            return subscriptions.revoke(command, facts)
        case commands.EndSubscription():
            return subscriptions.end(command, facts)
        case commands.IssueWarning():
            return punishments.issue_warning(command, facts)
        case commands.IssueTimeout():
            return punishments.issue_timeout(command, facts)
        case commands.IssueBan():
            return punishments.issue_ban(command, facts)
        case commands.AmendPunishment():
            return punishments.amend(command, facts)
        case commands.LiftPunishment():
            return punishments.lift(command, facts)
        case commands.VoidPunishment():
            return punishments.void(command, facts)
        case commands.OverturnPunishment():
            return punishments.overturn(command, facts)
        case commands.LapsePunishment():
            return punishments.lapse(command, facts)
        case commands.EraseSubject():
            return erasure.erase(command, facts)
    raise TypeError(f"{type(command).__name__} is not a command of the domain")
