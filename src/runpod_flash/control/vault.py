"""Encrypts what the server's file holds of others' secrets, with a key in a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runpod_flash.control.made_once import made_once
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


class Vault:
    """The key is made by the first use. A copy of the store alone shows no value."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def seal(self, text: str) -> bytes:
        from cryptography.fernet import Fernet  # (takes 60 ms: most servers have no need of it)

        return Fernet(self._key()).encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """Raises `ConfigurationError` for what another key has sealed."""
        from cryptography.fernet import Fernet, InvalidToken

        try:
            return Fernet(self._key()).decrypt(sealed).decode()
        except InvalidToken:
            raise ConfigurationError(
                f"a value of a variable was encrypted by another key than {self._file} has; put "
                "the key back that belongs to this store, or set the value anew"
            ) from None

    def _key(self) -> bytes:
        from cryptography.fernet import Fernet

        return made_once(self._file, Fernet.generate_key)
