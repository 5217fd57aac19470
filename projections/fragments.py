"""Pieces of text that are found anywhere in it, with the help of the extension pg_trgm.

pg_trgm looks at letters and digits only, and what is a letter depends on the database's locale: alone it would have
to read everything for a fragment such as ``___``, an emoji or, in the locale C, any Cyrillic one. So texts are kept in
a *code* of ASCII letters and digits. In it every fragment of three characters has trigrams, and no wildcard of LIKE
ever occurs.
"""

from typing import Final

# Below that a trigram index has nothing to look for.
LEAST: Final = 3

# The letters of hexadecimal numbers, all upper-case and none of them Q or Z.
_HEX = str.maketrans("0123456789abcdef", "ABCDEFGHIJKLMNOP")


class _Codes(dict[int, str]):
    """The code of each character; of those of two bytes it is kept once it was worked out."""

    def __missing__(self, number: int) -> str:
        one = chr(number)
        # Q begins a character's number and Z ends it, so that none is found in the middle of another's.
        plain = one.isascii() and one.isalnum() and not one.isupper()
        coded = one if plain else "Q" + f"{number:x}".translate(_HEX) + "Z"
        if number < 0x10000:
            self[number] = coded
        return coded


_CODES: Final = _Codes()


class FragmentsNeeded(Exception):
    """Without pg_trgm it cannot be ruled out that what is asked for stands in the middle of a word or a name."""


def code(key: str) -> str:
    """The code of a text that was casefolded (``profile.name_key``): one text contains another exactly when its code
    contains the other's code."""
    return key.translate(_CODES)


def containing(key: str) -> str:
    """The LIKE pattern of the codes of texts that contain this one."""
    return f"%{code(key)}%"


def beginning(key: str) -> str:
    """The LIKE pattern of texts, not codes, that begin with this one."""
    escaped = key.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{escaped}%"
