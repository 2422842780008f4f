"""OAuth 2.0 as oauthlib judges it: authorization codes with PKCE (RFC 7636), and device codes.

There is one client, the `flash` command: a public one, whose redirects go to the loopback (RFC
8252), or that is told of a decision as it polls (RFC 8628).
An object here is for one request: oauthlib asks it, and leaves what it found in it.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from oauthlib.oauth2 import (
    AuthorizationCodeGrant,
    AuthorizationEndpoint,
    DeviceAuthorizationEndpoint,
    DeviceCodeGrant,
    OAuth2Error,
    TokenEndpoint,
)
from oauthlib.oauth2.rfc6749.errors import UnsupportedCodeChallengeMethodError
from oauthlib.oauth2.rfc8628.request_validator import RequestValidator

from runpod_flash.control.key import SCOPES
from runpod_flash.control.logins import (
    DEVICE_SECONDS,
    INTERVAL_SECONDS,
    Approval,
    DeviceLogin,
    Logins,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runpod_flash.control.key import KeyScope

CLIENT = "flash-cli"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_METHOD = "S256"
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
# (By its number: other programs may make `localhost` resolve to something else.)
_REDIRECT = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):[1-9]\d{0,4}/[A-Za-z0-9/_-]{0,64}")
# Letters that are not taken for others, and make no words (RFC 8628, section 6.1).
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Judged(NamedTuple):
    """An answer to a program, or to the browser that is sent back to it."""

    status: int
    headers: Mapping[str, str]
    body: str


class Asked(NamedTuple):
    """What a program asks a person for, through their browser."""

    scope: KeyScope
    redirect_uri: str


class Exchange(RequestValidator):  # type: ignore[misc]  # (oauthlib has no types)
    """What oauthlib asks about one request; afterwards `approval` is what a key may be made for."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._challenge: str | None = None
        self._redirect_uri = ""
        self.approval: Approval | None = None
        self.code = ""
        self.device_code = ""
        self.replayed = False

    # The two ends of it

    def judge_request(self, uri: str) -> Asked:
        """What a URL of the authorization page asks for; raises `OAuth2Error`."""
        scopes, found = self._authorization().validate_authorization_request(uri)
        return Asked(scopes[0], found["redirect_uri"])

    def send_back(self, uri: str, approval: Approval) -> str:
        """The URL to which the browser brings the code."""
        self.approval = approval
        answered = self._authorization().create_authorization_response(uri, scopes=[approval.scope])
        return str(answered[0]["Location"])

    def begin_device(self, uri: str, body: str, machine: str, address: str) -> Judged:
        """Begin a login whose person is elsewhere; raises `TooManyLoginsError`."""
        challenge = _field(body, "code_challenge")
        if challenge and not _well_challenged(challenge, _field(body, "code_challenge_method")):
            return _refusal("invalid_request", f"the code_challenge has to be one of {_METHOD}")
        endpoint = DeviceAuthorizationEndpoint(
            self,
            verification_uri=uri,
            expires_in=int(DEVICE_SECONDS),
            interval=INTERVAL_SECONDS,
            verification_uri_complete=f"{uri}?user_code={{user_code}}",
            user_code_generator=_user_code,
        )
        try:
            headers, told, status = endpoint.create_device_authorization_response(
                uri, "POST", body, _FORM
            )
        except OAuth2Error as error:
            return Judged(error.status_code, error.headers, error.json)
        expires_at = self._logins.keys.ring.clock() + DEVICE_SECONDS
        login = DeviceLogin(
            told["user_code"], told.pop("scope"), machine, address, challenge, expires_at
        )
        told["device_code"] = secrets.token_urlsafe(32)
        self._logins.begin_device(told["device_code"], login)
        return Judged(status, headers, json.dumps(told))

    def judge_token(self, uri: str, body: str) -> Judged:
        """Whether a program gets a key; where it does, `approval` says which."""
        grants = {"authorization_code": self._code_grant(), DEVICE_GRANT: DeviceCodeGrant(self)}
        endpoint = TokenEndpoint("authorization_code", _Token(), grants)
        if _field(body, "grant_type") not in grants:
            return _refusal("unsupported_grant_type", f"known are {' and '.join(grants)}")
        try:
            headers, told, status = endpoint.create_token_response(uri, "POST", body, _FORM)
        except OAuth2Error as error:
            headers, told, status = error.headers, error.json, error.status_code
        if status != 200:
            self.approval = None
        return Judged(status, headers, told)

    def _authorization(self) -> AuthorizationEndpoint:
        return AuthorizationEndpoint("code", _Token(), {"code": self._code_grant()})

    def _code_grant(self) -> AuthorizationCodeGrant:
        grant = AuthorizationCodeGrant(self)
        grant.custom_validators.post_auth.append(_check_challenge)
        return grant

    # What oauthlib asks: of clients

    def client_authentication_required(self, request: Any, *_: Any, **__: Any) -> bool:
        return False

    def authenticate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        request.client = _Client
        return client_id == CLIENT

    def validate_client_id(self, client_id: str, request: Any, *_: Any, **__: Any) -> bool:
        return client_id == CLIENT

    def validate_grant_type(self, *_: Any, **__: Any) -> bool:
        return True

    def validate_response_type(self, _: str, response_type: str, *__: Any, **___: Any) -> bool:
        return bool(response_type == "code")

    def validate_redirect_uri(self, _: str, redirect_uri: str, *__: Any, **___: Any) -> bool:
        return _REDIRECT.fullmatch(redirect_uri) is not None

    def get_default_redirect_uri(self, *_: Any, **__: Any) -> None:
        return None

    def get_default_scopes(self, *_: Any, **__: Any) -> list[str]:
        return ["deploy"]

    def validate_scopes(self, _: str, scopes: list[str], *__: Any, **___: Any) -> bool:
        return len(scopes) == 1 and scopes[0] in SCOPES

    def is_pkce_required(self, *_: Any, **__: Any) -> bool:
        return True

    # Of codes

    def save_authorization_code(
        self, client_id: str, code: dict[str, str], request: Any, *_: Any, **__: Any
    ) -> None:
        assert self.approval is not None
        self._logins.keep_code(
            code["code"], request.redirect_uri, request.code_challenge, self.approval
        )

    def validate_code(
        self, client_id: str, code: str, client: Any, request: Any, *_: Any, **__: Any
    ) -> bool:
        self.code = code
        login = self._logins.take_code(code)  # (gone, also where it is not answered)
        if login is None:
            self.replayed = self._logins.key_of_spent(code) is not None
            return False
        self._challenge, self._redirect_uri = login.challenge, login.redirect_uri
        self.approval = request.user = login.approval
        request.scopes = [login.approval.scope]
        return True

    def get_code_challenge(self, *_: Any, **__: Any) -> str | None:
        return self._challenge

    def get_code_challenge_method(self, *_: Any, **__: Any) -> str:
        return _METHOD

    def confirm_redirect_uri(self, _: str, __: str, redirect_uri: str, *___: Any) -> bool:
        return redirect_uri == self._redirect_uri

    def invalidate_authorization_code(self, *_: Any, **__: Any) -> None:
        """It was taken."""

    def validate_device_code(
        self, client_id: str, code: str, request: Any, *_: Any, **__: Any
    ) -> str | None:
        login = self._logins.device(code)
        if login is None:
            return None
        if login.challenge and not _proves(request.code_verifier, login.challenge):
            return None  # somebody else's, who has seen the code
        polled = self._logins.poll(login)
        if polled == "authorized":
            assert login.approval is not None
            self.device_code = code
            self.approval = request.user = login.approval
            request.scopes = [login.approval.scope]
        return polled

    def save_token(self, *_: Any, **__: Any) -> None:
        """The key is made afterwards."""

    save_bearer_token = save_token


class _Client:
    client_id = CLIENT


class _Token:
    """What oauthlib takes for the maker of tokens."""

    def create_token(self, request: Any, refresh_token: bool = False) -> dict[str, str]:
        return {"token_type": "Bearer"}


def _check_challenge(request: Any) -> dict[str, str]:
    """(`plain` proves nothing to who reads along.)"""
    if not _well_challenged(request.code_challenge, request.code_challenge_method):
        raise UnsupportedCodeChallengeMethodError(request=request)
    return {}


def _well_challenged(challenge: str, method: str) -> bool:
    return method == _METHOD and _CHALLENGE.fullmatch(challenge) is not None


def _proves(verifier: str | None, challenge: str) -> bool:
    from oauthlib.oauth2.rfc6749.grant_types.authorization_code import code_challenge_method_s256

    return verifier is not None and bool(code_challenge_method_s256(verifier, challenge))


def _user_code() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def _field(body: str, name: str) -> str:
    from urllib.parse import parse_qs

    return parse_qs(body).get(name, [""])[0]


def _refusal(error: str, description: str) -> Judged:
    return Judged(400, {}, json.dumps({"error": error, "error_description": description}))
