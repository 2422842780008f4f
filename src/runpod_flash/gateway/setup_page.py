"""/setup: a page that makes a server's admin key in a browser, with a link that works once.

To open the link changes nothing, for programs open links to preview them; its button does.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from runpod_flash.control.setup import SpentLinkError
from runpod_flash.gateway.guard import host_name
from runpod_flash.gateway.messages import Refusal, header, query, read_body, wrong_method
from runpod_flash.gateway.page import page
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from runpod_flash.control.setup import SetupLinks
    from runpod_flash.gateway.messages import Answer, Receive, Scope

_BODY_LIMIT = 4096
_OFFER = """<p>This makes an admin key for this Flash server and shows it once. An admin key can do
everything: call, deploy, and make other keys.</p>
<form method="post" action="/setup">
<input type="hidden" name="token" value="{token}">
<button>Make an admin key</button>
</form>
<p class="dim">The link works once. If you did not start this server, or have the link from
somebody else, close this page.</p>"""
_SHOWN = """<p>Keep it now: this page is the only place that shows it, and the link works no
more.</p>
<pre>{key}</pre>
<p>In a terminal (a click selects all lines):</p>
<pre>export FLASH_TARGET={address}
export FLASH_API_KEY={key}{insecure}
flash key list</pre>
<p class="dim">Its name is {name}. For a program that only calls functions, make a key that can do
no more: <code>flash key create NAME</code></p>"""

_SPENT = """<p>A setup link works once, for a day.</p>
<p class="dim">Whoever has an admin key can make further ones:
<code>flash key create NAME --scope admin</code></p>"""


class SetupPage:
    def __init__(self, links: SetupLinks) -> None:
        self._links = links

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for /setup."""
        method = scope["method"]
        try:
            if method in ("GET", "HEAD"):
                return await self._offer(query(scope).get("token", ""))
            if method == "POST":
                return await self._redeem(scope, receive)
        except SpentLinkError:
            return page(410, "This link does not work", _SPENT)
        raise wrong_method(scope, "GET, HEAD, POST")

    async def _offer(self, token: str) -> Answer:
        await self._links.check(token)
        content = _OFFER.format(token=html.escape(token))
        return page(200, "Set up this server", content, keeps_origin=True)

    async def _redeem(self, scope: Scope, receive: Receive) -> Answer:
        body = await read_body(scope, receive, _BODY_LIMIT, "send the form of GET /setup")
        try:
            token = parse_qs(body.decode("ascii"))["token"][0]
        except (ValueError, KeyError):
            raise Refusal(400, "the form lacks the token; open the setup link again") from None
        new = await self._links.redeem(token)
        host, scheme = header(scope, b"host") or "localhost", scope["scheme"]
        address = f"{scheme}://{host}"
        readable = scheme == "http" and not is_loopback(host_name(host))
        insecure = "\nexport FLASH_INSECURE=1" if readable else ""
        shown = {
            "key": new.secret,
            "name": new.key.name,
            "address": address,
            "insecure": insecure,
        }
        content = _SHOWN.format(**{name: html.escape(text) for name, text in shown.items()})
        return page(200, "Your admin key", content)
