"""Defaults of options: the command line beats the environment, which beats the file, and harm has no default."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import click
import pytest

from syncer.cli.app import command_line
from syncer.cli.defaults import defaults
from syncer.cli.parser import DEFAULTS, GIVEN_EACH_TIME
from syncer.cli.settings import KEYS
from tests.conftest import OpenRegistry
from tests.support import client, images
from tests.support.cli import environment, syncer
from tests.support.tls import Authority
from tests.test_help import CONTEXTS

UNUSED = "127.0.0.1:9"  # the discard port: nothing listens
SECRET = "c4n4ry"


def options() -> set[str]:
    """The options that may have a default, of all commands."""
    return {
        key for context in CONTEXTS.values() for param in context.command.params if (key := getattr(param, "key", ""))
    }


def write(home: Path, text: str) -> Path:
    file = home / ".config/syncer/config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def parsed(*words: str) -> Mapping[str, Any]:
    """The values that the command at ``words`` runs with."""
    context = command_line().make_context("syncer", list(words))
    context.meta[DEFAULTS] = defaults
    while isinstance(context.command, click.Group):
        name, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None
        context = found.make_context(name, rest, parent=context)
    return context.params


def test_the_names_of_options_that_may_have_a_default_are_those_that_there_are() -> None:
    """They stand in a list, since a command that reads the file does not import all others."""
    assert options() == KEYS
    assert not KEYS & GIVEN_EACH_TIME


async def test_the_command_line_beats_the_environment_and_that_beats_the_file(
    serve_disk: OpenRegistry, tmp_path: Path
) -> None:
    write(tmp_path, 'output = "from-file"\nname = "n"\nformat = "tar"\n')
    async with serve_disk() as registry:
        await client.push(registry, "app", images.image("a"), "1")
        build = ("build", f"{registry.address}/app:1")
        for more, variables in (
            ([], {}),
            ([], {"SYNCER_OUTPUT": str(tmp_path / "from-environment")}),
            (["-o", str(tmp_path / "given")], {"SYNCER_OUTPUT": str(tmp_path / "from-environment")}),
        ):
            ran = await anyio.run_process(
                [sys.executable, "-m", "syncer", *build, *more],
                cwd=tmp_path,
                env=environment(tmp_path) | variables,
            )
            assert ran.returncode == 0

    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.tar")} == {
        *("from-file/n.tar", "from-environment/n.tar", "given/n.tar")
    }


def test_values_of_each_kind_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "xdg/syncer").mkdir(parents=True)
    (tmp_path / "xdg/syncer/config.toml").write_text(
        'concurrency = 8\nmax_wait = 1.5\nprogress = false\nimages-file = ["a.txt", "b.txt"]\n'
        'packs = ["a", "b"]\nca-cert = "~/ca.pem"\nchunk-size = "32MiB"\nregistry = ["a.io", "b.io"]\n'
    )
    built, pushed = parsed("build"), parsed("push", "x")

    assert (built["concurrency"], built["max_wait"], built["progress"]) == (8, 1.5, False)
    assert built["images_file"] == (Path("a.txt"), Path("b.txt"))
    assert built["packs"] == (Path("a"), Path("b"))
    assert (built["ca_cert"], built["chunk_size"]) == (Path("/home/me/ca.pem"), 32 << 20)
    assert [str(each) for each in pushed["registry"]] == ["a.io", "b.io"]
    assert built["registry"] is None, "of two registries a build has no use"


@pytest.mark.parametrize(
    ("variables", "words", "name_and_value"),
    [
        ({"SYNCER_CONCURRENCY": "8"}, "push x", ("concurrency", 8)),
        ({"SYNCER_CONCURRENCY": ""}, "push x", ("concurrency", None)),
        ({"SYNCER_PROGRESS": "false"}, "push x", ("progress", False)),
        ({"SYNCER_DRY_RUN": "1"}, "push x", ("dry_run", True)),
        ({"SYNCER_DRY_RUN": "1"}, "push x --dry-run=false", ("dry_run", False)),
        ({"SYNCER_PROGRESS": "0"}, "push x --progress", ("progress", True)),
        ({"SYNCER_PROGRESS": "1"}, "push x --progress=false", ("progress", False)),
        ({"SYNCER_IMAGES_FILE": "a.txt:b.txt"}, "build", ("images_file", (Path("a.txt"), Path("b.txt")))),
        ({"SYNCER_FILE": "e.tar"}, "verify", ("file", Path("e.tar"))),
        ({"SYNCER_FILE": "e.tar"}, "verify f.tar", ("file", Path("f.tar"))),
        ({"SYNCER_IMAGES_FILE": "a.txt"}, "build a.io/b", ("images_file", ())),
        ({"SYNCER_HOST": "10.0.0.1", "SYNCER_PORT": "tcp://10.0.0.1:80"}, "serve", ("port", 8080)),
        ({"SYNCER_HOST": "10.0.0.1"}, "serve", ("host", "127.0.0.1")),
        ({"SYNCER_SERVICE_HOST": "10.0.0.1"}, "serve", ("host", "127.0.0.1")),
        ({"SYNCER_FORCE": "true"}, "build", ("force", False)),
        ({"SYNCER_INSECURE": "true"}, "push x", ("insecure", False)),
        ({"SYNCER_YES": "true", "SYNCER_PRUNE": "true"}, "sync", ("prune", False)),
        ({"SYNCER_ALLOW_REALM": "a.io"}, "push x", ("allow_realm", ())),
        ({"SYNCER_PASSWORD": SECRET}, "registry-login -r a.io", ("password", None)),
        ({"SYNCER_OUTPUT": "bundles"}, "have a.io", ("output", None)),
        ({"SYNCER_TLS_CERT": "client.pem"}, "serve", ("tls_cert", None)),
        ({"SYNCER_ARCH": "arm64"}, "list a.io/b", ("arch", None)),
    ],
)
def test_a_variable_sets_an_option_that_may_have_a_default(
    variables: dict[str, str],
    words: str,
    name_and_value: tuple[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, value = name_and_value
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for each, text in variables.items():
        monkeypatch.setenv(each, text)

    assert parsed(*words.split())[name] == value


@pytest.mark.parametrize(
    ("variable", "key", "name"),
    [
        ("SYNCER_PROJECT_ID", "project-id", "project_id"),
        ("REGISTRY_AUTH_FILE", "authfile", "authfile"),
        ("STATE_DIRECTORY", "state-dir", "state_dir"),
    ],
)
def test_a_variable_that_a_command_reads_itself_beats_the_file(
    variable: str, key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    write(tmp_path, f'{key} = "of-file"\n')
    alone = parsed("build")[name]
    monkeypatch.setenv(variable, "of-environment")

    assert str(alone) == "of-file"
    assert parsed("build")[name] is None, "so the command looks at the variable"


async def test_all_mistakes_of_the_file_are_told_with_its_name_and_their_keys(tmp_path: Path) -> None:
    harm = "".join(f'{key} = "x"\n' for key in sorted(GIVEN_EACH_TIME))
    file = write(tmp_path, f'concurrency = 1000\njson = "yes"\nmap = "x"\nnosuch = 1\nconfig = {{a = 1}}\n{harm}')
    ran = await syncer("config", home=tmp_path)
    told = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]

    assert (ran.code, ran.stdout) == (2, "")
    assert all(line.startswith(f"error: {file}: ") for line in told)
    keys = {line.split(": ")[2] for line in told}
    assert keys == {
        "concurrency",
        "json",
        "map",
        "nosuch",
        "config.a",
        *GIVEN_EACH_TIME,
    }
    assert f"{file}: concurrency: it must be a number from 1 to 256\n" in ran.stderr
    assert f"{file}: json: it must be true or false\n" in ran.stderr


@pytest.mark.parametrize("text", ["concurrency =", "json = 1"])
async def test_a_wrong_file_stops_a_command_and_not_its_help(text: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    pushed, helped = await syncer("push", "x", "a.io", home=tmp_path), await syncer("push", "--help", home=tmp_path)

    assert (pushed.code, helped.code) == (2, 0)
    assert pushed.stderr.startswith(f"error: {file}: ")


async def test_a_mistake_in_a_variable_names_the_variable(tmp_path: Path) -> None:
    number = await syncer("push", "x", "a.io", home=tmp_path, SYNCER_CONCURRENCY="many")
    rule = await syncer("push", "x", "a.io", home=tmp_path, SYNCER_MAP="many")
    switch = await syncer("push", "x", "a.io", home=tmp_path, SYNCER_QUIET="maybe")

    assert (number.code, rule.code, switch.code) == (2, 2, 2)
    assert "error: SYNCER_QUIET: it must be true or false\n" in switch.stderr
    assert "error: SYNCER_CONCURRENCY: it must be a number from 1 to 256\n" in number.stderr
    assert "error: SYNCER_MAP: " in rule.stderr


@pytest.mark.parametrize("option", ["ca-cert", "authfile"])
async def test_a_file_that_a_default_names_and_that_is_not_there_is_told_with_the_option(
    option: str, tmp_path: Path
) -> None:
    write(tmp_path, f'{option} = "/absent.pem"\n')

    by_default = await syncer("list", f"https://{UNUSED}", home=tmp_path)
    given = await syncer("list", f"https://{UNUSED}", f"--{option}", "/absent.pem", home=tmp_path)

    assert (by_default.code, given.code) == (2, 2)
    assert given.stderr == "error: /absent.pem: there is no such file\n"
    assert by_default.stderr == (
        f"{given.stderr}hint: it is the default of --{option}; syncer config shows where that is set\n"
    )


async def test_config_shows_what_is_set_and_where_and_no_secret(tmp_path: Path) -> None:
    file = write(tmp_path, f'concurrency = 8\nstall = 9\nset-var = ["TOKEN={SECRET}"]\n')
    variables = {
        "SYNCER_CONCURRENCY": "4",
        "SYNCER_API_KEY": SECRET,
        "SYNCER_MAP": f"quay.io=http://me:{SECRET}@a.io",
        "SYNCER_FORCE": "1",
    }
    told = await syncer("config", home=tmp_path, **variables)
    document = await syncer("config", "--json", home=tmp_path, **variables)

    rows = {row["option"]: (row["value"], row["from"]) for row in document.json["defaults"]}
    assert {row["option"] for row in document.json["defaults"] if row["problem"]} == {"map"}
    assert rows == {
        "api-key": ("[hidden]", "SYNCER_API_KEY"),
        "concurrency": ("4", "SYNCER_CONCURRENCY"),
        "map": ("quay.io=http://[hidden]@a.io", "SYNCER_MAP"),
        "set-var": ("TOKEN=[hidden]", str(file)),
        "stall": ("9", str(file)),
    }
    assert [line.split(" = ")[0] for line in told.stdout.splitlines()] == sorted(rows)
    assert "warning: SYNCER_FORCE sets nothing: --force is given on the command line, each time\n" in told.stderr
    assert SECRET not in told.stdout + told.stderr + document.stdout


async def test_config_shows_which_variables_have_a_value_that_is_wrong(tmp_path: Path) -> None:
    variables = {"SYNCER_CONCURRENCY": "many", "SYNCER_STALL": "9", "SYNCER_REGISTRY": "a", "SYNCER_MAP": "absent"}
    told = await syncer("config", home=tmp_path, **variables)
    document = await syncer("config", "--json", home=tmp_path, **variables)

    assert (told.code, document.code) == (2, 2)
    assert "concurrency = many  # SYNCER_CONCURRENCY, which is wrong: it must be a number from 1 to 256" in told.stdout
    wrong = {row["option"]: row["problem"] for row in document.json["defaults"]}
    assert list(wrong) == ["concurrency", "map", "registry", "stall"]
    assert wrong["registry"] == "'a' is not a registry"
    assert wrong["map"]
    assert wrong["stall"] is None


_KUBERNETES = ("SYNCER_PORT", "SYNCER_PORT_8000_TCP", "SYNCER_HOST", "SYNCER_SERVICE_HOST", "SYNCER_SERVICE_PORT_HTTP")


@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_a_variable_that_is_nearly_an_options_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """What is nobody's slip stays untold: Kubernetes' variables, a password that a sync file names, other people's."""
    own = ("SYNCER_PASSWORD", "SYNCER_HARBOR_TOKEN", "SYNCER_TAG", *_KUBERNETES)
    for name in ("SYNCER_CONCURENCY", "SYNCER_PRUNE", *own):
        monkeypatch.setenv(name, "1")

    parsed("push", "missing", UNUSED, *more)

    assert capsys.readouterr().err.splitlines() == [
        "warning: SYNCER_CONCURENCY sets no option; did you mean SYNCER_CONCURRENCY?",
        "warning: SYNCER_PRUNE sets nothing: --prune is given on the command line, each time",
    ]


def test_a_table_of_the_file_is_for_the_command_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "concurrency = 9\nstall = 5\n[push]\nconcurrency = 4\n[deploy]\nconcurrency = 2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ("missing", UNUSED)

    pushed, verified = parsed("push", *words), parsed("verify", *words)
    deployed = parsed("edge", "deploy", "--export", "missing", "--url", UNUSED)
    monkeypatch.setenv("SYNCER_CONCURRENCY", "3")

    assert (pushed["concurrency"], pushed["stall"]) == (4, 5)
    assert (verified["concurrency"], deployed["concurrency"]) == (9, 2)
    assert parsed("push", *words)["concurrency"] == 3


async def test_mistakes_in_tables_are_told_with_their_places(tmp_path: Path) -> None:
    file = write(tmp_path, "[push]\nconcurency = 4\nforce = true\nstall = 0\n[pusch]\nstall = 3\n")

    ran = await syncer("push", "missing", UNUSED, home=tmp_path)
    shown = await syncer("config", home=tmp_path)

    assert (ran.code, shown.code) == (2, 2)
    assert ran.stderr == shown.stderr
    assert ran.stderr.splitlines() == [
        f"error: {file}: push.concurency: no option that may have a default is called so",
        "hint: did you mean concurrency?",
        f"error: {file}: push.force: it has no default",
        "hint: give --force on the command line",
        f"error: {file}: [pusch]: no command is called so",
        "hint: did you mean push?",
        f"error: {file}: push.stall: it must be a number of seconds from 1 on",
    ]


async def test_config_notes_what_a_table_sets_for_a_command_that_does_not_have_it(tmp_path: Path) -> None:
    file = write(tmp_path, '[push]\nstall = 9\nimages-file = "list.txt"\n[deploy]\nconcurrency = 2\n')

    told = await syncer("config", home=tmp_path)

    assert (told.code, told.stderr.splitlines()[1:]) == (
        0,
        [f"note: push.images-file in {file} sets nothing: push has no option --images-file"],
    )


async def test_a_list_where_one_value_is_wanted_is_a_mistake(tmp_path: Path) -> None:
    """Commands that push to one registry pass over several of them, which are for those that push to many."""
    file = write(tmp_path, 'concurrency = [4, 8]\nregistry = ["a.io", "b.io"]\n[push]\nstall = [1, 2, 3]\n')

    ran = await syncer("push", "missing", UNUSED, home=tmp_path)

    assert ran.code == 2
    assert ran.stderr.splitlines() == [
        f"error: {file}: concurrency: it takes one value, and 2 are given",
        f"error: {file}: push.stall: it takes one value, and 3 are given",
    ]


def test_registry_alone_is_taken_once_by_some_commands_and_often_by_others() -> None:
    often: dict[str, set[bool]] = {}
    for context in CONTEXTS.values():
        for param in context.command.params:
            if key := getattr(param, "key", ""):
                often.setdefault(key, set()).add(param.multiple or param.default == ())

    assert [key for key, kinds in often.items() if len(kinds) > 1] == ["registry"]


async def test_config_shows_what_a_table_sets(tmp_path: Path) -> None:
    file = write(tmp_path, "concurrency = 9\n[push]\nconcurrency = 4\n")

    told = await syncer("config", home=tmp_path)

    assert told.stdout == f"concurrency = 9       # {file}\npush.concurrency = 4  # {file}\n"


BUILD = f"build --image {UNUSED}/a"
REMOTE = f"{BUILD} --build-type remote -r {UNUSED}/b"
PLAN = f"plan --image {UNUSED}/a"
SYNC = f"sync --image {UNUSED}/a -r {UNUSED}/b"
USELESS = [
    (BUILD, "REGISTRY=a.io MAP=a.io=b USERNAME=me LOCK=1 PROFILES=x METADATA_FILE=missing"),
    (f"{BUILD} --no-referrers", "REQUIRE_REFERRERS=1"),
    (f"{BUILD} --require-referrers", "REFERRERS=0"),
    (f"{BUILD} --images-only", "INCLUDE_PACKS=1"),
    ("build --metadata-file missing", "IMAGE=a SCAN=1 IMAGES_ONLY=1 SET_VAR=A=b EXCLUDE_PROFILES=x"),
    (REMOTE, "PRIVATE_KEY=missing ALLOW_PARTIAL=1 DRY_RUN=1 HAVE=missing"),
    (f"{BUILD} --metadata-only --force", "DRY_RUN=1 SINCE=missing"),
    (f"push missing {UNUSED}", "TARGETS_FILE=missing ONLY=x EXCEPT=y"),
    (f"push missing {UNUSED}", "ONLY=x USERNAME=me REGISTRY=a.io"),
    (f"push missing {UNUSED} --trust-journal", "RECHECK=1"),
    (f"push missing {UNUSED} --recheck", "TRUST_JOURNAL=1"),
    (f"push missing {UNUSED} --dry-run", "RECHECK=1"),
    ("push missing --targets-file sites.yaml", f"REGISTRY={UNUSED}"),
    (f"push missing http://{UNUSED}", "CA_CERT=ca.pem"),
    (
        PLAN,
        "REGISTRY=a.io TIMEOUT=1h ONLY=x DASK=local:2 LIMIT_RATE=1MB SHARD=1/2 AS=a.io/b FILE=missing CONFIG=missing",
    ),
    ("plan -c sync.yaml", "REGISTRY=a.io IMAGE=a.io/b FILE=missing HAVE=missing TARGETS_FILE=missing"),
    (f"plan -f missing -r {UNUSED}", "CONFIG=missing SINCE=missing IMAGE=a"),
    (SYNC, "CONFIG=missing MAX_DELETE=5"),
    ("sync -c sync.yaml", f"REGISTRY={UNUSED} IMAGE=a IMAGES_FILE=missing USERNAME=me"),
    (f"{SYNC} --dry-run", "DASK=local:2 RECHECK=1"),
    ("copy missing.tar out.tar", "MAP=a.io=b"),
    (f"copy {UNUSED}/a/bundle-definition:b out.tar", "AS=a.io/b"),
    (f"login --console-url http://{UNUSED}", "CONCURRENCY=2 USERNAME=me PLAIN_HTTP=1"),
]

_COMPARE = """
import contextlib, io, json, os, sys
from syncer.cli import main
for words, variables in json.loads(sys.argv[1]):
    ends = []
    for more in ({}, variables):
        os.environ.update(more)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(words)
        ends.append((code, [line for line in said.getvalue().splitlines() if line.startswith("error")]))
        for name in more:
            del os.environ[name]
    if ends[0] != ends[1]:
        print(*words, variables, *ends, sep="\\n  ")
"""


async def test_a_default_that_a_command_cannot_use_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    """Each case as it ends without the variables; one process for all."""
    (tmp_path / "ca.pem").write_bytes(authority.certificate.read_bytes())
    (tmp_path / "sites.yaml").write_text(f"targets:\n  - registry: {UNUSED}/b\n")
    (tmp_path / "sync.yaml").write_text(f"sources:\n  - image: {UNUSED}/a\ntargets:\n  - registry: {UNUSED}/b\n")
    cases = [
        (words.split(), {f"SYNCER_{name}": text for name, _, text in (each.partition("=") for each in set_.split())})
        for words, set_ in USELESS
    ]
    ran = await anyio.run_process(
        [sys.executable, "-c", _COMPARE, json.dumps(cases)], check=False, cwd=tmp_path, env=environment(tmp_path)
    )

    assert (ran.returncode, ran.stdout.decode()) == (0, ""), ran.stderr.decode()


@pytest.mark.parametrize("has_tls", [False, True])
async def test_a_usual_certificate_says_nothing_of_a_registry_on_this_machine(
    debian_registry: OpenRegistry, tmp_path: Path, authority: Authority, *, has_tls: bool
) -> None:
    """Such a registry is asked whether it speaks TLS; on the command line the certificate says that it does."""
    settings: dict[str, Any] = {"tls": authority.server(), "authority": authority.certificate} if has_tls else {}
    async with debian_registry(**settings) as registry:
        await client.push(registry, "app", images.image("a"), "1")
        build = ("build", f"{registry.address}/app:1", "-o", tmp_path / "out", "--force")
        usual = await syncer(*build, home=tmp_path, SYNCER_CA_CERT=str(authority.certificate))
        given = await syncer(*build, "--ca-cert", authority.certificate, home=tmp_path)

    assert usual.code == 0, usual.stderr
    assert (given.code == 0) == has_tls
