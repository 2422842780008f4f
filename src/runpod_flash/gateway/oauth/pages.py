"""What people see while a login waits for them."""

from __future__ import annotations

from string import Template
from typing import TYPE_CHECKING, NamedTuple

from runpod_flash.gateway.page import MAY, Html, filled, page

if TYPE_CHECKING:
    from runpod_flash.control.key import Key, KeyScope
    from runpod_flash.gateway.messages import Answer

_SIGN_IN = Template("""<p>$asks</p>
$wrong<form method="post">
<label for="key">Your key</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus
  spellcheck="false">
<div class="buttons"><button>Sign in</button></div>
</form>
<p class="dim">Nothing is allowed yet: the next page asks for that. This browser stays signed in for
a week. Without a key, ask who runs this server for an invitation:
<code>flash key invite NAME</code></p>
<p class="dim">If you did not start a login, close this page.</p>""")
_CONSENT = Template("""<p>$asks</p>
<dl>
<dt>May</dt><dd><b>$scope</b>: $may</dd>
<dt>Machine</dt><dd>$machine <span class="dim">(as it calls itself)</span></dd>
<dt>From</dt><dd>$origin</dd>
$code<dt>Key's name</dt><dd>$name</dd>
</dl>
$notes<form method="post">
<input type="hidden" name="seal" value="$seal">
$proof<div class="buttons">
<button name="decision" value="approve">Approve</button>
<button class="plain" name="decision" value="deny" formnovalidate>Deny</button>
</div>
</form>
<p class="dim">Approve only what you have started yourself just now$same.</p>
<form method="post">
<input type="hidden" name="seal" value="$seal">
<p class="dim">You are $who. <button class="link" name="decision" value="sign-out"
>Use another key</button></p>
</form>""")
_CODE = Template("""<dt>Code</dt><dd><b>$code</b></dd>
""")
_PROOF = """<label for="key">Your admin key, once more</label>
<input id="key" name="key" type="password" autocomplete="current-password" required
  spellcheck="false">
"""
_ENTER = Template("""<p>A terminal that logs in shows a code of eight letters.</p>
$wrong<form method="get">
<label for="user_code">Code</label>
<input id="user_code" class="code" name="user_code" placeholder="XXXX-XXXX" autocomplete="off"
  required autofocus spellcheck="false" maxlength="20">
<div class="buttons"><button>Continue</button></div>
</form>
<p class="dim">Enter only a code from a terminal of your own, never one that somebody sent you.</p>
""")
_WRONG = Template("""<p class="bad" role="alert">$wrong</p>
""")
_NOTE = Template("""<p>$note</p>
""")
_READABLE = (
    "This page came over plain http: others on the network can read a key that is typed here, and "
    "the new one."
)
_PARAGRAPH = Template("<p>$text</p>")


class Server(NamedTuple):
    """The one whose page it is; whether others can read what is typed there."""

    address: str
    readable: bool

    @property
    def warning(self) -> Html:
        return _alert(_READABLE if self.readable else "")


class Consent(NamedTuple):
    """What somebody may allow with their key: one of the scope `given`, for a machine.

    `origin` says where the login was begun, `code` is what the terminal shows, if it shows one.
    """

    server: Server
    by: Key
    asked: KeyScope
    given: KeyScope
    machine: str
    origin: str
    name: str
    seal: str
    code: str = ""
    leads_to: str = ""


def sign_in(server: Server, machine: str, wrong: str = "") -> Answer:
    """Asks for a key; `machine` is the one that logs in, where that may be said already."""
    asks = f"{machine or 'A terminal'} wants to log in to {server.address}."
    content = filled(_SIGN_IN, asks=asks, wrong=Html(server.warning + _alert(wrong)))
    return page(401 if wrong else 200, "Sign in", content, keeps_origin=True)


def consent(asked: Consent, wrong: str = "") -> Answer:
    """Shows who asks for what, and lets a person decide."""
    narrower = asked.given != asked.asked
    note = (
        f"It asked for {asked.asked}; your key may only {asked.given}, and so will the new one."
        if narrower
        else ""
    )
    if asked.by.endpoints:
        note += f" As yours, it will be only for {', '.join(asked.by.endpoints)}."
    said = filled(_NOTE, note=note.strip()) if note else ""
    content = filled(
        _CONSENT,
        asks=f"{asked.machine} asks for a key of {asked.server.address}.",
        scope=asked.given,
        may=MAY[asked.given],
        machine=asked.machine,
        origin=asked.origin,
        code=filled(_CODE, code=asked.code) if asked.code else Html(),
        name=asked.name,
        notes=Html("".join((asked.server.warning, _alert(wrong), said))),
        seal=asked.seal,
        proof=Html(_PROOF if asked.given == "admin" else ""),
        same=", where the terminal shows this very code" if asked.code else "",
        who=f"{asked.by.name} ({asked.by.masked})",
    )
    return page(
        403 if wrong else 200,
        "Allow this login?",
        content,
        keeps_origin=True,
        leads_to=asked.leads_to,
    )


def enter_code(wrong: str = "", status: int = 404) -> Answer:
    """Asks for the code that a terminal shows."""
    content = filled(_ENTER, wrong=_alert(wrong))
    title = "Enter the code of your terminal"
    return page(status if wrong else 200, title, content, keeps_origin=True)


def told(status: int, title: str, *sentences: str) -> Answer:
    """Says something, and asks for nothing."""
    content = "\n".join(filled(_PARAGRAPH, text=each) for each in sentences)
    return page(status, title, content)


DENIED = told(200, "Denied", "No key was made. You may close this page.")
DONE = told(200, "Logged in", "The terminal has its key. You may close this page.")


def _alert(wrong: str) -> Html:
    return filled(_WRONG, wrong=wrong) if wrong else Html()
