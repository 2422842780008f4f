"""Values in the server's file are of use only with the key beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runpod_flash.control.vault import Vault
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_sealed_opens_with_the_same_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    sealed = Vault(file).seal("a valué")
    assert b"valu" not in sealed
    assert Vault(file).seal("a valué") != sealed
    assert Vault(file).open(sealed) == "a valué"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(ConfigurationError, match=r"another key than .*; put the key back"):
        Vault(tmp_path / "other").open(sealed)
