"""Bodies of requests, read as JSON."""

from __future__ import annotations

import pytest

from runpod_flash.gateway.messages import Refusal, parse_text_json


def test_a_whole_pair_of_surrogates_is_a_character_and_half_of_one_is_no_text() -> None:
    assert parse_text_json(b'{"name": "\\ud83d\\ude00"}') == {"name": "\U0001f600"}
    with pytest.raises(Refusal) as refused:
        parse_text_json(b'{"name": "\\ud83d"}')
    assert refused.value.answer.status == 400
