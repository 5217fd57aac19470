"""The words of the demo: names of people, guilds and bots, and reasons of the length and repetition of real ones.

Of a real ban database (design §8): reasons have a median of 9 characters, p99 is 55, ten of them make 30 %.
"""

from collections.abc import Iterator
from random import Random

TEN_REASONS = (
    "spam",
    "spamming",
    "toxic",
    "raid",
    "NSFW",
    "advertising",
    "ban evasion",
    "harassment",
    "slurs",
    "alt account",
)
TEN_REASONS_SHARE = 0.3

_WHAT = (
    "spam", "flood", "caps", "slur", "insult", "scam", "ads", "bait", "doxx", "gore", "racism", "trolling", "begging",
    "ghost ping", "mass ping", "leaks", "threats", "hate", "nude pic", "invite", "phishing", "cheating", "impostor",
    "alt",
)  # fmt: skip
_WHERE = ("chat", "voice", "DMs", "media", "trade", "bots", "help", "art", "memes", "events")
_HOW = ("again", "x2", "x3", "x4", "x5", "late", "rude", "repeat", "minor", "severe", "bot", "warned")
_LONG = (
    "kept posting {what} in #{where} after two warnings",
    "{what} and {other} in #{where}, see the ticket",
    "{what} in #{where}, had been asked to stop",
    "{other} towards new members in #{where}",
    "joined only to post {what}, {count} messages deleted",
)
_LONGEST = (
    "{what}, {other} and arguing with staff about it in #{where} for the better part of the evening",
    "Third account of the same person; {what} in #{where} within {count} minutes of joining, then {other}",
)
# Reasons are stored as given and never interpreted (api.md §3): these show whether every screen keeps to it.
_ODD = (
    "סpam בערוץ",
    "إزعاج الأعضاء",
    "スパム行為",
    "🚫 nope 🚫",
    "<b>rude</b>",
    "100% scam",
    "O'Brien rule",
    'said "bye"',
    "=SUM(1;2)",
    "rule 7\\8",
)

LIFT_REASONS = (
    "appeal accepted",
    "served enough",
    "apologised",
    "second chance",
    "talked it over",
    "too harsh",
    "misunderstanding",
)
VOID_REASONS = ("wrong user", "misclick", "duplicate")
OVERTURN_REASONS = ("appeal upheld", "no evidence", "new evidence")
GRANT_REASONS = (
    None,
    None,
    "Booster",
    "Patreon",
    "Giveaway winner",
    "Partner",
    "Paid by card",
    "Thank you for the bug report",
)
REVOKE_REASONS = ("Chargeback", "Refunded", "Terms of service violation", "Granted by mistake")

_ADJECTIVES = (
    "amber", "brave", "calm", "clever", "cosmic", "crimson", "dapper", "dusty", "eager", "fancy", "fuzzy", "gentle",
    "golden", "happy", "hidden", "icy", "jolly", "lazy", "little", "lucky", "mellow", "misty", "neon", "noble", "odd",
    "pale", "proud", "quiet", "rapid", "rusty", "salty", "shy", "silent", "silver", "sly", "solar", "stormy", "swift",
    "tiny", "velvet", "wild",
)  # fmt: skip
_NOUNS = (
    "acorn", "badger", "beacon", "comet", "coyote", "dragon", "ember", "falcon", "fern", "fox", "gecko", "harbor",
    "heron", "island", "jaguar", "kettle", "lantern", "lynx", "maple", "meadow", "moth", "nebula", "otter", "owl",
    "panda", "pebble", "pixel", "raven", "river", "rocket", "sparrow", "teapot", "thistle", "tiger", "turtle", "walrus",
    "willow", "wolf", "yak",
)  # fmt: skip
_PLACES = ("Lounge", "Tavern", "Guild", "Academy", "Arcade", "Workshop", "Club", "Hideout", "Studio", "Republic")


def usernames(rng: Random, taken: set[str]) -> Iterator[str]:
    """Names as Discord allows them, no two alike and none of those ``taken``, which grows."""
    while True:
        name = nickname(rng)
        if rng.random() < 0.4 or name in taken:
            name += str(rng.randrange(1, 10_000))
        if name not in taken:
            taken.add(name)
            yield name


def nickname(rng: Random) -> str:
    """What many might call themselves."""
    return rng.choice(_ADJECTIVES) + rng.choice(("", "", "_", ".")) + rng.choice(_NOUNS)


def guild_name(rng: Random) -> str:
    """Two guilds may bear the same name."""
    return f"{rng.choice(_ADJECTIVES).title()} {rng.choice(_NOUNS).title()} {rng.choice(_PLACES)}"


def bot_name(rng: Random) -> str:
    return f"{rng.choice(_ADJECTIVES).title()}{rng.choice(_NOUNS).title()}Bot"


def reason(rng: Random) -> str:
    """Why somebody is punished."""
    roll = rng.random()
    if roll < TEN_REASONS_SHARE:
        return rng.choice(TEN_REASONS)
    words = {
        "what": rng.choice(_WHAT),
        "other": rng.choice(_WHAT),
        "where": rng.choice(_WHERE),
        "count": rng.randrange(2, 60),
    }
    if roll < 0.55:
        return f"{words['what']} {rng.choice(_HOW)}"
    if roll < 0.79:
        return f"rule {rng.randrange(1, 13)}.{rng.randrange(1, 9)}"
    if roll < 0.895:
        return f"{words['what']} in {words['where']}"
    if roll < 0.91:
        return rng.choice(_ODD)
    return rng.choice(_LONGEST if roll > 0.992 else _LONG).format_map(words)
