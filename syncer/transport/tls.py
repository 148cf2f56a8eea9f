"""TLS contexts, one for each way in which a host is to be trusted."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from syncer.errors import UsageError
from syncer.transport.settings import HostSettings


def tls_context(settings: HostSettings) -> ssl.SSLContext:
    """TLS 1.2 or later with the system's trust (and ``SSL_CERT_FILE``) plus the host's own CA.

    Raises ``UsageError`` for a certificate or key that cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca_cert:
        _load(settings.ca_cert, "certificate authority", lambda: context.load_verify_locations(settings.ca_cert))
    if settings.client_cert:
        certificate, key = settings.client_cert, settings.client_key
        _load(certificate, "client certificate", lambda: context.load_cert_chain(certificate, key))
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def with_certificates(settings: HostSettings, directories: Iterable[Path], host: str) -> HostSettings:
    """``settings`` and what ``DIRECTORY/HOST/`` holds: ``*.crt`` is trusted, ``*.cert`` with its ``*.key`` is shown.

    The layout is that of ``/etc/docker/certs.d`` (containers-certs.d(5)).  What a user set by hand wins.
    """
    for directory in directories:
        files = sorted((directory / host).glob("*")) if (directory / host).is_dir() else []
        for file in files:
            if file.suffix == ".crt" and settings.ca_cert is None:
                settings = replace(settings, ca_cert=file)
            elif file.suffix == ".cert" and settings.client_cert is None:
                settings = replace(settings, client_cert=file, client_key=file.with_suffix(".key"))
    return settings


def _load(path: Path, what: str, load: object) -> None:
    assert callable(load)
    try:
        load()
    except FileNotFoundError:
        raise UsageError(f"the {what} {path} (or its key) is not there") from None
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"the {what} {path} cannot be used: {error}", hint="it must be a PEM file") from None
