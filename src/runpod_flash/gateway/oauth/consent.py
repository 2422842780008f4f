"""The two pages on which a person allows a login or denies it: of this machine, or any terminal.

Whoever is not known signs in first, with a key. What they allow is at most what their key may do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from oauthlib.oauth2 import AccessDeniedError, FatalClientError, OAuth2Error

from runpod_flash.control.logins import Approval, TooManyGuessesError
from runpod_flash.gateway.guard import can_be_read
from runpod_flash.gateway.messages import Answer, address_of, query, wrong_method
from runpod_flash.gateway.oauth import pages
from runpod_flash.gateway.oauth.browser import check_navigation, check_own_form
from runpod_flash.gateway.oauth.forms import (
    fields,
    form_text,
    machine_name,
    redirect,
)
from runpod_flash.gateway.oauth.protocol import Exchange

if TYPE_CHECKING:
    from runpod_flash.control.key import Key, KeyScope
    from runpod_flash.control.logins import Logins
    from runpod_flash.gateway.messages import Receive, Scope
    from runpod_flash.gateway.oauth.browser import Browsers, Person

_UNKNOWN_KEY = "This server has no such key; a revoked or expired one does not count."
_OLD_FORM = "This form is not of this session; nothing was decided. Decide here, if you did ask."
_NOT_ADMIN = "That is no admin key of this server."
_NO_LOGIN = (
    "No login waits with this code. It may have expired, or is decided on: start again in the "
    "terminal."
)


class ConsentPages:
    """`authorize` and `device` answer to their pages' requests, forms included."""

    def __init__(self, logins: Logins, browsers: Browsers) -> None:
        self._logins = logins
        self._browsers = browsers

    async def authorize(self, scope: Scope, receive: Receive) -> Answer:
        """A login whose program listens on the machine that the browser is on."""
        form = await self._form(scope, receive)
        uri, given = _uri(scope), query(scope)
        try:
            asked = Exchange(self._logins).judge_request(uri)
        except (FatalClientError, ValueError) as error:
            why = str(getattr(error, "description", None) or error).rstrip(".")
            return pages.told(
                400,
                "This login cannot go on",
                f"The link to this page is wrong ({why}), and nothing was sent to where it leads.",
                "Start again with flash login in a terminal of yours; never from a link that "
                "somebody sent you.",
            )
        except OAuth2Error as error:
            return redirect(error.in_uri(given["redirect_uri"]))
        machine = machine_name(given.get("machine", ""))
        person = await self._person(scope, form, machine)
        if isinstance(person, Answer):
            return person
        place = urlsplit(asked.redirect_uri).netloc
        shown = pages.Consent(
            server=_server(scope),
            by=person.key,
            asked=asked.scope,
            given=_narrowed(asked.scope, person.key),
            machine=machine,
            origin=f"a program on this computer, at {place}",
            name=self._logins.name_for(person.key, machine),
            seal=person.seal(uri),
            leads_to=f"http://{place}",
        )
        by = await self._decide(scope, form, person, shown, uri)
        if isinstance(by, Answer):
            return by
        if by is None:
            denied = AccessDeniedError(state=given.get("state"))
            return redirect(denied.in_uri(asked.redirect_uri))
        approval = Approval(by, shown.given, machine)
        return redirect(Exchange(self._logins).send_back(uri, approval))

    async def device(self, scope: Scope, receive: Receive) -> Answer:
        """A login whose program may be anywhere: it is found by the code that it shows."""
        form = await self._form(scope, receive)
        person = await self._person(scope, form)
        if isinstance(person, Answer):
            return person
        user_code = query(scope).get("user_code", "")
        if not user_code:
            return pages.enter_code()
        try:
            login = self._logins.awaiting(user_code, person.key.id)
        except TooManyGuessesError as error:
            return pages.enter_code(f"{str(error).capitalize()}.", 429)
        if login is None:
            return pages.enter_code(_NO_LOGIN)
        action = f"device {login.user_code}"
        shown = pages.Consent(
            server=_server(scope),
            by=person.key,
            asked=login.scope,
            given=_narrowed(login.scope, person.key),
            machine=login.machine,
            origin=f"a terminal at {login.address}",
            name=self._logins.name_for(person.key, login.machine),
            seal=person.seal(action),
            code=login.user_code,
        )
        by = await self._decide(scope, form, person, shown, action)
        if isinstance(by, Answer):
            return by
        if by is None:
            login.denied = True
            return pages.DENIED
        login.approval = Approval(by, shown.given, login.machine)
        return pages.told(200, "Approved", "Go back to your terminal. You may close this page.")

    # What both have

    async def _form(self, scope: Scope, receive: Receive) -> dict[str, str] | None:
        """The fields that a person has sent; None where they have opened the page."""
        check_navigation(scope)
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST":
            raise wrong_method(scope, "GET, HEAD, POST")
        check_own_form(scope)
        return fields(await form_text(scope, receive))

    async def _person(
        self, scope: Scope, form: dict[str, str] | None, machine: str = ""
    ) -> Person | Answer:
        """Who is in front of the page, or what makes them known."""
        if form is not None and "decision" not in form:
            key = self._browsers.proven(form.get("key", ""))
            if key is None:
                return pages.sign_in(_server(scope), machine, _UNKNOWN_KEY)
            return redirect(_here(scope), await self._browsers.sign_in(scope, key))
        found = await self._browsers.person(scope)
        return pages.sign_in(_server(scope), machine) if found is None else found

    async def _decide(
        self,
        scope: Scope,
        form: dict[str, str] | None,
        person: Person,
        shown: pages.Consent,
        action: str,
    ) -> Key | Answer | None:
        """The key that allows it, None where it is denied, or the page that goes on asking."""
        if form is None:
            return pages.consent(shown)
        if not person.sealed(action, form.get("seal", "")):
            return pages.consent(shown, _OLD_FORM)
        match form["decision"]:
            case "deny":
                return None
            case "sign-out":
                return redirect(_here(scope), await self._browsers.sign_out(scope))
            case "approve" if shown.given == "admin":
                key = self._browsers.proven(form.get("key", ""))
                admin = key is not None and key.may("admin")
                return key if admin else pages.consent(shown, _NOT_ADMIN)
            case "approve":
                return person.key
        return pages.consent(shown, _OLD_FORM)


def _narrowed(asked: KeyScope, key: Key) -> KeyScope:
    return asked if key.may(asked) else key.scope


def _server(scope: Scope) -> pages.Server:
    return pages.Server(address_of(scope), can_be_read(scope))


def _here(scope: Scope) -> str:
    text = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{text}" if text else str(scope["path"])


def _uri(scope: Scope) -> str:
    return f"{address_of(scope)}{_here(scope)}"
