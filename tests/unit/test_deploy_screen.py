"""What `flash deploy` prints can be used as it is."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from runpod_flash.cli import deploy_screen
from runpod_flash.client.control import ControlClient
from runpod_flash.control.releases import AppEnv
from runpod_flash.gateway.external import external_endpoint
from runpod_flash.project.catalog import Catalog

if TYPE_CHECKING:
    import pytest


def test_addresses_of_names_that_are_no_plain_words_can_be_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    catalog = Catalog("/", (external_endpoint("größe a?b#c%"),))
    client = ControlClient("http://localhost:8000")
    deploy_screen.served(catalog, client, AppEnv("it", "production"), 1, 0.1)
    said = capsys.readouterr().out
    address = "http://localhost:8000/v2/it-production-gr%C3%B6%C3%9Fe%20a%3Fb%23c%25/runsync"
    assert f"POST {address}\n" in said
    (curl,) = (line for line in said.splitlines() if line.strip().startswith("curl"))
    assert shlex.split(curl)[1] == address
