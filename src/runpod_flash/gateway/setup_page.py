"""/setup: a page that makes a server's admin key in a browser, with a link that works once.

To open the link changes nothing, for programs open links to preview them; its button does.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from runpod_flash.control.setup import SpentLinkError
from runpod_flash.gateway.guard import host_name
from runpod_flash.gateway.messages import Answer, Refusal, header, query, read_body, wrong_method
from runpod_flash.loopback import is_loopback

if TYPE_CHECKING:
    from runpod_flash.control.setup import SetupLinks
    from runpod_flash.gateway.messages import Receive, Scope

_BODY_LIMIT = 4096
_STYLE = """
:root { color-scheme: light dark; --dim: #5b6472; --line: #d5dae1; --box: #f4f6f8; --go: #1f5fd0; }
@media (prefers-color-scheme: dark) {
  :root { --dim: #9aa4b2; --line: #39414d; --box: #1c2128; --go: #3b7bea; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 12vh auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .75rem; }
p { margin: .75rem 0; }
.dim { color: var(--dim); }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
button { font: inherit; color: #fff; background: var(--go); border: 0; border-radius: 6px;
  padding: .6rem 1.1rem; cursor: pointer; }
button:focus-visible { outline: 3px solid var(--line); }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flash: {title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""
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
            return _page(410, "This link does not work", _SPENT)
        raise wrong_method(scope, "GET, HEAD, POST")

    async def _offer(self, token: str) -> Answer:
        await self._links.check(token)
        content = _OFFER.format(token=html.escape(token))
        # (With no-referrer, browsers would send the form with `Origin: null`.)
        return _page(200, "Set up this server", content, b"same-origin")

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
        return _page(200, "Your admin key", content)


def _page(status: int, title: str, content: str, referrer: bytes = b"no-referrer") -> Answer:
    body = _PAGE.format(title=title, style=_STYLE, content=content).encode()
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    headers = (
        (b"content-security-policy", policy.encode()),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", referrer),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    )
    return Answer(status, body, b"text/html; charset=utf-8", headers)
