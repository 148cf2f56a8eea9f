"""Bad input gets one sentence, a hint where there is something to do, and an exit code: never a traceback."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import anyio
import pytest

from syncer.cli import main
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import Ran, environment, syncer
from tests.support.registries import LOGIN

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens


def sentence(ran: Ran) -> str:
    """The error's one line."""
    lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ran.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("listing", "problem"),
    [
        ("busybox:1\nquay.io/A/b:1\n", "images.txt:2: 'quay.io/A/b:1' is not an image reference"),
        ("a b c\n", "images.txt:1: 'a b c' is more than one word"),
        ("# nothing\n\n", "it is empty, and names no image"),
    ],
)
async def test_a_list_that_says_nonsense_is_answered_with_file_and_line(
    tmp_path: Path, listing: str, problem: str
) -> None:
    (tmp_path / "images.txt").write_text(listing)

    ran = await syncer("build", "--images-file", tmp_path / "images.txt", "--output", tmp_path / "out", home=tmp_path)

    assert ran.code == 2
    assert problem in sentence(ran)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["build", "--image", "busybox@sha256:12"], "the digest is wrong"),
        (["build", "--images-file", "missing.txt"], "missing.txt"),
        (["build"], "there is no image to build from"),
        (["build", "--image", "busybox", "--name", "../x"], "is not a name for a bundle"),
        (["build", "--image", "busybox", "--arch", "linux/"], "is not a platform"),
        (["push", "--file", "missing.tar.zst", "--registry", UNUSED], "missing.tar.zst"),
        (["push", "--file", "empty.tar.zst", "--registry", UNUSED], "empty.tar.zst"),
        (["push", "--file", "empty.tar.zst", "--registry", "http://"], "is not a registry"),
        (["push", "--file", "empty.tar.zst", "--registry", UNUSED, "--map", "x"], "is not a mapping"),
        (["push", "--file", "empty.tar.zst", "--registry", UNUSED, "--username", "u"], "--password-stdin"),
        (["push", "--file", "empty.tar.zst", "--registry", UNUSED, "--ca-cert", "none.pem"], "none.pem"),
        (["verify", "--file", "missing.tar.zst"], "missing.tar.zst"),
        (["serve"], "there is nothing to serve"),
        (["serve", "--bundle", "missing.tar.zst"], "missing.tar.zst"),
    ],
)
async def test_a_wrong_command_is_told_what_is_wrong(tmp_path: Path, arguments: list[str], problem: str) -> None:
    (tmp_path / "empty.tar.zst").write_bytes(b"")
    at_home = [str(tmp_path / word) if word.endswith((".zst", ".txt", ".pem")) else word for word in arguments]

    ran = await syncer(*at_home, home=tmp_path)

    assert ran.code in (2, 6), ran.stderr
    assert problem in sentence(ran)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sync --registry localhost:1", "--image BusyBox"),
        ("sync --image a", "--registry x:y:z"),
        ("sync --image a --registry localhost:1", "--arch linux/"),
        ("sync --image a --registry localhost:1", "--map quay.io"),
        ("sync --image a --registry localhost:1", "--timeout soon"),
        ("sync --image a --registry localhost:1", "--chunk-size many"),
        ("build --image a", "--set-var x"),
        ("push --file a.tar --registry localhost:1", "--annotation-selector x"),
        ("save", "--source localhost:1/A"),
        ("copy --source a.tar", "--destination x:y:z"),
        ("list", "--repo x:y:z"),
        ("import a.yaml", "--registry harbor"),
        ("import a.yaml", "--registry example.com/A"),
    ],
)
async def test_a_wrong_value_is_told_with_its_flag(tmp_path: Path, command: str, words: str) -> None:
    flag, value = words.split()

    ran = await syncer(*command.split(), flag, value, home=tmp_path)

    assert ran.code == 2
    assert sentence(ran).startswith(f"error: {flag}: ")
    assert value in sentence(ran)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("--nonsense", "syncer has no option --nonsense", "those of a command stand behind it; syncer --help …"),
        ("-v push a b.io", "syncer has no option -v", "those of a command stand behind it; syncer --help …"),
        ("psh", "syncer has no command psh", "did you mean push? syncer --help lists its commands"),
        ("edge nonsense", "syncer edge has no command nonsense", "syncer edge --help lists its commands"),
        ("help nonsense", "syncer has no command nonsense", "syncer --help lists its commands"),
        ("push --regstry a", "syncer push has no option --regstry", "did you mean --registry? syncer push --help …"),
        (
            "edge build --core-images",
            "syncer edge build has no option --core-images",
            "syncer edge build --help lists …",
        ),
        ("push", "FILE (or --file) is missing", "syncer push --help lists its options"),
        ("doctor", "HOST[:PORT][/BASE] is missing", "syncer doctor --help lists its options"),
        ("login a/b", "HOST: 'a/b' is not a registry", "give its port too, or …"),
        ("export a.tar", "--output is missing", "syncer export --help lists its options"),
        ("build --concurrency 0", "--concurrency: it must be a number from 1 to 256", "syncer build --help …"),
        ("build --concurrency many", "--concurrency: it must be a number from 1 to 256", "syncer build --help …"),
        ("push --outage 5m", "--outage: it must be a number of seconds from 0 on", "syncer push --help …"),
        ("build --name", "--name needs a value", "syncer build --help lists its options"),
        ("build --quiet=maybe", "--quiet does not take a value", "syncer build --help lists its options"),
        ("build --format rar", "--format: rar is not one of tar.zst, tar", "syncer build --help lists its options"),
        ("push a b.io c", "syncer push cannot take another argument: c", "give each by --registry, the first …"),
        ("list a.io/b c", "syncer list cannot take another argument: c", "syncer list --help lists its options"),
        ("push a oci://b.io/c", "REGISTRY: 'oci://b.io/c' is not a registry", "write b.io/c, with http:// or …"),
        ("push a https:/b.io/c", "REGISTRY: 'https:/b.io/c' is not a registry", "write b.io/c, with http:// or …"),
        ("push a b", "REGISTRY: 'b' is not a registry", "give its port too, or http:// or https:// before it"),
    ],
)
def test_a_mistake_of_the_command_line_is_told_as_any_other(
    words: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence and one hint, in the form of all errors."""
    code = main(words.split())

    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    told, helps = said.err.splitlines()
    assert told == f"error: {error}"
    assert helps.startswith(f"hint: {hint.removesuffix('…')}")
    assert hint.endswith("…") or helps == f"hint: {hint}"


async def test_an_image_and_a_registry_that_are_not_there(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        gone = await syncer("build", "--image", f"{registry.address}/app:2", "--output", tmp_path, home=tmp_path)
        no_repository = await syncer(
            "build", "--image", f"{registry.address}/no:2", "--output", tmp_path, home=tmp_path
        )
    unreachable = await syncer("build", "--image", f"{UNUSED}/app:1", "--output", tmp_path, home=tmp_path)

    assert (gone.code, no_repository.code, unreachable.code) == (4, 4, 1)
    assert f"{registry.address}/app has no tag 2 (nearest: 1)\n" in gone.stdout
    assert f"{registry.address} has no repository no\n" in no_repository.stdout
    assert UNUSED in unreachable.stdout


async def test_wrong_credentials(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    async with debian_registry(login=LOGIN) as registry:
        await client.push(registry, "app", images.image("a"), "1")
        ran = await syncer("build", "--image", f"{registry.address}/app:1", "--output", tmp_path, home=tmp_path)

    assert ran.code == 3
    assert f"hint: log in: syncer registry-login --registry {registry.address} --username NAME\n" in ran.stderr


async def made(debian_registry: OpenRegistry, tmp_path: Path, *options: str) -> Path:
    async with debian_registry() as registry:
        await client.push(registry, "app", images.multi_platform("a"), "1")
        ran = await syncer(
            "build", "--image", f"{registry.address}/app:1", "--output", tmp_path, *options, home=tmp_path
        )
    assert ran.code == 0, ran.stderr
    return next(tmp_path.glob("bundle.tar*"))


@pytest.mark.parametrize("form", ["tar.zst", "tar"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "longer"])
async def test_a_damaged_bundle_is_refused(
    debian_registry: OpenRegistry, tmp_path: Path, form: str, damage: str
) -> None:
    bundle = await made(debian_registry, tmp_path, "--format", form)
    content = bytearray(bundle.read_bytes())
    match damage:
        case "truncated":
            del content[len(content) // 2 :]
        case "altered":
            content[len(content) // 2] ^= 1
        case "longer":
            content += b"x" * 100
    bundle.write_bytes(content)

    ran = await syncer("verify", "--file", bundle, home=tmp_path)

    assert ran.code == 6
    assert sentence(ran)


async def test_a_bundle_that_is_there_is_replaced_only_by_force(debian_registry: OpenRegistry, tmp_path: Path) -> None:
    bundle = await made(debian_registry, tmp_path)
    before = bundle.stat().st_ino
    async with debian_registry() as registry:
        arguments = ("build", "--image", f"{registry.address}/app:1", "--output", tmp_path)
        refused = await syncer(*arguments, home=tmp_path)
        kept = bundle.stat().st_ino
        replaced = await syncer(*arguments, "--force", home=tmp_path)

    assert (refused.code, replaced.code) == (2, 0)
    assert "--force" in refused.stderr
    assert kept == before != bundle.stat().st_ino


async def test_an_output_below_a_file_is_told_before_anything_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    ran = await syncer("build", "--image", f"{UNUSED}/app:1", "--output", tmp_path / "file/below", home=tmp_path)

    assert ran.code == 2
    assert "below is to be a directory" in sentence(ran)


@pytest.mark.parametrize("place", ["/proc/1/bundles", "/sys/bundles"])
async def test_an_output_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    ran = await syncer("build", "--image", f"{UNUSED}/app:1", "--output", place, home=tmp_path)

    assert ran.code == 5
    assert place in sentence(ran)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_push_of_a_device_is_refused(tmp_path: Path) -> None:
    ran = await syncer("push", "--file", "/dev/full", "--registry", UNUSED, home=tmp_path)

    assert ran.code in (2, 6)
    assert sentence(ran)


async def test_every_mistake_of_a_sync_file_is_told_in_one_run(tmp_path: Path) -> None:
    """Each with file, line, field and hint; of very many the first hundred, and how many are left."""
    file = tmp_path / "sync.yaml"
    file.write_text("sources: [{image: A//b}, {}]\ntargets:\n- {registry: t.io, nmae: x}\n")

    few = await syncer("sync", "--config", file, home=tmp_path)
    file.write_text("sources:\n" + "- image: A//b\n" * 1234 + "targets: [{registry: t.io}]\n")
    many = await syncer("sync", "--config", file, home=tmp_path)

    assert (few.code, many.code) == (2, 2)
    assert [line.replace(str(file), "FILE").partition(": its")[0] for line in few.stderr.splitlines()] == [
        "error: FILE:1: sources[0].image: 'A//b' is not an image reference",
        "error: FILE:1: sources[1]: it names nothing to mirror",
        "hint: each source has exactly one of image, repository, images_file, profile_file, profiles, chart, file",
        "error: FILE:3: targets[0].nmae: there is no such field; did you mean name?",
    ]
    lines = many.stderr.splitlines()
    assert len(lines) == 101
    assert lines[99].startswith(f"error: {file}:101: sources[99].image: ")
    assert lines[100] == "error: there are 1,134 more mistakes"


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("build a.io/b --output file", "--output: file is a file, and not a directory", "give the directory by …"),
        (
            "build a.io/b --dry-run --output sub/new.tar.zst",
            "--output: sub/new.tar.zst is the name of a bundle, where its directory is wanted",
            "give --output sub --name new",
        ),
        (
            "build a.io/b --name new.tar.zst",
            "--name: new.tar.zst is the name of a file, and its ending is added",
            "give --name new",
        ),
        ("save a.io/bundle-definition:b -o file", "--output: file is a file, and not a directory", "give the …"),
        ("plan sync.yaml", "syncer plan cannot take another argument: sync.yaml", "… syncer plan --config sync.yaml"),
        ("serve file", "syncer serve cannot take another argument: file", "… syncer serve --bundle file"),
        ("plan file", "syncer plan cannot take another argument: file", "… syncer plan --file file"),
        (
            "plan file a.io/b",
            "syncer plan cannot take another argument: file a.io/b",
            "give each by its flag: syncer plan --file file --registry a.io/b",
        ),
        ("sync sync.yaml -r a.io", "what to mirror is said by --config or by other flags, not by both", "put it …"),
    ],
)
def test_a_file_in_another_place_is_told_with_the_place_for_it(  # noqa: PLR0917  (a row of a table)
    words: str,
    error: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("file", "sync.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    assert main(words.split()) == 2

    told, helps = capsys.readouterr().err.splitlines()
    start, _, end = hint.partition("…")
    assert told == f"error: {error}"
    assert helps.startswith(f"hint: {start}")
    assert helps.endswith(end)


def test_a_name_like_a_bundles_may_be_that_of_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.tar").mkdir()
    monkeypatch.chdir(tmp_path)

    main(["build", "A", "--output", "old.tar"])

    assert "--output" not in capsys.readouterr().err


def test_a_sync_takes_its_file_as_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sync.yaml").write_text("sources: 1\n")
    monkeypatch.chdir(tmp_path)

    by_flag = main(["sync", "-c", "sync.yaml"]), capsys.readouterr().err
    by_word = main(["sync", "sync.yaml"]), capsys.readouterr().err

    assert by_word == by_flag
    assert by_word[1].startswith("error: sync.yaml:1: sources")


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("sources:\n  - image: a\n\tas: b\n", 3, "a tab does not indent, blanks do"),
        ("a: {b: ${NAME}}\n", 1, "inside { } and [ ] a value with one of these, or with a comma, stands in quotes, …"),
        ("sources:\n  - *images\n", 2, "a text that begins with * stands in quotes"),
        ("sources: []\n---\ntargets: []\n", 2, "leave out the line `---`, which begins another document"),
        ("sources:\n\t- image: a\n", 2, "a tab does not indent, blanks do; a text that begins with @, ` or % stands …"),
        ("sources:\n  - image: a\n    as: a: b\n", 3, "a text with a colon and a blank in it stands in quotes"),
        ("sources:\n  - {repository: a, tags: {glob: *}}\n", 2, "a text that begins with * stands in quotes"),
    ],
)
def test_a_slip_in_yaml_is_told_with_what_yaml_wants(
    tmp_path: Path, text: str, line: int, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "sync.yaml").write_text(text)

    assert main(["sync", str(file)]) == 2

    told, helps = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {file}:{line}: ")
    assert helps.startswith(f"hint: {hint.removesuffix('…')}")


def test_a_file_of_logins_that_is_named_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.json"

    assert main(["list", UNUSED, "--authfile", str(absent)]) == 2

    assert capsys.readouterr().err == f"error: {absent}: there is no such file\n"


@pytest.mark.parametrize(
    ("words", "path", "flags"),
    [
        ("sync sync.yaml --report sync.yaml", "sync.yaml", "--report and by --config"),
        ("build --images-file list.txt --metrics-file ./list.txt", "list.txt", "--metrics-file and by --images-file"),
        ("push edge.tar a.io --report edge.tar", "edge.tar", "--report and by --file"),
        ("push edge.tar --targets-file sites.yaml --trace sites.yaml", "sites.yaml", "--trace and by --targets-file"),
        ("verify edge.tar --report link", "link", "--report and by --file"),
        ("sync sync.yaml --report new --trace new", "new", "--report and by --trace"),
    ],
)
def test_no_report_is_written_over_what_another_option_names(
    words: str,
    path: str,
    flags: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "sync.yaml": f"sources: [{{image: {UNUSED}/a}}]\ntargets: [{{registry: {UNUSED}}}]\n",
        "list.txt": f"{UNUSED}/a\n",
        "sites.yaml": f"targets: [{{registry: {UNUSED}}}]\n",
        "edge.tar": "",
    }
    for name, content in files.items():
        Path(name).write_text(content)
    Path("link").symlink_to("edge.tar")

    assert main(words.split()) == 2

    assert capsys.readouterr().err.splitlines()[0] == f"error: {path} is given by {flags}"
    assert {name: Path(name).read_text() for name in files} == files


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_what_is_led_into_a_file_is_a_stream_for_each_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As /dev/stdout is, and as a pipe is too: several options may name it."""
    monkeypatch.chdir(tmp_path)
    with Path("log").open("wb") as log:
        Path("link").symlink_to(f"/proc/self/fd/{log.fileno()}")
        assert main(["verify", "absent.tar", "--report", "link", "--trace", "link"]) == 2

    error, *_ = capsys.readouterr().err.splitlines()
    assert error.startswith("error: absent.tar: ")
    assert Path("link").is_symlink()


def test_no_name_in_a_file_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sync.yaml"
    file.write_text(
        'sources: [{image: busybox, targets: [offce]}]\ntargets: [{registry: a.io, name: "a\\nb\\e[31m"}]\n'
    )

    assert main(["plan", "-c", str(file)]) == 2

    told = f"error: {file}:1: sources[0].targets[0]: no target is called 'offce'; known: a b [31m\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("busybox:1\n", "it is no PEM file"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "it holds no certificate"),
        (None, "it is a directory, where a file is wanted"),
    ],
)
def test_a_certificate_that_is_none_is_told_before_any_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, problem: str
) -> None:
    file = tmp_path / "ca.pem"
    if text is None:
        file.mkdir()
    else:
        file.write_text(text)

    assert main(["list", f"https://{UNUSED}", "--ca-cert", str(file)]) == 2

    assert capsys.readouterr().err.splitlines()[0] == f"error: {file}: {problem}"


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may read every file")
async def test_a_file_that_may_not_be_read_is_told_in_these_words(tmp_path: Path) -> None:
    (file := tmp_path / "images.txt").write_text("busybox:1\n")
    if os.getuid() == 0:
        os.chown(file, 65534, 65534)
    file.chmod(0)
    words = [sys.executable, "-m", "syncer", "build", "--images-file", str(file)]
    without_rights = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []

    ran = await anyio.run_process([*without_rights, *words], check=False, env=environment(tmp_path))

    assert (ran.returncode, ran.stderr.decode()) == (2, f"error: {file}: it cannot be read: Permission denied\n")
