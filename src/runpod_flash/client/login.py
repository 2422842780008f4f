"""Gets a key of a server for this machine, which a person allows in a browser: OAuth 2.0.

Two ways: `login_by_browser` where a browser is on this machine (RFC 8252, with PKCE), and
`login_by_code` where it may be on any other (RFC 8628).
"""

from __future__ import annotations

import base64
import hashlib
import platform
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from runpod_flash.client.control import asking
from runpod_flash.client.credentials import check_kept_secret, origin_of
from runpod_flash.client.loopback_listener import LoopbackListener
from runpod_flash.errors import ConfigurationError, ConnectionClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

_CLIENT = "flash-cli"
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOWER_SECONDS = 5.0
# What a server that goes on waiting says meanwhile, as RFC 8628 has it.
_WAITING = ("authorization_pending", "slow_down")
_ENDS = {
    "access_denied": "the login was denied in the browser; nothing was kept",
    "expired_token": "the code has expired before anybody approved it; run `flash login` again",
}


class LoginFailedError(ConfigurationError):
    """No key came of a login."""


@dataclass(frozen=True)
class LoginServer:
    """Where somebody logs in, for a key that may do what `scope` says.

    Raises `ConfigurationError` where others could read the key on its way.
    """

    address: str
    scope: str
    insecure: bool = False

    def __post_init__(self) -> None:
        check_kept_secret(self.origin, "key", insecure=self.insecure)

    @property
    def origin(self) -> str:
        return origin_of(self.address)

    def send(self, path: str, **fields: str) -> dict[str, Any]:
        """What the server answers to a form; an `error` is one of OAuth's words."""
        with asking(self.origin) as client:
            response = client.post(f"{self.origin}{path}", data={"client_id": _CLIENT, **fields})
        try:
            told = response.json()
        except ValueError:
            told = {}
        if response.status_code in (404, 405) or not isinstance(told, dict) or not told:
            raise LoginFailedError(
                f"{self.origin} has no login pages (HTTP status {response.status_code}); "
                "log in with --api-key KEY"
            )
        return told


class _Proof:
    """Shows the server that who fetches the key is who began (PKCE, RFC 7636)."""

    def __init__(self) -> None:
        self.verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(self.verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        self.challenge = {"code_challenge": challenge, "code_challenge_method": "S256"}


def login_by_browser(server: LoginServer, show: Callable[[str], None], seconds: float) -> str:
    """The key, once a person has allowed it in a browser of this machine.

    `show` is given the address of the page. Raises `LoginFailedError` where it is denied, refused,
    or not allowed within so many seconds.
    """
    proof, state = _Proof(), secrets.token_urlsafe(24)
    # (Asked first: a page that cannot be reached would say it in the browser alone.)
    with asking(server.origin) as client:
        client.get(f"{server.origin}/ping")

    def exchange(code: str) -> str:
        told = server.send(
            "/oauth/token",
            grant_type="authorization_code",
            code=code,
            redirect_uri=listener.address,
            code_verifier=proof.verifier,
        )
        return _key_of(server, told)

    with LoopbackListener(state, exchange, f"{server.origin}/oauth") as listener:
        asked = {
            "response_type": "code",
            "client_id": _CLIENT,
            "redirect_uri": listener.address,
            "scope": server.scope,
            "state": state,
            "machine": platform.node(),
            **proof.challenge,
        }
        show(f"{server.origin}/oauth/authorize?{urlencode(asked)}")
        answered = listener.wait(seconds)
    if answered is None:
        raise _too_late(seconds)
    if answered.error:
        raise LoginFailedError(_ENDS.get(answered.error, answered.error))
    return answered.key


def login_by_code(server: LoginServer, show: Callable[[str, str], None], seconds: float) -> str:
    """The key, once a person has allowed it in any browser.

    `show` is given the address of the page, and the code to enter there. Raises as
    `login_by_browser` does.
    """
    proof, begun = _Proof(), time.monotonic()
    told = server.send(
        "/oauth/device_authorization",
        scope=server.scope,
        machine=platform.node(),
        **proof.challenge,
    )
    if "device_code" not in told:
        raise _refused(server, told)
    # (The server may know itself by another name than this machine does.)
    page = f"{server.origin}{urlsplit(told['verification_uri']).path}"
    show(page, told["user_code"])
    interval = float(told.get("interval", _SLOWER_SECONDS))
    while (left := begun + seconds - time.monotonic()) > 0:
        time.sleep(min(interval, left))
        try:
            answered = server.send(
                "/oauth/token",
                grant_type=_DEVICE_GRANT,
                device_code=told["device_code"],
                code_verifier=proof.verifier,
            )
        except ConnectionClosedError:
            continue  # a network that comes back
        if answered.get("error") not in _WAITING:
            return _key_of(server, answered)
        interval += _SLOWER_SECONDS if answered["error"] == "slow_down" else 0
    raise _too_late(seconds)


def end_key(origin: str, key: str) -> None:
    """Have a server know a key no more (RFC 7009).

    Raises `ConnectionClosedError` where it cannot be reached, and `ConfigurationError` where it
    refuses, or where the key could be read on its way.
    """
    check_kept_secret(origin, "key")
    with asking(origin) as client:
        answered = client.post(f"{origin}/oauth/revoke", data={"client_id": _CLIENT, "token": key})
    if not answered.is_success:
        told = answered.json() if answered.status_code == 400 else {}
        raise ConfigurationError(told.get("error_description", "it refused to end it"))


def _key_of(server: LoginServer, told: dict[str, Any]) -> str:
    key = told.get("access_token")
    if not key:
        raise _refused(server, told)
    return str(key)


def _refused(server: LoginServer, told: dict[str, Any]) -> LoginFailedError:
    error = str(told.get("error", "no reason given"))
    if error in _ENDS:
        return LoginFailedError(_ENDS[error])
    said = told.get("error_description") or error
    return LoginFailedError(f"{server.origin} refused the login: {said}; run `flash login` again")


def _too_late(seconds: float) -> LoginFailedError:
    return LoginFailedError(
        f"nobody allowed the login within {seconds:.0f} seconds; run `flash login` again "
        "(--timeout waits longer)"
    )
