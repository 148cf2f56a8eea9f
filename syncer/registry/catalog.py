"""Which repositories a registry has.

The list is distribution's own (``/v2/_catalog``), no part of the spec: many registries have none, or keep it from
ordinary users.
"""

from __future__ import annotations

from yarl import URL

from syncer.errors import InvalidContent
from syncer.oci.manifest import load_object
from syncer.registry.headers import next_link, with_parameters
from syncer.registry.problems import refusal
from syncer.registry.repository import Registry
from syncer.transport import Answer, Request
from syncer.transport.guard import origin

_PAGE = 1000
_MOST_PAGES = 10_000
_LARGEST_PAGE = 16 * 1024 * 1024


async def repositories(registry: Registry) -> list[str]:
    """The names of all repositories that we may see; raises ``RegistryError`` where there is no list of them."""
    found: dict[str, None] = {}
    url = with_parameters(registry.base.join(URL("_catalog")), ("n", str(_PAGE)))
    for _ in range(_MOST_PAGES):
        request = Request(method="GET", url=url, authorizer=registry.auth.for_scopes("", "registry:catalog:*"))
        answer = await registry.transport.ask(request, limit=_LARGEST_PAGE)
        if answer.status != 200:
            raise refusal(answer)
        before = len(found)
        found |= dict.fromkeys(_names(answer))
        link = next_link(answer.headers.getall("Link", ()))
        if link is None or len(found) == before:  # a registry that repeats itself would never end
            break
        followed = registry.transport.redirected(request, link, answer.scope, what="a list's next page")
        if origin(followed.url) != origin(registry.base):
            break
        url = followed.url
    return list(found)


def _names(answer: Answer) -> list[str]:
    names = load_object(answer.content).get("repositories") or []
    if not answer.is_whole or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidContent(f"{answer.request}: the repositories are no list of names")
    return names
