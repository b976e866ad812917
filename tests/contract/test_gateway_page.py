"""The page in a real browser, on a scripted cluster of four Macs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pomona.auth.api_keys import KeyStore
from pomona.messages.control import Alert
from pomona.messages.placement import MachineChoice
from pomona.trust import Member, Trust
from pomona.trust import roster as rosters
from pomona.trust.digits import digits
from pomona.trust.join_ledger import JoinRequest, LedgerFile
from pomona.trust.node_keys import new_node_keys
from support.chromium import Chromium, Page
from support.doubles.drawn_cluster import LARGE, DrawnCluster
from support.doubles.gateway_thread import GatewayThread, running_gateway
from support.members import lend_scripted_keys, scripted_keys
from support.models.tiny_model import TEMPLATE, say, write_tiny_model
from support.waiting import wait_until

pytestmark = pytest.mark.slow

MODEL = "tiny"
PANELS = ("cluster", "now", "models", "plan", "chat", "nodes")
AXE = Path("services/gateway/web/node_modules/axe-core/axe.min.js")
ROOT = Path(__file__).parents[2]
SCREENSHOTS = "POMONA_TEST_SCREENSHOTS"
"""Variable with a folder for the screenshots, to look at them."""
ASKING = "ab" * 32
"""Public key of the machine that asks to join."""
ALERT = Alert(
    "link:far:mini-3",
    "warning",
    "far reaches mini-3 over Wi-Fi: connect both by Thunderbolt or Ethernet.",
    1_764_500_000.0,
)
HOSTILE = """# Hi
<script>window.pwned = 1</script> <img src=x onerror="window.pwned = 2">
![pixel](https://evil.example/p.png) [click](javascript:window.pwned=3) [ok](https://example.com/)
<a href="https://evil.example" onclick="window.pwned=4">a</a> <style>*{display:none}</style>
<iframe src="https://evil.example"></iframe> <form action="https://evil.example"><input></form>

| a | b |
|---|---|
| 1 | 2 |

```js
<b>code</b>
```
"""


@dataclass(frozen=True)
class Place:
    cluster: DrawnCluster
    gateway: GatewayThread


def head_folder(folder: Path) -> Path:
    """Makes the state folder of a head: ``far`` is a member, a machine asks, and there are logs."""
    lend_scripted_keys(folder)
    trust = Trust.load(folder)
    assert trust is not None
    far = new_node_keys()
    trust.change(lambda x: rosters.with_member(x, Member(far.id, far.public, "far", "member")))
    asking = JoinRequest(
        ASKING, "mini-9", "", time.time(), time.time(), nonce="01" * 16, head_nonce="02" * 16
    )
    LedgerFile(folder).change(lambda ledger: (ledger.put(asking), None))
    (folder / "logs").mkdir()
    (folder / "logs" / "planner.log").write_text(
        '{"time": "2026-01-02T03:04:05Z", "level": "warning", "event": "near is busy",'
        ' "epoch": 7}\n'
    )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    folder = tmp_path_factory.mktemp("page")
    source = write_tiny_model(folder / "model", TEMPLATE, 4096)
    with (
        DrawnCluster.running(lambda _: say("A"), MODEL, str(source)) as cluster,
        running_gateway(cluster, token_deadline_s=30.0, state_dir=head_folder(folder)) as gateway,
    ):
        cluster.alerts = (ALERT,)
        cluster.busy = True
        yield Place(cluster, gateway)


@pytest.fixture(scope="module")
def page(place: Place, browser: Chromium) -> Generator[Page]:
    """The page, opened once; tests go from panel to panel."""
    opened = browser.open(f"{place.gateway.url}/")
    opened.wait_for_text("Machines")
    yield opened
    opened.close()


def show(page: Page, panel: str) -> None:
    page.evaluate(f"location.hash = '#/{panel}'")
    page.wait(f"document.querySelector('h1')?.textContent.toLowerCase() === '{panel}'", panel)


def ask(page: Page, question: str) -> None:
    """Types a question into a new conversation and sends it."""
    show(page, "chat")
    page.evaluate(
        "[...document.querySelectorAll('button')]"
        ".find((x) => x.textContent.trim() === 'New conversation').click()"
    )
    page.evaluate("document.querySelector('#question').focus()")
    page.type(question)
    page.press("Enter")


def answers(page: Page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.answer')].map((x) => x.innerText)")


def test_the_cluster_is_drawn_as_it_is_cabled(page: Page) -> None:
    show(page, "cluster")
    text = page.text()
    for wanted in (
        ALERT.summary, "near", "mini-4", "Thunderbolt 5", "580 µs", "3.7 GB/s", "4 GB/s",
        "fallback", "Layers 0 to 14", "head", "Weights 9 GB", "Kept prefixes 2 GB", "58 °C",
        "31 W", "11.8 tok/s", "12.4 tok/s", "62% right", LARGE,
    ):  # fmt: skip
        assert wanted in text, f"{wanted!r} is not in:\n{text}"
    page.wait_for_text("2 lanes in flight")
    page.wait("document.querySelectorAll('svg.lanes circle').length === 2", "two dots travel")
    lines = page.evaluate(
        "[...document.querySelectorAll('svg.cables line')].map((x) => x.className.baseVal)"
    )
    assert sorted(lines) == ["critical", "critical", "good", "warning"]


def test_changes_appear_while_they_happen(page: Page, place: Place) -> None:
    show(page, "cluster")
    place.cluster.gone = frozenset({"mini-4"})
    page.wait_for_text("mini-4 is gone")
    place.cluster.gone = frozenset()
    page.wait_for_text("mini-4 has joined")


def test_now_shows_figures_and_charts_with_their_units(page: Page) -> None:
    show(page, "now")
    page.wait("document.querySelectorAll('.plot canvas').length === 4", "four charts")
    text = page.text()
    for wanted in ("38.5 tok/s", "Users", "Queue", "First token", "Predicted", "Measured"):
        assert wanted.lower() in text.lower()


def test_an_axis_without_a_value_above_zero_ends_at_one(page: Page) -> None:
    tops = page.evaluate(
        "import('/dashboard/chart.js').then((x) => [0, null, 20].map((high) => x.topOf(high)))"
    )
    assert tops == [1, 1, pytest.approx(22)]


def test_models_show_what_loads_and_what_can_be_done(page: Page) -> None:
    show(page, "models")
    page.wait_for_text("3.6 GB of 9 GB in memory")
    page.wait_for_text("spare")
    assert "not loaded" in page.text()
    page.evaluate(f"document.querySelector('button[aria-label=\"Unload {MODEL}\"]').click()")
    page.wait_for_text("Keep it")
    page.evaluate(
        "[...document.querySelectorAll('button')].find((x) => x.innerText === 'Keep it').click()"
    )


def test_a_plan_is_computed_and_compared(page: Page) -> None:
    show(page, "plan")
    page.wait_for_text("Compare with another setup", 60.0)
    page.evaluate(
        "(() => { const model = document.querySelector('select'); model.value = 'qwen3-32b';"
        " model.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.evaluate(
        "[...document.querySelectorAll('button')]"
        ".find((x) => x.textContent.includes('Compare with another')).click()"
    )
    page.evaluate("document.querySelector('button[type=submit]').click()")
    page.wait_for_text("A million tokens, all users", 60.0)
    assert "Setup 2" in page.text()


def click(page: Page, label: str) -> None:
    """Presses the button with this label or text."""
    script = (
        "[...document.querySelectorAll('button')].find((x) => "
        f"(x.getAttribute('aria-label') ?? x.textContent.trim()) === {json.dumps(label)})"
    )
    page.wait(f"{script} && !{script}.ariaDisabled", f"a button {label!r} that can be pressed")
    page.evaluate(f"{script}.click()")


def test_a_machine_is_invited_and_one_that_asks_is_refused(page: Page) -> None:
    show(page, "nodes")
    page.wait_for_text("when it is the machine in front of you")
    trust = scripted_keys()
    number = digits(trust.keys.public, ASKING, bytes([2] * 16), bytes([1] * 16))
    assert f"{number[:3]} {number[3:]}" in page.text()
    click(page, "Refuse mini-9")
    page.wait_for_text("None. pomona join", 90.0)
    click(page, "Invite a machine")
    page.wait_for_text("listens to itself only")
    click(page, "Open it and invite")
    page.wait_for_text("pomona join pom1-", 120.0)
    assert "until" in page.text()


def test_a_node_is_drained_and_undrained(page: Page, place: Place) -> None:
    show(page, "nodes")
    click(page, "Drain mini-3")
    page.wait_for_text("running answers go on")
    click(page, "Drain it")
    page.wait_for_text("Being drained")
    asked = place.cluster.drains["mini-3"]
    place.cluster.drains["mini-3"] = replace(asked, state="refused", reason="tiny does not fit")
    page.wait_for_text("Not drained: tiny does not fit")
    click(page, "Drain mini-3 all the same")
    page.wait_for_text("No request for the model is answered")
    click(page, "Drain it all the same")
    page.wait_for_text("Being drained")
    click(page, "Undrain mini-3")
    page.wait("!document.body.innerText.includes('Being drained')", "the drain has ended")


def test_a_member_is_revoked_after_its_effect_was_said(page: Page) -> None:
    show(page, "nodes")
    click(page, "Revoke far")
    page.wait_for_text("only a new invitation lets it in again")
    page.wait_for_text("It holds 1 stage")
    click(page, "Revoke it")
    page.wait("!document.querySelector('[aria-label=\"Revoke far\"]')", "far is revoked", 90.0)
    page.wait_for_text("This machine has the cluster's key.")


def test_the_nodes_panel_shows_the_newest_log_lines(page: Page) -> None:
    show(page, "nodes")
    page.evaluate("document.querySelector('details summary').click()")
    page.wait_for_text("near is busy")
    assert "epoch=7" in page.text()
    page.evaluate("document.querySelector('details summary').click()")


def test_a_choice_for_a_machine_is_applied_and_taken_back(page: Page, place: Place) -> None:
    show(page, "plan")
    page.wait_for_text("Apply to this cluster", 60.0)
    page.evaluate(
        "(() => { const machine = [...document.querySelectorAll('select')].find((x) => x.closest("
        "'label')?.innerText.startsWith('Machine')); machine.value = 'far';"
        " machine.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    click(page, "Apply to far")
    page.wait_for_text("forms again without it at once")
    click(page, "Apply it")
    page.wait_for_text("far is excluded")
    assert place.cluster.placement.choices == (MachineChoice("far", "exclude"),)
    place.cluster.refused_placement = "tiny could not run: too little memory"
    click(page, "Apply to far")
    click(page, "Apply it")
    page.wait_for_text("tiny could not run")
    place.cluster.refused_placement = ""
    click(page, "Take back: far is excluded")
    page.wait("!document.body.innerText.includes('far is excluded')", "it is taken back")


def test_a_chat_streams_and_stops(page: Page, place: Place) -> None:
    reply = "one two three four five six " * 40
    place.cluster.head.script = lambda _: say(reply, step_s=0.02, prefilled=(4, 8))
    place.cluster.head.cancelled.clear()
    ask(page, "Count, please")
    page.wait_for_text("one two")
    page.wait("document.querySelector('.composer .danger')", "a button to stop")
    page.evaluate("document.querySelector('.composer .danger').click()")
    page.wait_for_text("Stopped.")
    wait_until(lambda: place.cluster.head.cancelled, "the request is cancelled")
    [answer] = answers(page)
    assert "first token after" in answer
    assert "tok/s" in answer
    assert len(answer) < len(reply)


def test_a_reply_goes_on_after_a_failure_and_says_so(page: Page, place: Place) -> None:
    def script(request: Any) -> Any:
        first = request.submit.attempt == 0
        return say("alpha beta gamma", step_s=0.02, fail_after=8 if first else None)

    place.cluster.head.script = script
    ask(page, "What now?")
    page.wait_for_text("paused for", 30.0)
    place.cluster.epoch += 1
    place.cluster.change()
    page.wait_for_text("Continued after a failure")
    page.wait_for_text("alpha beta gamma")


def test_a_hostile_reply_is_harmless(page: Page, place: Place) -> None:
    place.cluster.head.script = lambda _: say(HOSTILE)
    ask(page, "Attack")
    page.wait("document.querySelector('.markdown pre')", "the reply")
    page.wait("!document.querySelector('.composer .danger')", "its end")
    assert page.evaluate("window.pwned") is None
    inside = "document.querySelectorAll('.markdown {}').length"
    for tag in ("img", "script", "style", "iframe", "form", "input"):
        assert page.evaluate(inside.format(tag)) == 0, tag
    links = page.evaluate(
        "[...document.querySelectorAll('.markdown a')].map((x) => [x.getAttribute('href'), x.rel])"
    )
    assert {href for href, _ in links if href} == {"https://example.com/"}
    assert all("noopener" in rel for href, rel in links if href)
    [answer] = answers(page)
    assert "<script>window.pwned = 1</script>" in answer
    assert "<b>code</b>" in answer
    place.cluster.head.script = lambda _: say("A")


def test_the_page_can_be_used_by_keyboard_alone(page: Page, place: Place) -> None:
    show(page, "cluster")
    page.evaluate("document.activeElement?.blur()")
    focused = "document.activeElement?.textContent.trim()"
    for _ in range(12):
        page.press("Tab")
        if page.evaluate(focused) == "Chat":
            break
    page.press("Enter")
    page.wait("document.querySelector('h1')?.textContent === 'Chat'", "the chat")
    for _ in range(12):
        page.press("Tab")
        if page.evaluate("document.activeElement?.id") == "question":
            break
    assert page.evaluate("document.activeElement.id") == "question"
    page.type("By keyboard")
    page.press("Enter")
    page.wait_for_text("By keyboard")
    page.wait("!document.querySelector('.composer .danger')", "its end")


def test_what_someone_types_stays_while_states_arrive(page: Page) -> None:
    show(page, "models")
    page.evaluate("document.querySelector('#source').focus()")
    page.type("owner/na")
    before = page.evaluate("window.states = (window.states ?? 0)")
    page.wait_for_text("spare")
    page.evaluate("new Promise((done) => setTimeout(done, 1500))")
    assert before == 0
    assert page.evaluate("document.activeElement.id + document.activeElement.value") == (
        "sourceowner/na"
    )


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_every_panel_looks_right(
    page: Page, place: Place, tmp_path: Path, width: int, dark: bool
) -> None:
    folder = Path(os.environ.get(SCREENSHOTS, tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.resize(width, 900, dark)
    found: dict[str, Any] = {}
    for panel in PANELS:
        show(page, panel)
        if panel == "plan":
            page.wait_for_text("Compare with another setup", 60.0)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 150)))")
        if faults := page.evaluate(LAYOUT_FAULTS.replace("WIDTH", str(width))):
            found[panel] = faults
        page.resize(width, page.evaluate("document.documentElement.scrollHeight"), dark)
        page.screenshot(folder / f"{panel}-{width}.png")
        page.resize(width, 900, dark)
    page.resize(1440, 900)
    assert not found


LAYOUT_FAULTS = """(() => {
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > WIDTH) faults.push(`scrolls sideways: ${root.scrollWidth}`);
  const boxes = [...document.querySelectorAll('.machines > li, .cable')].map((x) =>
    [x.innerText.slice(0, 30), x.getBoundingClientRect()]);
  boxes.forEach(([a, x], i) => boxes.slice(i + 1).forEach(([b, y]) => {
    const apart = x.right <= y.left || y.right <= x.left || x.bottom <= y.top || y.bottom <= x.top;
    if (!apart) faults.push(`${a} lies over ${b}`);
  }));
  const texts = 'button, a, h1, h2, h3, dt, dd, td, th, label, small';
  for (const x of document.querySelectorAll(texts)) {
    const inScroll = x.closest('.scroll, .changes, .off-screen, .skip');
    if (!inScroll && x.scrollWidth > x.clientWidth + 1 && x.clientWidth > 0
        && getComputedStyle(x).display !== 'inline') {
      faults.push(`cut: ${x.innerText.slice(0, 40)}`);
    }
  }
  return faults;
})()"""


def test_axe_finds_nothing_serious(page: Page) -> None:
    if not (ROOT / AXE).exists():
        pytest.skip(f"{AXE} is not installed; `make lint` installs it")
    page.evaluate((ROOT / AXE).read_text())
    found: dict[str, Any] = {}
    for width, dark in ((1440, False), (1440, True), (390, False), (390, True)):
        page.resize(width, 900, dark)
        for panel in PANELS:
            show(page, panel)
            violations = page.evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then((x) => x.violations"
                ".filter((v) => ['serious', 'critical'].includes(v.impact))"
                ".map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3)]))"
            )
            if violations:
                found[f"{panel} {width} {'dark' if dark else 'light'}"] = violations
    page.resize(1440, 900)
    assert not found, json.dumps(found, indent=1)


def test_no_panel_has_written_an_error_to_the_console(page: Page) -> None:
    assert page.messages() == []


def test_a_key_is_asked_for_and_stays_in_the_tab(
    browser: Chromium, place: Place, tmp_path: Path
) -> None:
    store = KeyStore(tmp_path)
    secret = store.create("user")
    with running_gateway(place.cluster, require_key=True, state_dir=tmp_path) as gateway:
        page = browser.open(f"{gateway.url}/")
        page.wait_for_text("API key of this gateway")
        page.evaluate("document.querySelector('#key').focus()")
        page.type("wrong")
        page.press("Enter")
        page.wait_for_text("no valid API key")
        page.evaluate("document.querySelector('#key').select()")
        page.type(secret)
        page.press("Enter")
        page.wait_for_text("Machines")
        assert page.evaluate("JSON.stringify(localStorage)").find(secret) < 0
        assert page.evaluate("document.cookie") == ""
        show(page, "models")
        page.wait_for_text("Needs an administrator's key")
        page.close()
