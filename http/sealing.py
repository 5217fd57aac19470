"""Keys that the installation's one master key is the source of, each for one purpose; and sealing with them."""

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12


class Sealing:
    """Seals log-in codes and stored answers, so that a copy of the database tells neither."""

    def __init__(self, master_key: bytes) -> None:
        self._lookup = _derived(master_key, b"modledger log-in code look-up")
        self._aead = AESGCM(_derived(master_key, b"modledger sealed credentials"))

    def lookup(self, text: str) -> bytes:
        """A keyed hash: the same for the same text, worth nothing without the key however short the text is."""
        return hmac.digest(self._lookup, text.encode(), "sha256")

    def seal(self, content: bytes, bound_to: str) -> bytes:
        """Ciphertext that opens only under the same ``bound_to``."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(nonce, content, bound_to.encode())

    def unseal(self, sealed: bytes, bound_to: str) -> bytes | None:
        """The content; None when it was sealed under another key or for something else."""
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound_to.encode())
        except InvalidTag:
            return None


def _derived(master_key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(master_key)
