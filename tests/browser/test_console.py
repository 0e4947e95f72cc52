"""The developer console as a person uses it: a real gateway, a real server, headless Chromium.

Every test also holds the page to `consoles`' rules: no error in the browser's console, no violation of the
policy the page is served with, nothing from another origin, no token in an address.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import unicodedata
from collections.abc import Awaitable, Callable
from importlib.resources import files

import pytest
from playwright.async_api import Route, expect

from sse_gateway.core.visible import is_hidden
from tests.browser.console import Console, Opener
from tests.support.gateway import GatewayProcess
from tests.support.plain import plain_client
from tests.support.servers import RedisProcess
from tests.support.wait import until

Another = Callable[[], Awaitable[Console]]
Gateways = Callable[..., Awaitable[GatewayProcess]]

pytestmark = pytest.mark.asyncio(loop_scope="session")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
STATIC = files("sse_gateway.web").joinpath("static")
FAILED = ("Failed to load resource",)
"""What Chromium itself writes for each response above 399 and each refused connection."""


# The page


async def test_it_is_served_under_a_policy_that_allows_it_no_more_than_it_needs(console: Console) -> None:
    async with plain_client() as client:
        page = (await client.get(f"{console.gateway.base}/console")).text
        modules = re.findall(r'rel="modulepreload" href="([^"]+)"', page)
        assert sorted(modules) == sorted(f"console/{file.name}" for file in (STATIC / "console").iterdir())
        for name in ("console", "console.css", "console.js", *modules):
            response = await client.get(f"{console.gateway.base}/{name}")
            assert response.status_code == 200
            assert response.headers["Content-Security-Policy"] == POLICY
            text = response.text.replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text
            assert "https://" not in text
            assert "innerHTML" not in text


async def test_the_token_leaves_the_address_bar_and_survives_a_reload(console: Console) -> None:
    await console.open()
    assert console.page.url.endswith(f"/console#session={console.session_id}")
    await console.page.reload()
    await console.live()


async def test_without_a_token_a_form_asks_and_says_what_was_wrong(console: Console) -> None:
    console.forgiven = FAILED
    await console.page.goto(f"{console.gateway.base}/console#session={console.session_id}")
    await expect(console.part("session-input")).to_have_value(console.session_id)
    await console.part("token-input").fill("not.a.token")
    await console.part("connect").click()
    await expect(console.part("connect-problem")).to_contain_text("token")
    await expect(console.part("state")).to_have_attribute("data-state", "closed")
    await console.open()


async def test_a_new_address_in_the_same_tab_changes_the_session(console: Console) -> None:
    await console.open()
    console.publish("note", {"text": "of the first session"})
    await expect(console.part("event")).to_have_count(1)
    console.session_id += "-b"
    await console.open()
    await expect(console.part("session")).to_have_text(console.session_id)
    await expect(console.part("event")).to_have_count(0)


# Events


async def test_events_appear_as_they_are_published_with_position_and_raw_json(console: Console) -> None:
    before = console.publish("tool_status", {"tool_name": "bash", "status": "executing"})
    await console.open()
    after = console.publish("progress", {"percent": 12345678901234567890, "html": "<img src=x>"})
    console.server.client.publish(
        f"sse_events:{console.session_id}", json.dumps({"type": "progress", "data": {"percent": 50}})
    )
    rows = console.part("event")
    await expect(rows).to_have_count(3)
    assert [await row.get_attribute("data-id") for row in await rows.all()] == [before, after, None]
    await expect(rows.nth(2)).to_contain_text("live only")
    await rows.nth(1).locator("summary").click()
    # To the digit as it was sent, and as text.
    await expect(rows.nth(1).locator("pre")).to_contain_text("12345678901234567890")
    await expect(rows.nth(1).locator("pre")).to_contain_text("<img src=x>")
    await expect(console.part("facts")).to_contain_text(after)


async def test_a_tool_call_is_one_entry_with_its_transitions_and_its_result(console: Console) -> None:
    await console.open()
    call = {"tool_call_id": "call-1", "tool_name": "bash"}
    for status in ("pending", "executing", "completed"):
        console.publish("tool_status", {**call, "status": status})
    console.publish("tool_status", {"tool_call_id": "call-2", "tool_name": "grep", "status": "executing"})
    console.publish("tool_result", {**call, "result": "16 passed", "success": True})
    entry = console.page.locator('[data-testid="tool-call"][data-tool-call-id="call-1"]')
    await expect(entry).to_have_attribute("data-status", "result")
    text = await entry.inner_text()
    positions = [text.index(word) for word in ("pending", "executing", "completed", "16 passed")]
    assert positions == sorted(positions)
    await expect(console.part("tool-call")).to_have_count(2)


async def test_heartbeats_beat_and_are_no_events(console: Console) -> None:
    await console.open()
    await expect(console.part("heartbeat")).to_have_text(re.compile(r"last heartbeat \d s ago"))
    await expect(console.part("event")).to_have_count(0)


async def test_a_burst_is_shown_in_order_and_only_its_end_is_kept(console: Console) -> None:
    await console.open()
    with console.server.client.pipeline(transaction=False) as pipeline:
        for number in range(1200):
            event = json.dumps({"type": "step", "data": {"number": number}})
            pipeline.execute_command("FCALL", "sse_publish", 1, console.session_id, event)
        pipeline.execute()
    await expect(console.part("events-count")).to_have_text("1200")
    rows = console.part("event")
    await expect(rows).to_have_count(500)
    shown = await rows.locator(".text").all_inner_texts()
    assert shown == [f"number: {number}" for number in range(700, 1200)]


async def test_who_scrolls_back_is_not_disturbed(console: Console) -> None:
    await console.open()
    for number in range(60):
        console.publish("step", {"number": number})
    await expect(console.part("event")).to_have_count(60)
    await console.page.locator("#scroller").evaluate("element => { element.scrollTop = 0 }")
    await expect(console.part("latest")).to_be_hidden()
    console.publish("step", {"number": 60})
    await expect(console.part("latest")).to_have_text("↓ 1 new")
    await expect(console.part("event").first).to_be_in_viewport()
    await console.part("latest").click()
    await expect(console.part("event").last).to_be_in_viewport()
    await expect(console.part("event")).to_have_count(61)


# Answers


async def test_an_approval_reaches_the_agent_with_reason_and_name(console: Console) -> None:
    await console.open()
    console.ask("r1", title="Build it", args_digest="sha256:abc", tool_call_id="call-1")
    card = console.request("r1")
    await expect(card).to_have_attribute("role", "dialog")
    assert await console.page.get_by_role("dialog", name="Build it").count() == 1
    assert await console.page.title() == f"(1) {console.session_id} · sse_gateway console"
    await expect(console.part("announce")).to_contain_text("Permission asked: bash, Low risk")
    await card.get_by_test_id("reason").fill("go on")
    await card.get_by_test_id("approve").click()
    await expect(card).to_have_attribute("data-state", "approved")
    await expect(card).to_contain_text("Approved by you")
    decision = console.decision("r1")
    assert decision is not None
    assert decision["outcome"] == "approved"
    assert decision["reason"] == "go on"
    assert decision["decided_by"] == "user-1"
    await console.page.mouse.move(0, 0)
    await expect(console.part("request")).to_have_count(0)
    await expect(console.part("decision")).to_have_attribute("data-outcome", "approved")
    assert await console.page.title() == f"{console.session_id} · sse_gateway console"
    await expect(console.part("tool-call")).to_contain_text("approved")


async def test_a_denial_reaches_the_agent(console: Console) -> None:
    await console.open()
    console.ask("r1", risk_level="high")
    await console.part("deny").click()
    await expect(console.request("r1")).to_have_attribute("data-state", "denied")
    decision = console.decision("r1")
    assert decision is not None
    assert decision["outcome"] == "denied"


async def test_an_answer_given_elsewhere_is_shown_with_who_gave_it(
    console: Console, another: Another
) -> None:
    other = await another()
    await console.open()
    await other.open(user="user-2")
    console.ask("r1")
    await other.part("approve").click()
    await expect(console.request("r1")).to_contain_text("answered by user-2 in another tab")
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")


async def test_who_loses_the_race_is_shown_the_answer_that_won(console: Console, another: Another) -> None:
    console.forgiven = FAILED
    other = await another()
    await console.open()
    await other.open(user="user-2")
    console.ask("r1")
    sent, settled = asyncio.Event(), asyncio.Event()

    async def late(route: Route) -> None:
        sent.set()
        await settled.wait()
        await route.continue_()

    await console.page.route("**/permission-response/**", late)
    await expect(console.pending()).to_have_count(1)
    # Deaf to the stream for once, so that the reply alone can tell.
    await console.page.evaluate("() => dispatchEvent(new Event('pagehide'))")
    await console.part("approve").click()
    await sent.wait()
    await other.part("deny").click()
    await expect(other.request("r1")).to_have_attribute("data-state", "denied")
    settled.set()
    await expect(console.request("r1")).to_contain_text("Denied: answered by user-2 in another tab")


@pytest.mark.parametrize(
    ("end", "state", "text"),
    [
        ("expire", "expired", "nobody answered in time"),
        ("cancel", "cancelled", "changed my mind"),
    ],
)
async def test_a_request_that_ends_without_an_answer_says_how(
    console: Console, end: str, state: str, text: str
) -> None:
    await console.open()
    console.ask("r1", expires_in=2)
    card = console.request("r1")
    await expect(card.get_by_test_id("countdown")).to_contain_text("expires in 0:0")
    if end == "cancel":
        console.call("sse_cancel", "r1", "changed my mind")
    await expect(card).to_have_attribute("data-state", state)
    await expect(card).to_contain_text(text)
    await expect(card.get_by_test_id("approve")).to_be_hidden()


async def test_several_requests_wait_in_the_order_asked_and_none_twice(console: Console) -> None:
    console.ask("r1")
    await console.open()
    console.ask("r2")
    console.ask("r3")
    console.ask("r2")
    await expect(console.pending()).to_have_count(3)
    await console.page.reload()
    await expect(console.pending()).to_have_count(3)
    cards = await console.part("request").all()
    assert [await card.get_attribute("data-request-id") for card in cards] == ["r1", "r2", "r3"]
    await expect(console.part("pending-count")).to_have_text("3")
    await console.request("r2").get_by_test_id("approve").click()
    await expect(console.pending()).to_have_count(2)
    assert console.decision("r1") is None
    assert console.decision("r3") is None


async def test_options_are_buttons_and_what_was_chosen_reaches_the_agent(console: Console) -> None:
    await console.open()
    options = [
        {"id": "forever", "label": "Yes, and never ask again", "kind": "allow_always"},
        {"id": "once", "label": "Yes", "kind": "allow_once"},
        {"id": "no", "label": "No", "kind": "reject_once"},
    ]
    console.ask("r1", options=options)
    await expect(console.part("option")).to_have_count(3)
    # No first and the widest yes last, whatever order the agent would like.
    buttons = [await each.get_attribute("data-option-id") for each in await console.part("option").all()]
    assert buttons == ["no", "once", "forever"]
    await expect(console.part("option").nth(2)).to_contain_text("always")
    await console.part("option").nth(2).click()
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")
    decision = console.decision("r1")
    assert decision is not None
    assert (decision["option_id"], decision["option_kind"]) == ("forever", "allow_always")


async def test_edited_parameters_reach_the_agent_and_broken_ones_are_not_sent(console: Console) -> None:
    await console.open()
    console.ask("r1", editable=True, parameters={"command": "rm -rf \u202ebuild", "id": 12345678901234567890})
    await console.part("edit").click()
    editor = console.part("editor")
    # What cannot be seen can be edited all the same: it is an escape.
    await expect(editor).to_have_value(re.compile(r"rm -rf \\u202ebuild"))
    text = await editor.input_value()
    await editor.fill(text[:-1])
    await console.part("approve").click()
    await expect(console.part("request-error")).to_contain_text("not valid JSON")
    assert console.decision("r1") is None
    await editor.fill(text.replace("rm -rf", "ls"))
    await console.part("approve").click()
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")
    decision = console.decision("r1")
    assert decision is not None
    assert decision["updated_input"] == {"command": "ls \u202ebuild", "id": 12345678901234567890}


# Nothing is approved by accident


async def test_a_high_risk_wants_two_clicks_and_a_double_click_is_one(console: Console) -> None:
    await console.open()
    console.ask("r0", risk_level="high")
    await console.part("approve").dblclick()
    await expect(console.part("approve")).to_have_text("Confirm: Approve")
    await expect(console.request("r0")).to_have_attribute("data-state", "pending")
    console.call("sse_cancel", "r0")
    await console.page.mouse.move(0, 0)
    await expect(console.part("request")).to_have_count(0)
    console.ask("r1", risk_level="high", parameters={"list": list(range(80))})
    approve = console.part("approve")
    await expect(console.part("unfold")).to_contain_text("More below")
    await approve.dblclick()
    await expect(approve).to_have_text("Confirm: Approve")
    # All of what is approved has been unfolded before it can be confirmed.
    await expect(console.part("unfold")).to_have_text("Show less")
    await console.page.keyboard.press("Escape")
    await expect(approve).to_have_text("Approve")
    assert console.decision("r1") is None
    await approve.click()
    await console.page.wait_for_timeout(700)
    await approve.click()
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")


CLICK_WHAT_IS_ASKED_SECOND = """() => new MutationObserver(changes => {
    for (const card of changes.flatMap(change => [...change.addedNodes])) {
        const approve = card.querySelector?.('[data-request-id="second"] [data-testid=approve]');
        if (!approve) continue;
        window.clicked = (window.clicked ?? 0) + 1;
        approve.click();
        setTimeout(() => approve.click(), 30);
    }
}).observe(document.body, {childList: true, subtree: true})"""
"""As a page does that shifts under a pointer: the second click of two falls on what has just appeared."""


@pytest.mark.parametrize("gap_ms", [0, pytest.param(60, marks=pytest.mark.long)])
async def test_a_double_click_leaves_the_next_request_open_over_two_gateways(
    consoles: Opener,
    gateways: Gateways,
    console_gateway: GatewayProcess,
    console_server: RedisProcess,
    session_id: str,
    gap_ms: int,
) -> None:
    """The second click of two answers nothing, be it where the first was or on what was asked since."""
    other_gateway = await gateways(console_server, console=True)
    console = await (await consoles(console_gateway, console_server, session_id)).open()
    watching = await (await consoles(other_gateway, console_server, session_id)).open(user="user-2")
    await console.page.evaluate(CLICK_WHAT_IS_ASKED_SECOND)
    watching.ask("first")
    approve = console.request("first").get_by_test_id("approve")
    await expect(approve).to_have_attribute("aria-disabled", "false")
    await approve.hover()
    mouse = console.page.mouse
    await mouse.down()
    await mouse.up()
    await until(lambda: console.decision("first"), "the first click to count", every=0.002)
    await asyncio.sleep(0.005)
    watching.ask("second")
    await console.page.wait_for_timeout(gap_ms)
    await mouse.down(click_count=2)
    await mouse.up(click_count=2)
    for one in (console, watching):
        await expect(one.request("second")).to_have_attribute("data-state", "pending")
    await console.page.wait_for_timeout(200)
    assert await console.page.evaluate("window.clicked") == 1
    assert console.decision("second") is None
    # Answered on purpose, at the other gateway, it is settled for both.
    await expect(watching.request("first")).to_have_attribute("data-state", "approved")
    await watching.request("second").get_by_test_id("approve").click()
    await expect(console.request("second")).to_have_attribute("data-state", "approved")
    decisions = [console.decision("first") or {}, console.decision("second") or {}]
    assert [decision.get("decided_by") for decision in decisions] == ["user-1", "user-2"]


async def test_a_click_under_way_and_a_key_held_down_answer_nothing(console: Console) -> None:
    await console.open()
    # Clicks that were meant for what stood there a moment ago: by the page, in the card's first moment.
    await console.page.evaluate(
        """() => new MutationObserver((_, watching) => {
            const card = document.querySelector('[data-testid="request"]');
            if (!card) return;
            watching.disconnect();
            for (const name of ["approve", "deny"]) card.querySelector(`[data-testid="${name}"]`).click();
            window.clicked = true;
        }).observe(document.body, {childList: true, subtree: true})"""
    )
    console.ask("r1")
    card = console.request("r1")
    # A function: Playwright evaluates a plain expression again by itself, which the page's policy refuses.
    await console.page.wait_for_function("() => window.clicked")
    await expect(card.get_by_test_id("approve")).to_have_attribute("aria-disabled", "false")
    assert console.decision("r1") is None
    # Asking takes no focus, and Enter in the reason is no answer.
    assert await console.page.evaluate("document.activeElement === document.body")
    await card.get_by_test_id("reason").fill("because")
    await card.get_by_test_id("reason").press("Enter")
    # Enter held down since before the button had the focus.
    await card.get_by_test_id("approve").focus()
    await card.get_by_test_id("approve").evaluate(
        """button => {
            const how = {key: "Enter", repeat: true, bubbles: true, cancelable: true};
            const held = new KeyboardEvent("keydown", how);
            if (button.dispatchEvent(held)) button.click();
        }"""
    )
    assert console.decision("r1") is None
    await expect(card).to_have_attribute("data-state", "pending")
    await card.get_by_test_id("approve").press("Enter")
    await expect(card).to_have_attribute("data-state", "approved")


HOSTILE = (
    "\u202egnp.exe\u202c a\u200bb\u2060c \x1b[31mred\x1b[0m nbsp\u00a0 soft\u00ad tag\U000e0041 "
    "\u2066isolate\u2069 \ufeff \u3164 \u2800 \x00 \x7f \x85 \u2028 \ue000 a" + "\u0338" * 9
)


async def test_text_made_to_deceive_is_shown_as_what_it_is(console: Console) -> None:
    await console.open()
    console.ask(
        "r1",
        tool_name="b\u0430sh\u202e",
        title=HOSTILE.replace("\x00", ""),
        description="<b>bold</b> " + HOSTILE.replace("\x00", ""),
        parameters={
            f"key\u200b{HOSTILE}": HOSTILE,
            "lines": "one\n\u202etwo",
            "html": "<script>x()</script>",
        },
    )
    card = console.request("r1")
    await expect(card.get_by_test_id("tool-name")).to_have_text("b\u0430sh⟨U+202E⟩")
    await expect(card.get_by_test_id("warning").nth(0)).to_contain_text("hidden")
    await expect(card.get_by_test_id("warning").nth(1)).to_contain_text("(U+0430)")
    for code in ("U+202E", "U+200B", "U+001B", "U+00A0", "U+0000", "U+E0041", "9 combining marks"):
        await expect(card.get_by_test_id("parameters")).to_contain_text(f"⟨{code}⟩")
    await expect(card.get_by_test_id("parameters")).to_contain_text("<script>x()</script>")
    console.publish("tool_status", {"tool_call_id": HOSTILE, "tool_name": HOSTILE, "status": HOSTILE})
    console.publish("tool_result", {"tool_call_id": HOSTILE, "tool_name": HOSTILE, "result": HOSTILE})
    console.call("sse_cancel", "r1", HOSTILE)
    await expect(console.part("event")).to_have_count(4)
    for row in await console.part("event").all():
        await row.locator("summary").click()
    await expect(card).to_have_attribute("data-state", "cancelled")
    await console.page.mouse.move(0, 0)
    await expect(console.part("decision")).to_have_count(1)
    everything = await console.page.evaluate(
        """() => document.documentElement.outerHTML + document.title
            + [...document.querySelectorAll("*")]
                .flatMap(element => [...element.attributes].map(attribute => attribute.value)).join("")"""
    )
    hidden = {hex(ord(character)) for character in everything if is_hidden(character) and character != "\n"}
    assert not hidden
    assert "\u0338" * 5 not in everything


async def test_the_page_and_the_terminal_agree_on_what_is_hidden(console: Console) -> None:
    """The page's rule is `core.visible`'s; assigned code points only, since the two know other Unicodes."""
    await console.open()
    candidates = [chr(code) for code in (*range(0x3000), *range(0xA000, 0xA100), *range(0xFE00, 0x10000))]
    known = [each for each in candidates if unicodedata.category(each) not in ("Cn", "Cs", "Cc")]
    for start in range(0, len(known), 4000):
        console.publish("probe", {"text": "|".join(known[start : start + 4000])})
    rows = console.part("event")
    await expect(rows).to_have_count(-(-len(known) // 4000))
    for row in await rows.all():
        await row.locator("summary").click()
    marked = await rows.locator("pre .unseen").all_inner_texts()
    found = {int(code, 16) for text in marked for code in re.findall(r"U\+([0-9A-F]+)", text)}
    assert found == {ord(each) for each in known if is_hidden(each)}


# When things go wrong


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "token_expired"),
        (403, "missing_scope"),
        (404, "unknown_request"),
        (409, "too_new"),
        (503, "unavailable"),
    ],
)
async def test_a_refused_answer_says_why_and_can_be_sent_again(
    console: Console, status: int, code: str
) -> None:
    console.forgiven = FAILED
    await console.open()
    keys = []

    async def refuse(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        body = {"success": False, "code": code, "message": "It did not work."}
        await route.fulfill(status=status, json=body, headers={"Retry-After": "1"})

    await console.page.route("**/permission-response/**", refuse, times=1)
    console.page.on(
        "request",
        lambda sent: keys.append(sent.headers["idempotency-key"]) if "response" in sent.url else None,
    )
    console.ask("r1")
    await console.part("approve").click()
    await expect(console.part("request-error")).to_contain_text(f"{status} {code} It did not work.")
    assert console.decision("r1") is None
    await console.part("retry").click()
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")
    # Sent again it is the same answer, so that it cannot count twice.
    assert len(set(keys)) == 1


async def test_a_gateway_that_does_not_reply_is_told_and_the_answer_can_be_sent_again(
    console: Console,
) -> None:
    console.forgiven = FAILED
    await console.open()
    console.ask("r1")
    await console.page.route("**/permission-response/**", lambda route: route.abort(), times=1)
    await console.part("approve").click()
    await expect(console.part("request-error")).to_contain_text("did not reply")
    await console.part("retry").click()
    await expect(console.request("r1")).to_have_attribute("data-state", "approved")


async def test_a_token_that_may_only_read_cannot_answer(console: Console) -> None:
    console.forgiven = FAILED
    await console.open(scope="sse:read")
    console.ask("r1")
    await console.part("approve").click()
    await expect(console.part("request-error")).to_contain_text("403 missing_scope")
    assert console.decision("r1") is None


async def test_an_expired_request_is_410_for_the_answer_that_comes_late(console: Console) -> None:
    console.forgiven = FAILED
    await console.open()
    console.ask("r1", expires_in=2)

    async def late(route: Route) -> None:
        await asyncio.sleep(2)
        await route.continue_()

    await console.page.route("**/permission-response/**", late)
    await console.part("approve").click()
    await expect(console.request("r1")).to_have_attribute("data-state", "expired")


async def test_a_gateway_that_restarts_is_waited_for_and_nothing_is_missed(
    gateways: Gateways, server: RedisProcess, consoles: Opener, session_id: str
) -> None:
    gateway = await gateways(server, console=True)
    console = await consoles(gateway, server, session_id)
    console.forgiven = FAILED
    await console.open()
    console.ask("r1")
    console.ask("r2")
    console.ask("r3")
    await expect(console.pending()).to_have_count(3)
    await console.request("r3").get_by_test_id("reason").fill("half a sen")
    await asyncio.to_thread(gateway.stop)
    await expect(console.part("state")).to_have_text(re.compile(r"reconnecting in \d+ s"))
    console.call("sse_cancel", "r2")
    console.publish("note", {"text": "meanwhile"})
    await gateway.start()
    await console.live()
    await expect(console.page.locator('[data-testid="event"][data-type="note"]')).to_have_count(1)
    await expect(console.pending()).to_have_count(2)
    await expect(console.request("r2")).to_have_count(0)
    await expect(console.part("decision")).to_have_attribute("data-outcome", "cancelled")
    await expect(console.request("r3").get_by_test_id("reason")).to_have_value("half a sen")
    types = [await row.get_attribute("data-type") for row in await console.part("event").all()]
    assert types == ["permission_request"] * 3 + ["permission_cleared", "note"]


async def test_a_reset_stream_is_rebuilt_from_the_snapshot(
    gateways: Gateways, server: RedisProcess, consoles: Opener, session_id: str
) -> None:
    gateway = await gateways(server, console=True)
    console = await consoles(gateway, server, session_id)
    await console.open()
    console.publish("note", {"text": "before"})
    console.ask("r1")
    await expect(console.pending()).to_have_count(1)
    await expect(console.part("event")).to_have_count(2)
    server.client.flushall()
    console.ask("r2")
    await expect(console.request("r1")).to_have_count(0)
    await expect(console.request("r2")).to_have_count(1)
    await console.page.locator("#strip summary").click()
    await expect(console.part("notices")).to_contain_text("stream_reset")
    await expect(console.page.locator('[data-testid="event"][data-type="note"]')).to_have_count(0)


async def test_an_ended_session_is_closed_and_says_so(console: Console) -> None:
    await console.open()
    console.publish("note", {})
    console.call("sse_end", "done")
    await expect(console.part("state")).to_have_text("closed: the session has ended")
    await console.part("reconnect").click()
    await expect(console.part("state")).to_have_text("closed: the session has ended")


async def test_an_expired_token_is_asked_for_anew_and_the_page_goes_on(
    gateways: Gateways, server: RedisProcess, consoles: Opener, session_id: str
) -> None:
    gateway = await gateways(server, console=True, jwt_leeway_seconds=0)
    console = await consoles(gateway, server, session_id)
    await console.open(exp=int(time.time()) + 4)
    await expect(console.part("connect-problem")).to_contain_text("expired")
    console.publish("note", {"text": "meanwhile"})
    await console.open()
    await expect(console.part("event")).to_have_count(1)


async def test_a_stream_that_falls_silent_is_replaced(
    gateways: Gateways, server: RedisProcess, consoles: Opener, session_id: str
) -> None:
    """A connection can die without a word; heartbeats that stay away are the only sign of it."""
    gateway = await gateways(server, console=True, heartbeat_seconds=0.2)
    console = await consoles(gateway, server, session_id)
    await console.open()
    gateway.pause()
    await expect(console.part("notice")).to_contain_text("nothing heard")
    gateway.resume()
    await console.live()
