"""Keys that the installation's one master key is the source of, each for one purpose; and sealing with them."""

import hmac
import secrets
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from modledger.domain.personal_text import each_key

_NONCE = 12


class Sealing:
    """Seals log-in codes and stored answers, so that a copy of the database tells neither."""

    def __init__(self, master_key: bytes) -> None:
        """``master_key``: 32 bytes, or two keys: what the first seals and what either sealed is opened."""
        keys = each_key(master_key)
        self._lookups = [_derived(key, b"modledger log-in code look-up") for key in keys]
        self._aeads = [AESGCM(_derived(key, b"modledger sealed credentials")) for key in keys]

    def lookup(self, text: str) -> bytes:
        """A keyed hash: the same for the same text, worth nothing without the key however short the text is."""
        return self.lookups(text)[0]

    def lookups(self, text: str) -> list[bytes]:
        """The same by each key, one of which a hash that is stored was made with."""
        return [hmac.digest(key, text.encode(), "sha256") for key in self._lookups]

    def seal(self, content: bytes, bound_to: str) -> bytes:
        """Ciphertext that opens only under the same ``bound_to``."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aeads[0].encrypt(nonce, content, bound_to.encode())

    def unseal(self, sealed: bytes, bound_to: str) -> bytes | None:
        """The content; None when it was sealed under another key or for something else."""
        return self._opened(sealed, bound_to)[1]

    def reseal(self, sealed: bytes, bound_to: str) -> bytes | None:
        """The same sealed by the first key; None where it is already, or cannot be opened."""
        number, content = self._opened(sealed, bound_to)
        return self.seal(content, bound_to) if number and content is not None else None

    def _opened(self, sealed: bytes, bound_to: str) -> tuple[int, bytes | None]:
        for number, aead in enumerate(self._aeads):
            with suppress(InvalidTag):
                return number, aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound_to.encode())
        return 0, None


def _derived(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master_key)
