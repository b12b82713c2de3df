"""The page in headless Chromium: no errors, correct viewers, light and dark colours, phone width."""

import pytest

from tests import showing
from tests.report import browsing
from tsdfm_jax.report import page

pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e '.[test]')")
from selenium.webdriver.common.keys import Keys  # noqa: E402  only if selenium is installed
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = browsing.NEEDED
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
TRACES = showing.traces(length=32, midpoints=4, candidates=3)
TRACES["vocabulary"]["0"] = HOSTILE


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    where = tmp_path_factory.mktemp("page") / "index.html"
    page.write(where, showing.report() | {"verdict": HOSTILE}, TRACES)
    return where.as_uri()


@pytest.fixture
def browser(chromium, address):
    """The page as first opened on a desktop in light colours; an error in the console fails the test."""
    browsing.look(chromium, 1280, "light")
    chromium.get(address)
    yield chromium
    chromium.execute_script("localStorage.clear()")
    assert chromium.get_log("browser") == []
    assert "taken" not in chromium.title


def part(browser, name, viewer="trajectory"):
    return browser.find_element("css selector", f"#{viewer} [data-part={name}]")


def text_of(ids):
    return "".join(TRACES["vocabulary"][str(i)] for i in ids)


def content(browser, node):
    return browser.execute_script("return arguments[0].textContent", node)


SHOWN = """
const all = (node, selector) => [...node.querySelectorAll(selector)], root = document.getElementById("trajectory");
const state = root.querySelector("[data-part=state]"), cards = all(root, ".card");
return {
  status: root.querySelector("[data-part=status]").textContent, state: state.textContent,
  marked: all(state, "mark").map((n) => n.textContent), cards: cards.map((n) => n.textContent),
  words: all(root, ".card .words").map((n) => n.textContent), kept: cards.flatMap((n, k) => n.classList.contains("kept") ? [k] : []),
};"""


def shows(browser, step, record=0):
    """Assert that the viewer shows this step: its time, state, changed tokens and candidates; return True."""
    t, seen = TRACES["trajectories"][record], browser.execute_script(SHOWN)
    before, m = ([t["start"]] + [m["state"] for m in t["midpoints"]])[max(step - 1, 0)], t["midpoints"][step - 1] if step else None
    state = m["state"] if m else t["start"]
    assert seen["status"].split(",")[0] == f"time {m['time'] if m else 0:g}"
    assert seen["state"] == text_of(state)
    assert seen["marked"] == [TRACES["vocabulary"][str(b)] for a, b in zip(before, state) if a != b]
    assert seen["kept"] == ([m["kept"]] if m else [])
    assert seen["words"] == ([text_of(c) for c in m["candidates"]] if m else [])
    assert all(f"energy {e}" in card for e, card in zip(m["energy"] if m else [], seen["cards"]))
    return True


def test_stepping(browser):
    """Buttons, slider, arrow keys and energy map each show the right state, and stop at the ends."""
    assert shows(browser, 1)
    part(browser, "next").click()
    assert shows(browser, 2)
    part(browser, "back").click()
    assert shows(browser, 1)
    part(browser, "first").click()
    assert shows(browser, 0) and not part(browser, "back").is_enabled() and not part(browser, "cards").is_displayed()
    viewer = browser.find_element("id", "trajectory")
    viewer.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shows(browser, 3)
    viewer.send_keys(Keys.ARROW_LEFT)
    assert shows(browser, 2)
    viewer.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert shows(browser, 4) and not part(browser, "next").is_enabled()
    part(browser, "slider").send_keys(Keys.ARROW_LEFT)
    assert shows(browser, 3) and "time 0.75" in part(browser, "slider").get_attribute("aria-valuetext")
    browser.find_elements("css selector", "#trajectory [data-part=choose] option")[1].click()
    assert shows(browser, 3, record=1)
    browser.find_elements("css selector", "#trajectory .energy-map .won")[1].click()
    assert shows(browser, 2, record=1)


def test_colours_say_the_energy(browser):
    """Changed tokens are coloured by their own energies, in the order of the energies."""
    marks = part(browser, "state").find_elements("css selector", "mark")
    told = [(float(m.get_attribute("title").split()[-1]), int(m.get_attribute("style").split(":")[1].strip(" %;"))) for m in marks]
    m = TRACES["trajectories"][0]["midpoints"][0]
    pairs = zip(TRACES["trajectories"][0]["start"], m["state"], m["token_energy"][m["kept"]])
    assert [energy for energy, _ in told] == [e for a, b, e in pairs if a != b] and len(told) > 3
    assert [share for _, share in sorted(told)] == sorted(share for _, share in told)
    assert browser.find_elements("css selector", "#trajectory .state .raw")


def test_one_candidate_has_nothing_to_compare(browser, tmp_path):
    """With K = 1 the viewer shows states and changes, without cards, energies or their scale."""
    traces = showing.traces(length=16, midpoints=2, candidates=1)
    for m in (m for t in traces["trajectories"] for m in t["midpoints"]):
        m.update(energy=None, token_energy=None, shaped=False)
    page.write(tmp_path / "index.html", {"schema": 2}, traces)
    browser.get((tmp_path / "index.html").as_uri())
    part(browser, "next").click()
    state = traces["trajectories"][0]["midpoints"][1]["state"]
    assert content(browser, part(browser, "state")) == "".join(traces["vocabulary"][str(i)] for i in state)
    assert part(browser, "state").find_elements("css selector", "mark.untold")
    assert not any(part(browser, name).is_displayed() for name in ("cards", "candidates-heading", "map-box", "scale"))


def test_the_students_steps(browser):
    """Both students' texts are shown at the same step with its changes marked, and play reaches the end."""
    of = {s["model"]: s for s in TRACES["students"] if s["index"] == 0}
    for step in (1, 2):
        boxes = browser.find_elements("css selector", "#student .text")
        for box, model in zip(boxes, ("student_shaped", "student_blind"), strict=True):
            before, state = of[model]["states"][step - 1 : step + 1]
            assert content(browser, box) == text_of(state)
            assert len(box.find_elements("css selector", "mark")) == sum(a != b for a, b in zip(before, state))
        part(browser, "next", "student").click()
    browser.execute_script("setInterval = ((own) => (f, ms) => own(f, ms / 100))(setInterval)")  # speed up the page's timer
    part(browser, "play", "student").click()
    WebDriverWait(browser, 10).until(lambda b: b.find_element("id", "student").get_attribute("data-step") == "8")
    assert part(browser, "play", "student").get_attribute("aria-pressed") == "false"


def test_light_and_dark(browser):
    """The page starts in the system's colours; the button switches page and figures, and the choice survives a reload."""
    colours = lambda: browser.execute_script(
        "const of = (s) => getComputedStyle(document.querySelector(s));"
        "return [of('body').backgroundColor, of('body').color, of('figure svg text').fill, of('figure svg path[style*=shaped]').stroke]"
    )
    light = colours()
    browser.find_element("id", "theme").click()
    dark = colours()
    assert all(a != b for a, b in zip(light, dark))
    browser.refresh()
    assert colours() == dark
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    assert colours() == light
    browsing.look(browser, 1280, "dark")
    WebDriverWait(browser, 30).until(lambda _: colours() == dark)


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_phone(browser, width):
    """The page is no wider than the screen, also with everything unfolded; the table scrolls in its own box."""
    browsing.look(browser, width, "light")
    browser.refresh()
    part(browser, "next").click()
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return innerWidth") == width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    inside, box = browser.execute_script(
        "const b = document.querySelector('#table .scroll'); return [b.scrollWidth, b.clientWidth]"
    )
    assert inside > box
