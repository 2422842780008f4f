"""What an environment's record of imports holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runpod_flash.engines.local.environments.imports import Imports

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_imported_is_known_in_its_order_and_to_the_next_plane(tmp_path: Path) -> None:
    imports = Imports()
    assert imports.known(tmp_path) == ()
    assert imports.add(tmp_path, ["torch", "torch.nn"])
    assert not imports.add(tmp_path, ["torch.nn"])
    assert imports.add(tmp_path, ["numpy", "torch"])
    for each in (imports, Imports()):
        assert each.known(tmp_path) == ("torch", "torch.nn", "numpy")


def test_what_cannot_be_imported_ahead_stays_out_with_all_below_it(tmp_path: Path) -> None:
    imports = Imports()
    imports.add(tmp_path, ["grpc", "grpc.aio", "grpcio", "numpy"])
    assert imports.leave_out(tmp_path, {"grpc": "it starts threads"})
    assert not imports.leave_out(tmp_path, {"grpc": "it starts threads"})
    for each in (imports, Imports()):
        assert each.known(tmp_path) == ("grpcio", "numpy")


def test_names_that_are_no_modules_are_dropped_and_a_damaged_record_is_none(
    tmp_path: Path,
) -> None:
    imports = Imports()
    assert not imports.add(tmp_path, ["--help", "a b", "../x", "a..b", "x" * 300, ""])
    assert imports.add(tmp_path, [f"m{n}" for n in range(9000)])
    assert len(imports.known(tmp_path)) == 4000
    for text in ("[]", "{", json.dumps({"modules": {"a": 1}, "left_out": ["b"]})):
        (tmp_path / "flash-imports.json").write_text(text)
        assert Imports().known(tmp_path) == ()


def test_of_an_environment_that_is_gone_nothing_is_written(tmp_path: Path) -> None:
    imports = Imports()
    assert imports.add(tmp_path / "gone", ["numpy"])
    assert imports.known(tmp_path / "gone") == ("numpy",)
    assert not (tmp_path / "gone").exists()
