"""Headless Chromium: a screenshot, what a page says of itself, and which hosts it asks."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip
WIDE, PHONE = (1200, 900), (390, 844)

# Texts that lie upon each other, and what sticks out of the page. It is put into a copy of the page for the test.
LOOK = """
const found = {overlaps: [], wide: [], small: [], dark: '', texts: 0};
document.querySelectorAll('details').forEach(each => each.open = true);
const boxes = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode;
  if (!node.data.trim()) continue;
  const parent = node.parentElement;
  if (parent.closest('script,style,title,desc,.skip')) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const inside = parent.closest('.wide');
  const around = inside ? inside.getBoundingClientRect() : {left: -1e9, right: 1e9};
  for (const whole of range.getClientRects()) {
    // A table that is wider than the page is seen through its own window.
    const box = {left: Math.max(whole.left, around.left), right: Math.min(whole.right, around.right),
                 top: whole.top, bottom: whole.bottom, height: whole.height};
    if (box.right - box.left < 1) continue;
    boxes.push([box, node, inside]);
    if (!inside && (box.right > innerWidth + 1 || box.left < -1)) found.wide.push(node.data.trim());
    if (box.height < 8) found.small.push(node.data.trim());
  }
}
found.texts = boxes.length;
for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
  const [a, one] = boxes[i], [b, other] = boxes[j];
  if (one === other || b.top > a.bottom + 400) continue;
  const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
  const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
  if (x > 1 && y > 3) found.overlaps.push([one.data.trim(), other.data.trim()]);
}
found.scroll = document.documentElement.scrollWidth - innerWidth;
found.dark = getComputedStyle(document.body).backgroundColor;
found.fills = [...new Set([...document.querySelectorAll('.chart path')].map(each => getComputedStyle(each).fill))];
const out = document.createElement('pre');
out.id = 'found';
out.textContent = JSON.stringify(found);
document.body.replaceChildren(out);
"""


def missing() -> str | None:
    """Why there is no Chromium; None if there is one."""
    return None if _program() else "Chromium is not installed (apt-get install chromium)"


def screenshot(url: str, to: Path, size: tuple[int, int], *more: str) -> None:
    """What a page looks like."""
    _run(url, size, f"--screenshot={to}", *more)


def looked_at(page: str, folder: Path, size: tuple[int, int], *more: str) -> dict[str, Any]:
    """What the page says of itself at a width; its policy, which lets no script run, is taken out of the copy."""
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    copy = re.sub(r'<meta http-equiv="refresh"[^>]*>', "", copy)
    assert copy != page
    file = folder / "looked-at.html"
    file.write_text(copy.replace("</body>", f"<script>{LOOK}</script></body>"), encoding="utf-8")
    told = _run(file.as_uri(), size, "--dump-dom", *more)
    found = re.search(r'<pre id="found">(.*?)</pre>', told, re.DOTALL)
    assert found, told[-2000:]
    answer: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answer


def hosts(url: str, folder: Path) -> set[str]:
    """The hosts that Chromium asked while it showed a page, but for those that it asks by itself of its maker."""
    log = folder / "net.json"
    _run(url, WIDE, "--dump-dom", f"--log-net-log={log}", "--net-log-capture-mode=Everything")
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        told = json.loads(text)
    except json.JSONDecodeError:  # it was ended before it wrote the last brackets
        told = json.loads(text.rstrip().rstrip(",") + "]}")
    number = told["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in told["events"] if event["type"] == number and "params" in event]
    # What a page asks for has the page's origin as its initiator, or is the page itself.
    own = [each for each in asked if each.get("url") and not _of_its_maker(each)]
    return {urlsplit(each["url"]).hostname or "" for each in own}


def _of_its_maker(params: dict[str, Any]) -> bool:
    host = urlsplit(params["url"]).hostname or ""
    return params.get("initiator") == "not an origin" and host.endswith((".google.com", ".googleapis.com", ".gvt1.com"))


def _run(url: str, size: tuple[int, int], *more: str) -> str:
    program = _program()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ran = subprocess.run(
            [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *more, url],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def _program() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
