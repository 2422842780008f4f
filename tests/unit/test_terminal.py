"""What a person sees on standard error."""

from __future__ import annotations

import pytest

from runpod_flash.cli import output
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


def test_names_that_others_gave_do_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.error("no key '\x1b[2J\u202ename'")
    assert capsys.readouterr().err == "Error: no key '\\x1b[2J\\u202ename'\n"
    assert output.table([("\x1b[2J\nFAKE", "größe")]) == ["\\x1b[2J\\nFAKE  größe"]
