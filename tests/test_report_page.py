"""The page of a report, as a browser shows it, and the dashboard, as Prometheus answers it: `make test-pages`."""

from __future__ import annotations

import html
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import orjson
import pytest
from aiohttp import web
from msgspec import structs

from syncer.content import Item, Progress
from syncer.errors import SyncerError, TargetError, hide
from syncer.fleet.result import SiteState, Visited
from syncer.oci import Reference
from syncer.report import Account, RegistryAccount, Report
from syncer.report.page import render_page
from syncer.report.summary import write_report
from syncer.transfer.events import Copied, Found, ImageCopied, ImageFailed, Paused, Started
from tests.conftest import OpenRegistry
from tests.support.cli import syncer
from tests.support.programs import needs
from tests.test_fleet import bundle
from tests.test_report import A_NIGHT, ALPHA, Clock, account, blob, root
from tests.test_report_command import fleet, refused, site

ATTACK = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>"
_CSP = re.compile(r"<meta http-equiv=\"Content-Security-Policy\".*?>")


def night(images: int) -> Report:
    """A run with so many images, one in ten of which fails, and with a pause."""
    clock = Clock()
    run = Account(run_id="r1", fetches=True, sends=True, workers=4, clock=clock, now=clock.now)
    run.recorder(Paused("hub.io", 5.0, "429 Too Many Requests"))
    for number in range(images):
        name = f"team/app-{number}:v1"
        item = Item(Reference.parse(f"quay.io/{name}"), Reference.parse(f"t.io/{name}"))
        layer = blob(name, 1000 + number)
        run(Found(item, root(name), 1, layer.size, 0))
        run(Started(Progress(layer), item.source, item.target.repository))
        clock.seconds += 0.5
        run.recorder.look(1000 * number, 2000 * number)
        run(Copied(layer, item.target.repository, 0.5))
        run(ImageFailed(item, SyncerError("the disk is full")) if number % 10 == 5 else ImageCopied(item, root(name)))
    registry = RegistryAccount(registry="t.io", role="target", requests=7, waited={"answers": 2.0 * images})
    report = run.report([registry])
    return structs.replace(report, version="1.2.3", command="sync", name="nightly", exit_code=1)


def browse(page: bytes, home: Path, *, then: str = "") -> str:
    """The document that Chromium makes of ``page``, after a script of the test's own has done something with it."""
    path = home / "page.html"
    text = page.decode()
    if then:
        text = _CSP.sub("", text).replace("</body>", f"<script>{then}</script></body>")
    path.write_text(text)
    shown = subprocess.run(
        [
            *(needs("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={home / 'profile'}", path.as_uri()),
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return shown.stdout.decode()


def rows(document: str, table: str) -> list[list[str]]:
    """The cells of a table of the document, by its id."""
    _, _, after = document.partition(f'<div id="{table}">')
    body = after.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?>(.*?)</td>", row)]
        for row in re.findall("<tr>(.*?)</tr>", body)
    ]


@pytest.mark.pages
def test_a_page_shows_all_that_a_run_did(tmp_path: Path) -> None:
    document = browse(render_page(night(40).to_json()), tmp_path)

    assert 'data-ready="yes"' in document
    assert "<h1>Sync of nightly</h1>" in document
    assert "Bounded by the target's answers, 100 % of worker time." in html.unescape(document)
    assert rows(document, "causes") == [
        [
            "the disk is full",
            "4",
            "quay.io/team/app-5:v1, quay.io/team/app-15:v1, quay.io/team/app-25:v1, quay.io/team/app-35:v1",
        ]
    ]
    assert rows(document, "registries")[0][:3] == ["t.io", "target", "7"]
    images = rows(document, "images")
    assert len(images) == 40
    assert images[5] == [
        "quay.io/team/app-5:v1",
        "t.io/team/app-5:v1",
        "failed",
        "1.00 kB",
        "0.5 s",
        "the disk is full",
    ]
    assert document.count('<rect class="blob') == 40
    assert 'class="pause"' in document
    assert document.count("<polyline") == 2


@pytest.mark.pages
def test_ten_thousand_images_are_searched_and_sorted_at_once(tmp_path: Path) -> None:
    search = """
        const field = document.querySelector("#images input");
        const began = performance.now();
        field.value = "app-99 FAILED";
        field.dispatchEvent(new Event("input"));
        for (const button of document.querySelectorAll("#images th button")) {
            if (button.textContent === "Bytes") button.click();
        }
        document.body.dataset.took = performance.now() - began;
    """
    page = render_page(night(10_000).to_json())
    began = time.monotonic()

    document = browse(page, tmp_path, then=search)

    assert time.monotonic() - began < 15  # with the start of the browser
    found = [cells[0] for cells in rows(document, "images")]
    assert found[:3] == ["quay.io/team/app-9995:v1", "quay.io/team/app-9985:v1", "quay.io/team/app-9975:v1"]
    assert len(found) == 11
    assert "1–11 of 11" in document
    took = re.search(r'data-took="([\d.]+)"', document)
    assert took
    assert float(took[1]) < 500  # milliseconds


@pytest.mark.pages
def test_nothing_that_others_wrote_is_markup_in_a_browser(tmp_path: Path) -> None:
    document = browse(render_page(hostile()), tmp_path)

    assert "<title>taken" not in document
    assert "<img" not in document
    assert ATTACK in html.unescape(document)


@pytest.mark.pages
def test_a_page_of_a_fleet_has_its_sites_and_their_causes(tmp_path: Path) -> None:
    down = site("b", SiteState.DOWN, error=refused("b"), visits=(Visited(at=1, seconds=2), Visited(at=9, seconds=1)))
    account = fleet(site("a", bytes_sent=5000, visits=(Visited(at=0, seconds=8),)), down)

    document = browse(render_page(account.to_json()), tmp_path)

    assert "<h1>Push of edge</h1>" in document
    assert [row[:3] for row in rows(document, "sites")] == [
        ["a", "a.example.com/base", "done"],
        ["b", "b.example.com/base", "down"],
    ]
    assert rows(document, "causes") == [["refused the connection", "1", "b"]]
    chart = document.partition('aria-label="Sites over time"')[2].partition("</svg>")[0]
    assert re.findall('<rect class="(.*?)"', chart) == ["blob", "blob bad", "blob bad"]
    assert re.findall('<text x="70" y="[0-9]+" text-anchor="start">([ab])</text>', chart) == ["a", "b"]


@pytest.mark.pages
async def test_each_query_of_the_dashboard_finds_something_in_prometheus(
    debian_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Prometheus reads what a push, and a push to two sites, wrote for it."""
    files = [tmp_path / "one.prom", tmp_path / "sites.prom"]
    async with debian_registry("source") as source, debian_registry("target") as target:
        file = await bundle(source, tmp_path)
        push = ("push", "--file", file, "--metrics-file")
        ran = [await syncer(*push, files[0], "--registry", target.address, home=tmp_path)]
        sites = [word for name in ("a", "b") for word in ("--registry", f"{target.address}/{name}")]
        ran.append(await syncer(*push, files[1], *sites, home=tmp_path))
    assert [each.code for each in ran] == [0, 0]
    text = "".join(path.read_text() for path in files)
    board = orjson.loads((Path(__file__).parent.parent / "docs" / "grafana.json").read_bytes())
    queries = [query["expr"].replace("$profile", ".*") for panel in board["panels"] for query in panel["targets"]]

    async with prometheus(text, tmp_path) as ask:
        found = {query: await ask(query) for query in queries}

    told = set(re.findall(r"^(syncer_\w+)", text, re.MULTILINE))
    assert not {query for query, result in found.items() if not result}
    assert set(re.findall(r"syncer_\w+", " ".join(queries))) <= told


@asynccontextmanager
async def prometheus(text: str, home: Path) -> AsyncIterator[Callable[[str], Awaitable[list[Any]]]]:
    """Run a Prometheus that has read ``text``; yields a function that asks it a query."""

    async def tell(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/metrics", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port, own = runner.addresses[0][1], free_port()
    config = home / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        f"scrape_configs: [{{job_name: files, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    words = (f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}", f"--web.listen-address=127.0.0.1:{own}")
    process = await anyio.open_process(
        [needs("prometheus"), *words, "--log.level=error"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    async with aiohttp.ClientSession() as session:

        async def ask(query: str) -> list[Any]:
            address = f"http://127.0.0.1:{own}/api/v1/query"
            async with session.get(address, params={"query": query}) as answer:
                document = await answer.json()
            assert document["status"] == "success", (query, document)
            found: list[Any] = document["data"]["result"]
            return found

        try:
            with anyio.fail_after(30):
                while not await began(ask):  # noqa: ASYNC110  it tells nobody
                    await anyio.sleep(0.1)
            yield ask
        finally:
            process.terminate()
            await process.wait()
            await runner.cleanup()


async def began(ask: Callable[[str], Awaitable[list[Any]]]) -> bool:
    """Whether Prometheus is there, and has read the metrics once."""
    try:
        return bool(await ask("syncer_last_run_success"))
    except aiohttp.ClientError:
        return False


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def hostile() -> dict[str, Any]:
    """A report in which each text that others may write is an attack."""
    report: dict[str, Any] = orjson.loads(orjson.dumps(night(3).to_json()))
    report["name"] = report["run_id"] = ATTACK
    report["images"][0] |= {"source": ATTACK, "target": ATTACK}
    report["images"][1] |= {"message": ATTACK, "status": "failed"}
    report["registries"][0]["registry"] = ATTACK
    report["warnings"] = [ATTACK]
    report["timeline"]["blobs"][0]["image"] = ATTACK
    report["timeline"]["waits"][0] |= {"host": ATTACK, "reason": ATTACK, "kind": ATTACK}
    return report


def test_a_page_is_one_file_that_loads_nothing_and_lets_nothing_in() -> None:
    page = render_page(hostile()).decode()

    assert "default-src 'none'" in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r"<[a-z][^>]*\s(src|href)=", page.partition('<script type="application/json"')[0])


def data_in(page: bytes) -> Any:
    """What the script of a page draws."""
    return orjson.loads(page.partition(b'<script type="application/json" id="data">')[2].partition(b"</script>")[0])


def test_a_page_puts_together_what_failed_alike_as_a_summary_does() -> None:
    items = [Item(Reference.parse(f"quay.io/app-{n}:1"), Reference.parse(f"t.io/app-{n}:1")) for n in range(3)]
    full = [TargetError(f"PUT https://t.io/v2/app-{number}/manifests/1: 507 no space left") for number in range(2)]
    failed = [ImageFailed(item, error) for item, error in zip(items, full, strict=False)]
    events = [*failed, ImageFailed(items[2], SyncerError("quay.io/app-2 has no tag 1"))]

    data = data_in(render_page(account(*events).report().to_json()))

    assert data["causes"] == [
        ["t.io: 507 no space left", 2, "quay.io/app-0:1, quay.io/app-1:1"],
        ["quay.io/app-2 has no tag 1", 1, "quay.io/app-2:1"],
    ]


def test_a_page_says_in_words_that_nothing_was_moved() -> None:
    page = html.unescape(render_page(account(ImageFailed(ALPHA, SyncerError("gone"))).report().to_json()).decode())

    assert "<dt>Moved</dt><dd>nothing</dd>" in page
    assert "0 B" not in page.partition("</header>")[2].partition("</dl>")[0]


def test_a_page_shows_no_secret() -> None:
    hide(["s3cret-word"])
    report = structs.replace(
        account(*A_NIGHT).report(), warnings=("s3cret-word", "http://me:pass-word@host/v2/ is odd")
    )

    page = render_page(report.to_json())

    assert b"s3cret-word" not in page
    assert b"pass-word" not in page


async def test_reports_become_a_page_by_the_command(tmp_path: Path) -> None:
    for number in (1, 2):
        run = structs.replace(night(3), run_id=f"run-{number}", warnings=(f"odd {number}",))
        write_report(tmp_path / f"{number}.json", run)

    made = await syncer(
        "report", tmp_path / "1.json", tmp_path / "2.json", "--html", tmp_path / "page.html", home=tmp_path
    )
    wrong = await syncer("report", tmp_path / "1.json", "--html", tmp_path / "none" / "page.html", home=tmp_path)
    printed = await syncer("report", tmp_path / "1.json", "--html", "-", home=tmp_path)

    page = (tmp_path / "page.html").read_text()
    assert made.code == 0, made.stderr
    assert made.stdout.startswith("-----")
    assert "2 runs, " in page
    assert "odd 1" in page
    assert "odd 2" in page
    assert wrong.code == 2
    assert printed.stdout.startswith("<!DOCTYPE html>")
    assert "images:  3" in printed.stderr
