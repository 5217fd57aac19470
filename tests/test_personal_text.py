from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from modledger.domain.personal_text import (
    RANDOM_BYTES,
    DamagedText,
    MasterKey,
    Standing,
    Standings,
    WrongMasterKey,
    drawn_ahead,
)
from tests.databases import MASTER_KEY

MASTER = MasterKey(MASTER_KEY)
EVENT = UUID(int=1)


def test_a_sealed_text_opens_with_the_key_taken_from_its_wrapping() -> None:
    key = MASTER.make("user:1", 0)
    again = MASTER.unwrap("user:1", 0, key.wrapped)
    assert again.open(key.seal("Grüße".encode(), EVENT), EVENT) == "Grüße".encode()


def test_the_same_text_is_never_sealed_to_the_same_bytes() -> None:
    key = MASTER.make("user:1", 0)
    assert key.seal(b"spam", EVENT) != key.seal(b"spam", EVENT)


def test_a_text_moved_to_another_event_does_not_open() -> None:
    key = MASTER.make("user:1", 0)
    with pytest.raises(DamagedText, match="user:1"):
        key.open(key.seal(b"spam", EVENT), uuid4())


@pytest.mark.parametrize("position", [0, 11, 12, -1])
def test_a_text_with_one_changed_bit_does_not_open(position: int) -> None:
    key = MASTER.make("user:1", 0)
    sealed = bytearray(key.seal(b"spam", EVENT))
    sealed[position] ^= 1
    with pytest.raises(DamagedText):
        key.open(bytes(sealed), EVENT)


@pytest.mark.parametrize("sealed", [b"", b"short", bytes(12)])
def test_a_text_cut_short_does_not_open(sealed: bytes) -> None:
    with pytest.raises(DamagedText):
        MASTER.make("user:1", 0).open(sealed, EVENT)


def test_a_key_belongs_to_one_subject_one_generation_and_one_master_key() -> None:
    wrapped = MASTER.make("user:1", 4).wrapped
    for master, subject, generation in (
        (MASTER, "user:2", 4),
        (MASTER, "user:1", 5),
        (MasterKey(bytes(32)), "user:1", 4),
    ):
        with pytest.raises(WrongMasterKey, match=subject):
            master.unwrap(subject, generation, wrapped)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_master_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        MasterKey(bytes(length))


def test_what_an_installation_keeps_tells_master_keys_apart_and_not_what_they_are() -> None:
    installation = uuid4()
    assert MASTER.check(installation) == MasterKey(MASTER_KEY).check(installation)
    assert MASTER.check(installation) != MASTER.check(uuid4())
    assert MASTER.check(installation) != MasterKey(bytes(32)).check(installation)
    assert MASTER_KEY not in MASTER.check(installation)


def test_a_standing_serves_appends_up_to_its_version_and_no_later_one() -> None:
    standings = Standings(MASTER)
    standing = Standing(5, 2, MASTER.make("user:1", 2))
    standings.learn({"user:1": standing})
    assert standings.as_of({"user:1": 5}) == {"user:1": standing}
    assert standings.as_of({"user:1": 6}) == {}
    standings.forget(["user:1", "user:2"])
    assert standings.as_of({"user:1": 5}) == {}


def test_a_stream_that_is_expected_to_be_new_needs_no_look_up() -> None:
    assert Standings(MASTER).as_of({"user:1": 0}) == {"user:1": Standing(0, 0, None)}


def test_the_longest_unused_standings_leave_first() -> None:
    standings = Standings(MASTER, size=2)
    standings.learn({"user:1": Standing(1, 0, None), "user:2": Standing(1, 0, None)})
    standings.as_of({"user:1": 1})
    standings.learn({"user:3": Standing(1, 0, None)})
    assert standings.as_of({"user:1": 1, "user:2": 1, "user:3": 1}).keys() == {"user:1", "user:3"}


def test_what_is_drawn_ahead_is_never_given_twice_and_by_nobody_else() -> None:
    both = [drawn_ahead(), drawn_ahead()]
    pieces = [random(size) for _ in range(RANDOM_BYTES // 10) for random in both for size in (12, 32)]
    assert {len(piece) for piece in pieces} == {12, 32}
    starts = [piece[:12] for piece in pieces]
    assert len(set(starts)) == len(starts)
    # Nor do parts of one stand in another.
    assert not any(later[:8] in earlier for earlier, later in pairwise(pieces))


def test_keys_and_texts_of_what_was_drawn_ahead_are_read_like_all_others() -> None:
    random = drawn_ahead()
    keys = [MASTER.make(f"user:{number}", 0, random) for number in range(200)]
    texts = [key.seal(b"text", UUID(int=number), random) for number, key in enumerate(keys)]
    assert len({text[:12] for text in texts}) == len({key.wrapped[:12] for key in keys}) == 200
    for number, key in enumerate(keys):
        assert MASTER.unwrap(key.subject, 0, key.wrapped).open(texts[number], UUID(int=number)) == b"text"
