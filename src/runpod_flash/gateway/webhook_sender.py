"""Sends one webhook: signed, to an address that was checked, and nowhere else."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import runpod_flash

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from runpod_flash.gateway.targets import Targets

_SECONDS = 10.0


class WebhookSender:
    """Signs by Standard Webhooks (`webhook-id`, `-timestamp` and `-signature`)."""

    def __init__(
        self, targets: Targets, secret: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._targets = targets
        self._secret = secret
        self._clock = clock
        self._client: httpx.AsyncClient | None = None

    async def send(self, webhook: str, message_id: str, body: bytes) -> int:
        """Post the body; the status of the answer.

        Raises `ForbiddenTargetError`, or `OSError` where nobody answers.
        """
        try:
            return await asyncio.wait_for(self._send(webhook, message_id, body), _SECONDS)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {_SECONDS:g} s") from None

    async def _send(self, webhook: str, message_id: str, body: bytes) -> int:
        import httpx

        client = self._connected()
        url = httpx.URL(webhook)
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await self._targets.resolve(url.host, port)
        request = client.build_request(
            "POST",
            # The name is resolved here and not again: it may have another address by then.
            url.copy_with(host=address),
            content=body,
            headers={**self._headers(message_id, body), "host": url.netloc.decode()},
            extensions={"sni_hostname": url.host},
        )
        try:
            response = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise ConnectionError(str(error) or type(error).__name__) from None
        await response.aclose()
        return response.status_code

    def _headers(self, message_id: str, body: bytes) -> dict[str, str]:
        from standardwebhooks import Webhook

        at = datetime.fromtimestamp(int(self._clock()), timezone.utc)
        signature = Webhook(self._secret).sign(message_id, at, body.decode())
        return {
            "content-type": "application/json",
            "user-agent": f"Flash/{runpod_flash.__version__}",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
        }

    def _connected(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            # Connections are not kept: one to an address would serve every name that has it. Of
            # redirects and proxies, nobody has checked where they lead.
            self._client = httpx.AsyncClient(
                timeout=_SECONDS,
                trust_env=False,
                follow_redirects=False,
                limits=httpx.Limits(max_keepalive_connections=0),
                verify=httpx.create_ssl_context(),  # (SSL_CERT_FILE counts, proxies do not)
            )
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
