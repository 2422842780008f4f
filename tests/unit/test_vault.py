"""Values in the server's file are of use only with the key beside it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_of_threads_that_use_it_first_all_have_the_same_key(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def seal(vault: Vault) -> bytes:
        together.wait(10)
        return vault.seal("a value")

    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            vault = Vault(tmp_path / str(number) / "key")
            for sealed in list(threads.map(seal, [vault] * 8)):
                assert vault.open(sealed) == "a value"
            assert [each.name for each in (tmp_path / str(number)).iterdir()] == ["key"]
