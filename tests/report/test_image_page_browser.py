"""The page of images in headless Chromium: no errors, a correct viewer, light and dark colours, phone width."""

import pytest

from tests import showing_images
from tests.report import browsing
from tsdfm_jax.report import image_page

pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e '.[test]')")
from selenium.webdriver.common.keys import Keys  # noqa: E402  only if selenium is installed
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = browsing.NEEDED
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
PICTURES = showing_images.pictures(per_class=2)
LEVELS = PICTURES["traces"][0]["t_T"][::-1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    where = tmp_path_factory.mktemp("page") / "index.html"
    report = showing_images.report()
    report["data"]["class_names"][8] = report["verdict"] = HOSTILE
    image_page.write(where, report, PICTURES)
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


PIXELS = """
const image = document.querySelector(`#levels [data-part=${arguments[0]}]`);
return image.decode().then(() => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data].filter((_, i) => i % 4 === 0);
});"""


def part(browser, name):
    return browser.find_element("css selector", f"#levels [data-part={name}]")


def shows(browser, step, number=0):
    """Assert that the viewer shows this level of x and of u, its time and its place in the strip; return True."""
    trace = PICTURES["traces"][number]
    status = part(browser, "status").text
    assert status.split(",")[0] == f"t = {LEVELS[step]:g}"
    for name in ("x", "u"):
        assert browser.execute_script(PIXELS, name) == trace[f"{name}_THWC"][-1 - step].ravel().tolist()
    pressed = browser.find_elements("css selector", "#levels .strip button")
    assert [b.get_attribute("aria-pressed") for b in pressed] == ["true" if n == step else "false" for n in range(len(LEVELS))]
    return True


def test_stepping(browser):
    """Buttons, slider, arrow keys and the strip each show the right level, from noise to data, and stop at the ends."""
    assert (
        shows(browser, 0)
        and not part(browser, "back").is_enabled()
        and "4 steps to come, class three" in part(browser, "status").text
    )
    part(browser, "next").click()
    assert shows(browser, 1)
    viewer = browser.find_element("id", "levels")
    viewer.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert shows(browser, 3)
    viewer.send_keys(Keys.ARROW_LEFT)
    assert shows(browser, 2)
    viewer.send_keys(Keys.END, Keys.ARROW_RIGHT)
    assert shows(browser, 4) and not part(browser, "next").is_enabled()
    part(browser, "slider").send_keys(Keys.ARROW_LEFT)
    assert shows(browser, 3) and "t = 0.263" in part(browser, "slider").get_attribute("aria-valuetext")
    browser.find_elements("css selector", "#levels .strip button")[1].click()
    assert shows(browser, 1)
    browser.find_elements("css selector", "#levels [data-part=choose] option")[1].click()
    assert shows(browser, 1, number=1) and HOSTILE in part(browser, "status").text
    part(browser, "first").click()
    browser.execute_script("setInterval = ((own) => (f, ms) => own(f, ms / 100))(setInterval)")  # speed up the page's timer
    part(browser, "play").click()
    WebDriverWait(browser, 10).until(lambda b: b.find_element("id", "levels").get_attribute("data-step") == "4")
    assert shows(browser, 4, number=1) and part(browser, "play").get_attribute("aria-pressed") == "false"


def test_light_and_dark(browser):
    """The button switches page, figures and the grid's headings; pictures stay as sharp pixels."""
    colours = lambda: browser.execute_script(
        "const of = (s) => getComputedStyle(document.querySelector(s));"
        "return [of('body').backgroundColor, of('.grids thead th').backgroundColor, of('figure svg path[style*=shaped]').stroke]"
    )
    light = colours()
    browser.find_element("id", "theme").click()
    assert all(a != b for a, b in zip(light, colours()))
    assert browser.execute_script("return getComputedStyle(document.querySelector('.grids img')).imageRendering") == "pixelated"


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_phone(browser, width):
    """The page is no wider than the screen, with everything unfolded; the grids scroll in their box, x stands beside u."""
    browsing.look(browser, width, "light")
    browser.refresh()
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return innerWidth") == width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    inside, box = browser.execute_script(
        "const b = document.querySelector('#grids .scroll'); return [b.scrollWidth, b.clientWidth]"
    )
    assert inside > box
    x, u = part(browser, "x").rect, part(browser, "u").rect
    assert x["y"] == u["y"] and x["x"] + x["width"] < u["x"] and u["x"] + u["width"] <= width
    browser.find_element("id", "levels").send_keys(Keys.END)
    last, strip = browser.execute_script(
        "const b = document.querySelectorAll('#levels .strip button'), of = (n) => n.getBoundingClientRect().toJSON();"
        "return [of(b[b.length - 1]), of(document.querySelector('#levels .scroll'))]"
    )
    assert last["right"] <= strip["right"]  # the strip follows
    assert x["width"] == pytest.approx(x["height"], abs=1) and x["width"] > 120
