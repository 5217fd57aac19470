"""Signed heads: notes as C2SP signed-note and tlog-checkpoint define them, bound to one ledger and one key."""

import base64
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from modledger.domain.signed_heads import (
    BadSignature,
    Head,
    NoHead,
    PublicKey,
    origin_of,
    public_key_of,
    read_head,
    read_public_key,
    sign,
    verify,
)

ORIGIN = origin_of(UUID(int=7))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = public_key_of(ORIGIN, SIGNER)
HEAD = Head(
    origin=ORIGIN,
    tree_size=4711,
    root=bytes(range(32)),
    position=4713,
    at=datetime(2026, 3, 10, 12, 0, 5, tzinfo=UTC),
)
NOTE = sign(HEAD, SIGNER)


def test_a_note_is_the_head_in_five_lines_and_a_signature_of_them() -> None:
    text, signature = NOTE.split("\n\n")
    assert text == (
        "modledger/00000000-0000-0000-0000-000000000007\n"
        "4711\n"
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
        "position 4713\n"
        "at 2026-03-10T12:00:05Z"
    )
    dash, name, encoded = signature.rstrip("\n").split(" ")
    raw = base64.b64decode(encoded)
    assert (dash, name) == ("—", ORIGIN)
    assert raw[:4] == sha256(ORIGIN.encode() + b"\n\x01" + KEY.raw).digest()[:4]
    SIGNER.public_key().verify(raw[4:], f"{text}\n".encode())


def test_the_key_in_the_specification_has_the_id_that_stands_there() -> None:
    # The example of golang.org/x/mod/sumdb/note, in which names, ids and keys have this form.
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = read_public_key(text)
    assert (key.name, key.id.hex(), str(key)) == ("PeterNeumann", "c74f20a3", text)


def test_a_signed_head_is_read_back_as_it_was() -> None:
    assert read_head(NOTE) == HEAD
    assert verify(NOTE, [KEY]) == HEAD
    assert read_public_key(str(KEY)) == KEY


@pytest.mark.parametrize(
    ("old", "new"),
    [("4711\n", "4712\n"), ("AAEC", "AAED"), ("position 4713", "position 4714"), (":05Z", ":06Z")],
)
def test_a_head_that_was_changed_is_refused(old: str, new: str) -> None:
    assert NOTE.count(old) == 1
    with pytest.raises(BadSignature, match="was changed after it was signed"):
        verify(NOTE.replace(old, new), [KEY])


def test_a_head_of_another_key_or_another_ledger_is_refused() -> None:
    other = public_key_of(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    same_key_elsewhere = PublicKey(origin_of(UUID(int=8)), KEY.raw)
    for keys in ([], [other], [same_key_elsewhere]):
        with pytest.raises(BadSignature, match="is not signed by a key that you gave"):
            verify(NOTE, keys)
    assert verify(NOTE, [other, KEY]) == HEAD


@pytest.mark.parametrize(
    "note",
    [
        "",
        "x",
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("4711", "04711"),
        NOTE.replace("4711", "-1"),
        NOTE.replace("4711", "9" * 30),
        NOTE.replace("AAEC", "AA*C"),
        NOTE.replace("AAEC", "AAECAAEC"),
        NOTE.replace("position ", ""),
        NOTE.replace("12:00:05", "25:00:05"),
        NOTE.replace("at ", "at  "),
        NOTE.replace("\nat", "\nmore\nat"),
    ],
)
def test_what_is_no_head_is_told_apart_from_a_bad_one(note: str) -> None:
    with pytest.raises(NoHead):
        read_head(note)


def test_a_signature_that_cannot_be_read_is_told() -> None:
    for note in (NOTE.replace("— ", "- "), NOTE[:-5] + "*" + NOTE[-4:], NOTE[:-20] + "\n"):
        with pytest.raises(NoHead, match="signature"):
            verify(note, [KEY])


@pytest.mark.parametrize("text", ["", "x", "a+b+c", str(KEY)[:-2], str(KEY).replace("modledger", "other"), "é+é+é"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(NoHead, match="is no public key"):
        read_public_key(text)
