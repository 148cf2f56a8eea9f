"""One end of a transfer: OCI registries."""

from syncer.registry.address import RegistryAddress, api_host
from syncer.registry.catalog import repositories
from syncer.registry.credentials import AuthFile, Credential, CredentialSettings, default_auth_files
from syncer.registry.deletion import delete_tag
from syncer.registry.journal import FileUploadJournal, Unfinished, UploadJournal, open_upload_journal
from syncer.registry.login import KeptLogins, check_login
from syncer.registry.manner import CHUNK_SIZE
from syncer.registry.registries import Registries, RegistrySettings, open_registries
from syncer.registry.target import RegistryTarget

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
    "api_host",
    "check_login",
    "default_auth_files",
    "delete_tag",
    "open_registries",
    "open_upload_journal",
    "repositories",
]
