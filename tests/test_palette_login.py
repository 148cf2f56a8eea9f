from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from yarl import URL

from syncer.errors import InvalidFile, TargetError, UsageError
from syncer.profiles.palette.edge_credentials import Login, find_login, read_cred_file
from syncer.profiles.palette.key import PaletteAccount, PaletteLogin, forget_login, load_login, save_login


def _login(key: str = "s3cret") -> PaletteLogin:
    account = PaletteAccount(url=URL("https://console.example.com"), api_key=key, project_uid="p1")
    return PaletteLogin(account=account, project="Default", organisation="acme", ca_cert=Path("/ca.pem"))


def test_a_login_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    path = save_login(_login(), tmp_path / "config")

    assert load_login(tmp_path / "config") == _login()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "s3cret" not in repr(_login())


def test_a_second_login_replaces_the_first(tmp_path: Path) -> None:
    path = save_login(_login("first"), tmp_path)
    path.chmod(0o644)

    save_login(_login("second"), tmp_path)

    assert load_login(tmp_path) == _login("second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_passphrase_seals_the_key(tmp_path: Path) -> None:
    path = save_login(_login(), tmp_path, "Correct-h0rse")

    assert "s3cret" not in path.read_text()
    assert load_login(tmp_path, "Correct-h0rse") == _login()
    with pytest.raises(UsageError, match="does not decrypt"):
        load_login(tmp_path, "wrong")
    with pytest.raises(UsageError, match="encrypted under a passphrase"):
        load_login(tmp_path)


def test_logging_out_forgets_the_key(tmp_path: Path) -> None:
    save_login(_login(), tmp_path)

    assert forget_login(tmp_path)
    assert not forget_login(tmp_path)
    assert load_login(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "s3cret", "[]", '{"api_key": "s3cret"}'])
def test_a_broken_login_is_named_without_its_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "palette.json").write_text(content)

    with pytest.raises(InvalidFile) as caught:
        load_login(tmp_path)

    assert "s3cret" not in str(caught.value)
    assert "syncer login" in str(caught.value.hint)


def test_a_directory_that_cannot_be_written_is_the_targets_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TargetError, match="cannot be written"):
        save_login(_login(), tmp_path / "file")


def _cred_file(folder: Path, content: object) -> Path:
    path = folder / "creds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_edge_clis_credentials_are_read_with_object_passwords(tmp_path: Path) -> None:
    key = {"type": "service_account", "private_key": "-----BEGIN\n", "name": "schlüssel"}
    path = _cred_file(
        tmp_path,
        {
            "helm": [{"endpoint": "https://harbor.example.com/chartrepo/", "username": "admin", "password": "x"}],
            "image": [
                {"endpoint": "gcr.io", "username": "_json_key", "password": key},
                {"endpoint": "https://index.docker.io/v1/", "username": "me", "password": "y"},
            ],
        },
    )

    credentials = read_cred_file(path)

    assert credentials.charts == {"harbor.example.com/chartrepo": Login("admin", "x")}
    assert credentials.images["docker.io"] == Login("me", "y")
    assert json.loads(credentials.images["gcr.io"].password) == key
    assert '": ' not in credentials.images["gcr.io"].password
    assert "admin" not in repr(credentials)


def test_the_nearest_login_is_taken() -> None:
    logins = {"a.io": Login("host", ""), "a.io/team": Login("team", ""), "b.io:5000/x": Login("x", "")}

    assert find_login(logins, "a.io", "team/app") == Login("team", "")
    assert find_login(logins, "a.io", "teammate/app") == Login("host", "")
    assert find_login(logins, "b.io:5000", "y") is None
    assert find_login(logins, "a.io") == Login("host", "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"image": [', "creds.json:1: column 12: this is not JSON"),
        ("[]", 'with the lists "helm" or "image"'),
        ({"image": {}}, "image: it must be a list"),
        ({"helm": ["s3cret"]}, r"helm\[0\]: it must be an object"),
        ({"image": [{"endpoint": "", "username": "a", "password": "s3cret"}]}, r"image\[0\].endpoint"),
        ({"image": [{"endpoint": "a", "password": "s3cret"}]}, r"image\[0\].username"),
        ({"image": [{"endpoint": "a", "username": "s3cret"}]}, r"image\[0\].password"),
    ],
)
def test_a_wrong_credential_file_is_named_without_its_secrets(tmp_path: Path, content: object, problem: str) -> None:
    with pytest.raises(InvalidFile, match=problem) as caught:
        read_cred_file(_cred_file(tmp_path, content))

    assert "s3cret" not in str(caught.value)
