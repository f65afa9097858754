"""
The pages in a real browser: layout, accessibility and requests, at two widths, light and dark.  Run by tests/pages.sh.

`python -m tests.browser CHROMIUM AXE FOLDER`: the browser, axe.min.js, and where the screenshots go.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import FakeDriver, Sidecar

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
PAGES = {"statusz": "/statusz", "flagz": "/flagz", "index": "/"}


def outage(driver: FakeDriver, process: Sidecar) -> None:
    """Healthy, slow, hung, with an error of many words, and healthy again."""

    def ask(times: int) -> None:
        for _ in range(times):
            process.get(User_Agent="kube-probe/1.35")

    ask(30)
    driver.delay = 0.35
    ask(3)
    driver.delay, driver.hang = 0.0, True
    ask(2)
    driver.hang = False
    driver.status = (grpc.StatusCode.INTERNAL, "backend unreachable: <b>https://storage.example/" + "x" * 300)
    ask(4)
    driver.status = None
    ask(20)
    process.get(User_Agent="<script>alert(1)</script>" + "y" * 80)
    driver.status = (grpc.StatusCode.INTERNAL, "backend unreachable: " + "z" * 300)
    ask(2)


def look(browser: Browser, url: str, width: int, scheme: Any, axe: str, picture: Path) -> list[str]:
    """What is wrong with one page."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(url)
    page.screenshot(path=str(picture), full_page=True)
    found = [f"requests {other}" for other in requests if other != url] + [f"console: {text}" for text in said]
    found += wide(page)
    page.evaluate(axe)
    result = page.evaluate("axe.run({resultTypes: ['violations']})")
    for violation in result["violations"]:
        nodes = "; ".join(node["html"][:100] for node in violation["nodes"][:3])
        found.append(f"axe {violation['id']}: {violation['help']}: {nodes}")
    context.close()
    return found


def wide(page: Page) -> list[str]:
    """Elements that are wider than the window."""
    code = """() => [...document.querySelectorAll('body *')]
        .filter(each => each.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map(each => each.outerHTML.slice(0, 80))"""
    found = [f"too wide: {each}" for each in page.evaluate(code)]
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        found.append("the page scrolls sideways")
    return found


def main(chromium: str, axe_path: str, folder: str) -> int:
    pictures = Path(folder)
    pictures.mkdir(parents=True, exist_ok=True)
    axe, home, faults = Path(axe_path).read_text(encoding="utf-8"), Path(tempfile.mkdtemp(prefix="lp")), 0
    with FakeDriver(str(home / "csi.sock")) as driver, sync_playwright() as playwright:
        process = Sidecar((f"--csi-address={driver.path}", "--probe-timeout=500ms"))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            process.await_name()
            outage(driver, process)
            for name, path in PAGES.items():
                for width in WIDTHS:
                    for scheme in SCHEMES:
                        picture = pictures / f"{name}-{width}-{scheme}.png"
                        url = f"http://127.0.0.1:{process.port}{path}"
                        found = look(browser, url, width, scheme, axe, picture)
                        faults += len(found)
                        print(f"{'FAIL' if found else 'ok  '} {name} {width} {scheme}", *found, sep="\n     ")
        finally:
            browser.close()
            process.kill()
            shutil.rmtree(home, ignore_errors=True)
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
