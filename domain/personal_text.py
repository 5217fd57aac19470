"""Free text about people: encrypted under a key per subject, so that destroying the key erases the text.

AES-256-GCM throughout, nonces random. A text is bound to its stream and event, a key to its subject and *generation*:
the version of the stream's last ``SubjectErased``, 0 before any. Keys stand in the store wrapped by the installation's
master key. At any time a subject has at most one key: a new generation begins in the transaction that destroys the
last.
"""

import hmac
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from threading import Lock
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
RANDOM_BYTES = 2048


class WrongMasterKey(Exception):
    """This master key is not the one that the installation was begun with, or that a subject's key was wrapped by. A
    process may come to the second while it runs, where keys are rotated in another order than docs/keys.md has."""


class DamagedText(Exception):
    """A personal text does not belong to its stream, event and key: the stored bytes were changed."""


# So many bytes that nobody can foresee and nobody else gets.
Random = Callable[[int], bytes]


def drawn_ahead() -> Random:
    """For many keys and texts at once: asks the system for some thousands of bytes at a time, as to ask takes longer
    than to encrypt. For one thread, and to be thrown away with what it was for: what is left over is kept nowhere."""
    drawn, at = b"", 0

    def take(size: int) -> bytes:
        nonlocal drawn, at
        if len(drawn) - at < size:
            drawn, at = os.urandom(RANDOM_BYTES), 0
        at += size
        return drawn[at - size : at]

    return take


class SubjectKey(msgspec.Struct, frozen=True):
    """The open key of a subject. ``wrapped`` is how the store keeps it."""

    subject: str
    generation: int
    wrapped: bytes
    cipher: AESGCM

    def seal(self, text: bytes, event_id: UUID, random: Random = os.urandom) -> bytes:
        """The text of one event of the subject's stream, encrypted: nonce and ciphertext."""
        nonce = random(NONCE_BYTES)
        return nonce + self.cipher.encrypt(nonce, text, _bound_to(self.subject, event_id))

    def open(self, sealed: bytes, event_id: UUID) -> bytes:
        """The reverse of ``seal``. Raises DamagedText."""
        try:
            return self.cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _bound_to(self.subject, event_id))
        except (InvalidTag, ValueError) as error:
            raise DamagedText(f"the personal text of event {event_id} in {self.subject} cannot be read") from error


class MasterKey:
    """Wraps the keys of subjects. ``secret`` is 32 random bytes, or two such keys one after the other while one takes
    the place of the other: the first wraps, both unwrap. Raises ValueError for any other length."""

    def __init__(self, secret: bytes) -> None:
        self._secrets = each_key(secret)
        self._ciphers = [AESGCM(one) for one in self._secrets]

    def check(self, installation: UUID) -> bytes:
        """What the installation keeps to recognise this key (of two the first), and from which it cannot be learned."""
        return _check(self._secrets[0], installation)

    def is_of(self, installation: UUID, check: bytes) -> bool:
        """Whether the ``check`` that the installation keeps is this key's, or that of one of the two."""
        return any(hmac.compare_digest(check, _check(one, installation)) for one in self._secrets)

    def make(self, subject: str, generation: int, random: Random = os.urandom) -> SubjectKey:
        """A new random key for the subject."""
        secret = random(KEY_BYTES)
        return SubjectKey(subject, generation, self._wrap(subject, generation, secret, random), AESGCM(secret))

    def unwrap(self, subject: str, generation: int, wrapped: bytes) -> SubjectKey:
        """A key from the store. Raises WrongMasterKey."""
        return SubjectKey(subject, generation, wrapped, AESGCM(self._unwrap(subject, generation, wrapped)[1]))

    def rewrap(self, subject: str, generation: int, wrapped: bytes) -> bytes | None:
        """The same key wrapped by the first of two; None where it is already. Raises WrongMasterKey."""
        number, secret = self._unwrap(subject, generation, wrapped)
        return self._wrap(subject, generation, secret) if number else None

    def _wrap(self, subject: str, generation: int, secret: bytes, random: Random = os.urandom) -> bytes:
        nonce = random(NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, secret, _belongs_to(subject, generation))

    def _unwrap(self, subject: str, generation: int, wrapped: bytes) -> tuple[int, bytes]:
        bound = _belongs_to(subject, generation)
        for number, cipher in enumerate(self._ciphers):
            with suppress(InvalidTag, ValueError):
                return number, cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], bound)
        raise WrongMasterKey(
            f"the key of {subject} is wrapped by a master key that this process was not given (docs/keys.md)"
        )


class Standing(msgspec.Struct, frozen=True):
    """What was true of a stream's key when the stream was at ``version``. ``key`` None: the subject has none yet."""

    version: int
    generation: int
    key: SubjectKey | None


UNBEGUN = Standing(0, 0, None)


class Standings:
    """The last known standings of at most ``size`` streams, the longest unused leave first. For any number of threads.

    Why a standing may be used for an append although another process may have appended or erased since: whatever comes
    to a stream raises its version. An append that expects version e is refused unless the stream is at e, and a
    standing of version e or later that is older than the stream is then refused with it. So a destroyed key never
    reaches the ledger, and no key is ever made twice.
    """

    def __init__(self, master: MasterKey, size: int = 8192) -> None:
        self._master = master
        self._size = size
        self._known: OrderedDict[str, Standing] = OrderedDict()
        self._lock = Lock()

    def as_of(self, expected: Mapping[str, int]) -> dict[str, Standing]:
        """Those of the streams whose standing can be relied on by an append that expects these versions."""
        found = {}
        with self._lock:
            for stream, version in expected.items():
                if version == 0:
                    found[stream] = UNBEGUN
                elif (standing := self._known.get(stream)) and standing.version >= version:
                    self._known.move_to_end(stream)
                    found[stream] = standing
        return found

    def learn(self, standings: Mapping[str, Standing]) -> None:
        """Takes over what was just read or appended."""
        with self._lock:
            for stream, standing in standings.items():
                self._known[stream] = standing
                self._known.move_to_end(stream)
            while len(self._known) > self._size:
                self._known.popitem(last=False)

    def forget(self, streams: Iterable[str]) -> None:
        """Lets go of what a refused append has shown to be old."""
        with self._lock:
            for stream in streams:
                self._known.pop(stream, None)

    def open(self, subject: str, generation: int, wrapped: bytes) -> SubjectKey:
        """The key that the store holds now; an unwrapping is saved where the same key is known already. Raises
        WrongMasterKey."""
        standing = self._known.get(subject)
        if standing and standing.key and standing.key.wrapped == wrapped:
            return standing.key
        return self._master.unwrap(subject, generation, wrapped)


def each_key(secret: bytes) -> list[bytes]:
    """The one or two master keys in ``secret``, first the one that is written with. Raises ValueError for another
    length."""
    if len(secret) not in (KEY_BYTES, 2 * KEY_BYTES):
        raise ValueError(f"a master key has {KEY_BYTES} bytes, and two twice as many, not {len(secret)}")
    return [secret[at : at + KEY_BYTES] for at in range(0, len(secret), KEY_BYTES)]


def _check(secret: bytes, installation: UUID) -> bytes:
    return hmac.digest(secret, b"modledger master key of " + installation.bytes, "sha256")


def _bound_to(stream: str, event_id: UUID) -> bytes:
    return stream.encode() + b" " + event_id.bytes


def _belongs_to(subject: str, generation: int) -> bytes:
    return b"%s %d" % (subject.encode(), generation)
