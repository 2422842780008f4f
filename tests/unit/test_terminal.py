"""What a person sees on standard error."""

from __future__ import annotations

import pytest

from runpod_flash.client.terminal import say


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("building environment", "flash: m: building environment\n"),
        ("many devices", "flash: m: many devices\n"),
        ("m shares the GPU of n", "flash: m shares the GPU of n\n"),
    ],
)
def test_a_line_names_its_endpoint_once(
    capsys: pytest.CaptureFixture[str], text: str, line: str
) -> None:
    say(text, "m")
    assert capsys.readouterr().err == line
