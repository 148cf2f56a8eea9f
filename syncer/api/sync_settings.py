"""How a sync file wants its registries spoken to, on top of what holds for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from syncer.errors import InvalidFile
from syncer.profiles.sync_credentials import Helper, find_login
from syncer.profiles.sync_document import Registry
from syncer.profiles.sync_file import SyncFile
from syncer.registry import Credential, RegistrySettings, api_host
from syncer.transport import HostSettings


def sync_settings(file: SyncFile, settings: RegistrySettings, environment: Mapping[str, str]) -> RegistrySettings:
    """``settings`` with those that ``file`` has for single registries, its credentials looked up.

    Raises ``UsageError`` for credentials or certificates that are not where the file says.
    """
    hosts: dict[str, HostSettings] = dict(settings.transport.hosts)
    logins = dict(settings.credentials.logins)
    helpers = dict(settings.credentials.helpers)
    for host, registry in file.document.registries.items():
        wanted = _host_settings(file, registry, settings.transport.default)
        hosts |= {host: wanted, api_host(host): wanted}
        if registry.credentials is None or host in logins:
            continue
        directory = file.path.parent
        found = find_login(registry.credentials, host=host, environment=environment, directory=directory)
        if isinstance(found, Helper):
            helpers[host] = found.name
        else:
            logins[host] = Credential(username=found.username, password=found.password)
    return replace(
        settings,
        transport=replace(settings.transport, hosts=hosts),
        credentials=replace(settings.credentials, logins=logins, helpers=helpers),
    )


def _host_settings(file: SyncFile, registry: Registry, default: HostSettings) -> HostSettings:
    return replace(
        default,
        plain_http=default.plain_http if registry.plain_http is None else registry.plain_http,
        insecure=registry.insecure or default.insecure,
        ca_cert=_existing(file, registry.ca_cert) or default.ca_cert,
        client_cert=_existing(file, registry.client_cert) or default.client_cert,
        client_key=_existing(file, registry.client_key) or default.client_key,
        concurrency=registry.concurrency,
        requests_per_second=registry.requests_per_second,
        bytes_per_second=registry.bytes_per_second,
    )


def _existing(file: SyncFile, path: Path | None) -> Path | None:
    if path is None:
        return None
    found = file.beside(path)
    if not found.is_file():
        raise InvalidFile(file.path, f"{found} is not there")
    return found
