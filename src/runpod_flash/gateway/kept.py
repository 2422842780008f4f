"""Resources of one kind: all of them below their name, each below its id."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from runpod_flash.gateway.access import require
from runpod_flash.gateway.messages import Answer, answer
from runpod_flash.gateway.problems import problem
from runpod_flash.gateway.resources import allow, page

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runpod_flash.control.key import KeyScope
    from runpod_flash.gateway.messages import Receive, Scope, Sendable

T = TypeVar("T")


class Kept(ABC, Generic[T]):
    """A `Resource` that is listed and created at its name, and asked by `methods` at an id."""

    plural: ClassVar[str]
    right: ClassVar[KeyScope] = "deploy"
    methods: ClassVar[tuple[str, ...]] = ("GET", "PATCH", "DELETE")

    async def answer(self, rest: Sequence[str], scope: Scope, receive: Receive) -> Sendable:
        require(scope, self.right)
        match [each for each in rest if each]:
            case []:
                allow(scope, "GET", "POST")
                if scope["method"] == "POST":
                    return answer(201, await self.create(scope, receive))
                found = await self.all()
                return answer(200, page(self.plural, (self.shown(each, scope) for each in found)))
            case [resource_id]:
                allow(scope, *self.methods)
                return await self._one(await self.find(resource_id), scope, receive)
        name = scope["path"].split("/")[2]
        raise problem(404, f"nothing is at {scope['path']}; one is at /v2/{name}/ID")

    async def _one(self, found: T, scope: Scope, receive: Receive) -> Answer:
        if scope["method"] == "DELETE":
            await self.remove(found, scope)
            return Answer(204, b"")
        if scope["method"] == "PATCH":
            found = await self.update(found, scope, receive)
        return answer(200, self.shown(found, scope))

    @abstractmethod
    async def all(self) -> Iterable[T]:
        """Those that are there."""

    @abstractmethod
    async def find(self, resource_id: str) -> T:
        """The one with that id; raises the 404 where there is none."""

    @abstractmethod
    def shown(self, found: T, scope: Scope) -> dict[str, Any]:
        """One as answers have it."""

    @abstractmethod
    async def create(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """Make one of the body; as the answer has it."""

    @abstractmethod
    async def remove(self, found: T, scope: Scope) -> None:
        """Delete it."""

    async def update(self, found: T, scope: Scope, receive: Receive) -> T:
        """Change it by the body; what it is then. Only asked where `methods` have PATCH."""
        raise NotImplementedError
