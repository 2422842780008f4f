"""/setup: a page that makes somebody's key in a browser, with a link that works once.

To open the link changes nothing, for programs open links to preview them; its button does. The
browser is signed in then, so that it can allow `flash login`.
"""

from __future__ import annotations

import shlex
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from runpod_flash.control.invitations import Invitations, SpentLinkError
from runpod_flash.gateway.guard import can_be_read
from runpod_flash.gateway.messages import (
    Refusal,
    address_of,
    query,
    read_body,
    wrong_method,
)
from runpod_flash.gateway.oauth.browser import Browsers
from runpod_flash.gateway.page import MAY, filled, page

if TYPE_CHECKING:
    from runpod_flash.control.keys import Keys
    from runpod_flash.gateway.messages import Answer, Receive, Scope

_BODY_LIMIT = 4096
_OFFER = Template("""<p>This makes a key of a Flash server for you, and shows it once.</p>
<dl>
<dt>Server</dt><dd>$server</dd>
<dt>Name</dt><dd>$name</dd>
<dt>May</dt><dd><b>$scope</b>: $may</dd>
<dt>Endpoints</dt><dd>$endpoints</dd>
</dl>
<form method="post" action="/setup">
<input type="hidden" name="token" value="$token">
<div class="buttons"><button>Make the key</button></div>
</form>
<p class="dim">The link works once. If you neither started this server nor were invited to it, close
this page.</p>""")
_SHOWN = Template("""<p>Keep it now: this page is the only place that shows it, and the link works
no more.</p>
<pre>$key</pre>
<p>In a terminal, log in; then allow that in this browser, which is signed in for a week:</p>
<pre>flash login --server $address$option</pre>
<p>Programs without a person take the key from a variable (a click selects all lines):</p>
<pre>export FLASH_TARGET=$address
export FLASH_API_KEY=$key$variable
flash whoami</pre>
<p class="dim">Its name is $name. Whoever has an admin key can end it:
<code>flash key revoke $quoted</code></p>""")
_SPENT = """<p>Such a link works once, for a limited time.</p>
<p class="dim">Whoever has an admin key can make further ones:
<code>flash key invite NAME --scope deploy</code></p>"""


class SetupPage:
    def __init__(self, keys: Keys) -> None:
        self._invitations = Invitations(keys)
        self._browsers = Browsers(keys)

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a request for /setup."""
        method = scope["method"]
        try:
            if method in ("GET", "HEAD"):
                return await self._offer(scope, query(scope).get("token", ""))
            if method == "POST":
                return await self._redeem(scope, receive)
        except SpentLinkError:
            return page(410, "This link does not work", _SPENT)
        raise wrong_method(scope, "GET, HEAD, POST")

    async def _offer(self, scope: Scope, token: str) -> Answer:
        found = await self._invitations.find(token)
        content = filled(
            _OFFER,
            name=found.name,
            server=address_of(scope),
            scope=found.scope,
            may=MAY[found.scope],
            endpoints=", ".join(found.endpoints) or "all",
            token=token,
        )
        return page(200, "Your key of this server", content, keeps_origin=True)

    async def _redeem(self, scope: Scope, receive: Receive) -> Answer:
        body = await read_body(scope, receive, _BODY_LIMIT, "send the form of GET /setup")
        try:
            token = parse_qs(body.decode("ascii"))["token"][0]
        except (ValueError, KeyError):
            raise Refusal(400, "the form lacks the token; open the link again") from None
        new = await self._invitations.redeem(token)
        readable = can_be_read(scope)
        content = filled(
            _SHOWN,
            key=new.secret,
            name=new.key.name,
            quoted=shlex.quote(new.key.name),
            address=address_of(scope),
            option=" --insecure" if readable else "",
            variable="\nexport FLASH_INSECURE=1" if readable else "",
        )
        signed_in = await self._browsers.sign_in(scope, new.key)
        title = "Your admin key" if new.key.scope == "admin" else "Your key"
        return page(200, title, content, headers=(signed_in,))
