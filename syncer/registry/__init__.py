"""One end of a transfer: OCI registries."""

from syncer.registry.address import RegistryAddress, api_host
from syncer.registry.credentials import AuthFile, Credential, CredentialSettings, default_auth_files
from syncer.registry.journal import FileUploadJournal, Unfinished, UploadJournal, open_upload_journal
from syncer.registry.manner import CHUNK_SIZE
from syncer.registry.registries import Registries, RegistrySettings, open_registries
from syncer.registry.target import RegistryTarget

__all__ = [
    "CHUNK_SIZE",
    "AuthFile",
    "Credential",
    "CredentialSettings",
    "FileUploadJournal",
    "Registries",
    "RegistryAddress",
    "RegistrySettings",
    "RegistryTarget",
    "Unfinished",
    "UploadJournal",
    "api_host",
    "default_auth_files",
    "open_registries",
    "open_upload_journal",
]
