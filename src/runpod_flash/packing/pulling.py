"""Images of a project, pulled before the first worker needs one."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from runpod_flash.engines.docker.connection import EngineGoneError, connect
from runpod_flash.engines.docker.images import Images, checked_credentials
from runpod_flash.errors import WorkerStartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runpod_flash.project.catalog import Discovered
    from runpod_flash.spec import Container


def pull(endpoints: Sequence[Discovered], say: Callable[[str], None]) -> list[str]:
    """Have this machine's container engine pull what they declare; a sentence for each failure.

    Without an engine here nothing is pulled, and `say` is told why: workers may be elsewhere.
    """
    wanted = {
        (container.image, container.registry_auth): (container, each.env)
        for each in endpoints
        if (container := each.spec.build.container) is not None
    }
    if not wanted:
        return []
    try:
        connection = connect()
    except WorkerStartError as error:
        say(f"no image is pulled ahead: {error}")
        return []
    with closing(connection.api):
        images = Images(connection)
        found = [_pull(images, container, env, say) for container, env in wanted.values()]
    return list(filter(None, found))


def _pull(
    images: Images, container: Container, env: Mapping[str, str], say: Callable[[str], None]
) -> str:
    """Why it cannot be had; empty where it is here."""
    try:
        images.ensure(container.image, checked_credentials(container.registry_auth, env), say)
    except (WorkerStartError, EngineGoneError) as error:
        return str(error)
    return ""
