"""The first key of a server, and the link that makes another one in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.control.invitations import Invitations

if TYPE_CHECKING:
    from runpod_flash.control.keys import Keys

LINK_SECONDS = 24 * 3600.0


class SetupInfo(NamedTuple):
    """What the first start tells the person who did it: an admin key, and a setup link's token."""

    key: str
    token: str


async def first_start(keys: Keys) -> SetupInfo | None:
    """Make an admin key and an invitation for another; None where the server has keys already."""
    if any(True for _ in keys.ring):
        return None
    new = await keys.create("first", "admin")
    link = await Invitations(keys).create("setup", "admin", LINK_SECONDS)
    return SetupInfo(new.secret, link.token)
