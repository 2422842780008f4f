"""The pages that people see of a server: whole in one answer, without scripts, images or a network.

No page is kept, framed, or sends anything but to this server.
"""

from __future__ import annotations

import base64
import hashlib
import html
from string import Template
from typing import TYPE_CHECKING

from runpod_flash.gateway.messages import Answer

if TYPE_CHECKING:
    from runpod_flash.control.key import KeyScope

# What keys may do, as people read it.
MAY: dict[KeyScope, str] = {
    "invoke": "call functions and routes",
    "deploy": "call functions, deploy apps and bring code, which runs on this server",
    "admin": "do everything: call, deploy, and make keys for others",
}
_STYLE = """
:root { color-scheme: light dark; --dim: #5b6472; --line: #d5dae1; --box: #f4f6f8; --go: #1f5fd0;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --dim: #9aa4b2; --line: #39414d; --box: #1c2128; --go: #3b7bea; --bad: #ff8a80; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 12vh auto; padding: 0 1rem; }
code { white-space: nowrap; }
h1 { font-size: 1.4rem; margin: 0 0 .75rem; }
p { margin: .75rem 0; }
.dim { color: var(--dim); }
.bad { color: var(--bad); }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .75rem;
  font-size: .85rem; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.25rem; margin: 1rem 0;
  padding: .85rem 1rem; background: var(--box); border: 1px solid var(--line); border-radius: 6px; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600; }
input { font: inherit; box-sizing: border-box; width: 100%; padding: .55rem .7rem;
  border: 1px solid var(--line); border-radius: 6px; }
input.code { width: 12rem; letter-spacing: .12em; text-transform: uppercase; }
.buttons { display: flex; gap: .75rem; margin: 1.25rem 0; }
button { font: inherit; color: #fff; background: var(--go); border: 1px solid var(--go);
  border-radius: 6px; padding: .6rem 1.1rem; cursor: pointer; }
button.plain { color: inherit; background: none; border-color: var(--line); }
button.link { color: var(--go); background: none; border: 0; padding: 0;
  text-decoration: underline; }
button:focus-visible, input:focus-visible { outline: 3px solid var(--line); }
"""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Flash: $title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
$content
</body>
</html>
""")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def page(
    status: int,
    title: str,
    content: str,
    *,
    keeps_origin: bool = False,
    leads_to: str = "",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> Answer:
    """A page; `content` is HTML.

    With `keeps_origin`, its forms say that they come from here: with no-referrer, browsers would
    send them with `Origin: null`. `leads_to` is another origin to which a form may be redirected.
    """
    body = _PAGE.substitute(title=html.escape(title), style=_STYLE, content=content).encode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        f"form-action 'self'{leads_to and ' ' + leads_to}; frame-ancestors 'none'; base-uri 'none'"
    )
    return Answer(
        status,
        body,
        b"text/html; charset=utf-8",
        (
            (b"content-security-policy", policy.encode()),
            (b"x-frame-options", b"DENY"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"referrer-policy", b"same-origin" if keeps_origin else b"no-referrer"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *headers,
        ),
    )


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def filled(template: Template, **texts: str) -> Html:
    """The HTML template with these texts; what is no `Html` is not taken for it."""
    return Html(
        template.substitute(
            {
                name: text if isinstance(text, Html) else html.escape(text)
                for name, text in texts.items()
            }
        )
    )
