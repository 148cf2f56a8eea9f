"""One end of a transfer: OCI registries."""

from syncer.registry.credentials import AuthFile, Credential, CredentialSettings, KeptLogins, default_auth_files
from syncer.registry.registries import Registries, RegistryAddress, RegistrySettings, check_login, open_registries
from syncer.registry.repository import delete_tag, repositories
from syncer.registry.target import RegistryTarget
from syncer.registry.upload_session import CHUNK_SIZE, FileUploadJournal, Unfinished, UploadJournal, open_upload_journal

__all__ = [
    "CHUNK_SIZE",
    "AuthFile",
    "Credential",
    "CredentialSettings",
    "FileUploadJournal",
    "KeptLogins",
    "Registries",
    "RegistryAddress",
    "RegistrySettings",
    "RegistryTarget",
    "Unfinished",
    "UploadJournal",
    "check_login",
    "default_auth_files",
    "delete_tag",
    "open_registries",
    "open_upload_journal",
    "repositories",
]
