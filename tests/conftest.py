"""Fixtures hand out async context managers; the test opens them itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import hypothesis
import pytest
import uvloop

from tests.support import registries, tokens
from tests.support.registries import Registry
from tests.support.tls import Authority
from tests.support.tokens import TokenServer

# A test of a parser may wait for its turn on a busy machine; a parser that hangs meets the global timeout.
hypothesis.settings.register_profile("syncer", deadline=None)
hypothesis.settings.load_profile("syncer")

OpenRegistry: TypeAlias = Callable[..., AbstractAsyncContextManager[Registry]]
OpenTokenServer: TypeAlias = Callable[..., AbstractAsyncContextManager[TokenServer]]


def pytest_xdist_auto_num_workers() -> int:
    """Half as many processes again as there are cores, since tests wait for a good part of their time."""
    return (cores := len(os.sched_getaffinity(0))) + cores // 2


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the command line runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def debian_registry(tmp_path: Path) -> OpenRegistry:
    """``async with debian_registry(name="source", …) as registry``: see ``registries.debian_registry``.

    The same name is the same content, so that opening it again is a restart.
    """

    def open_it(name: str = "debian", **settings: Any) -> AbstractAsyncContextManager[Registry]:
        return registries.debian_registry(tmp_path / name, **settings)

    return open_it


@pytest.fixture
def serve_disk(tmp_path: Path) -> OpenRegistry:
    """``async with serve_disk(name="target", …) as registry``: see ``registries.serve_disk``."""

    def open_it(name: str = "ours", **settings: Any) -> AbstractAsyncContextManager[Registry]:
        return registries.serve_disk(tmp_path / name, **settings)

    return open_it


@pytest.fixture
def serve_process(tmp_path: Path) -> OpenRegistry:
    """``async with serve_process(name="target", …) as registry``: see ``registries.serve_process``."""

    def open_it(name: str = "ours", **settings: Any) -> AbstractAsyncContextManager[Registry]:
        return registries.serve_process(tmp_path / name, **settings)

    return open_it


@pytest.fixture(params=["debian", "ours"])
def any_registry(
    request: pytest.FixtureRequest, debian_registry: OpenRegistry, serve_disk: OpenRegistry
) -> OpenRegistry:
    """Debian's registry and syncer's own, one after the other, with the settings that both know."""
    return debian_registry if request.param == "debian" else serve_disk


@pytest.fixture
def token_server(tmp_path: Path) -> OpenTokenServer:
    """``async with token_server(login=…) as tokens``: see ``tokens.token_server``."""

    def open_it(name: str = "tokens", **settings: Any) -> AbstractAsyncContextManager[TokenServer]:
        return tokens.token_server(tmp_path / name, **settings)

    return open_it


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A certificate authority of the test's own."""
    return Authority.create(tmp_path / "authority")
