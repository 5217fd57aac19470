"""The words of reasons: what ``q`` of the punishment search is looked up in.

A word is what stands between white space, casefolded. It also counts without the punctuation around it, as a *bare* word:
``Spam,`` is found as ``spam``. A table has each word that some reason bears now, once, with its code for the search of
fragments; which punishments bear it is said by ``marks``. So a fragment is looked for among words and not among
reasons, of which there are many more and mostly the same.
"""  # noqa: E501

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import msgspec

from modledger.domain.events import ERASED
from modledger.projections import marks
from modledger.projections.fragments import code
from modledger.projections.profile import name_key
from modledger.projections.projector import Cursor, Table


def table(name: str) -> Table:
    """A table of words."""
    # A word's number and not the word is the key, because a word of 512 characters is too long for an index.
    return Table(
        name=name,
        columns={
            "word": "bigint not null",
            "bare": "bigint not null",
            "code": "text not null",
            "punishments": "bigint not null",
            # The sum of what they are marked by, ordinals of punishments or positions of wordings: of one its own. So
            # a fragment of ten thousand links, each of its own, is looked up in one place and not in ten thousand.
            "ids": "bigint not null",
        },
        primary_key=("word",),
        indexes={f"{name}_bare": "(bare)"},
        # Without a pending list, which every search would have to read: few words are new.
        fragments={f"{name}_code": "using gin (code gin_trgm_ops) with (fastupdate = off)"},
        options="with (fillfactor = 85)",
    )


TABLE = table("reason_words")

# Never looks twice at a character, however many signs stand in the middle.
_BARE = re.compile(r"[^\W_](?:.*[^\W_])?", re.DOTALL)


def words(text: str) -> list[str]:
    """The different words of a reason or of a ``q``, in order; none of a reason that was erased."""
    return [] if text == ERASED else list(dict.fromkeys(name_key(text).split()))


def bare(word: str) -> str:
    """The word without punctuation around it; one that is nothing else stays as it is."""
    # Most are nothing but letters and digits, which are the signs that the pattern looks for.
    if word.isalnum():
        return word
    found = _BARE.search(word)
    return word if found is None else found[0]


def number(word: str) -> int:
    """What stands for a word in tables: 64 bits of a digest. Two words of the same number are not to be expected below
    some thousand million words."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big", signed=True)


def numbered(bearers: Sequence[tuple[str, int]]) -> Iterator[tuple[int, int]]:
    """The same pairs with the number of each word, which is worked out once however many bear it."""
    numbers = {word: number(word) for word in {word for word, _ in bearers}}
    return ((numbers[word], bearer) for word, bearer in bearers)


def key(reason: str) -> str:
    """The reason as rows are matched by it: the codes of its words, and of their bare forms, between spaces."""
    found = words(reason)
    return f" {' '.join(map(code, dict.fromkeys([*found, *map(bare, found)])))} " if found else ""


def count(
    cursor: Cursor,
    made: Iterable[tuple[str, int]],
    gone: Iterable[tuple[str, int]],
    of: Table = TABLE,
    of_marks: marks.Marks = marks.PUNISHMENTS,
) -> None:
    """Brings the table along with what reasons bear and bear no more: words, each with what the bearer is marked by
    in ``of_marks``. A word that none bears is forgotten, because it may have been erased."""
    deltas: dict[str, list[int]] = {}
    for pairs, by in ((made, 1), (gone, -1)):
        for word, bearer in pairs:
            delta = deltas.setdefault(word, [0, 0, 0])
            delta[0] += by
            delta[1] += by * bearer
            delta[2] += by if bearer <= 0 else 0
    changes = [
        {
            "word": number(word),
            "bare": number(bare(word)),
            "code": code(word),
            "punishments": delta,
            "ids": ids,
            "counted_back": counted_back,
        }
        for word, (delta, ids, counted_back) in deltas.items()
        if delta or ids or counted_back
    ]
    if changes:
        # The primary key.
        cursor.execute(
            f"insert into {of.name} as w (word, bare, code, punishments, ids)"  # noqa: S608
            " select word, bare, code, punishments, case when counted_back = 0 then ids"
            f" else ids + counted_back * {of_marks.last} end from json_to_recordset(%s) as n"
            " (word bigint, bare bigint, code text, punishments bigint, ids bigint, counted_back bigint)"
            " on conflict (word) do update"
            " set punishments = w.punishments + excluded.punishments, ids = w.ids + excluded.ids".encode(),
            (msgspec.json.encode(changes).decode(),),
        )
    lost = [change["word"] for change in changes if change["punishments"] < 0]  # type: ignore[operator]
    if lost:
        # The primary key.
        cursor.execute(
            f"delete from {of.name} where word = any(%s) and punishments <= 0".encode(),  # noqa: S608
            (lost,),
        )
