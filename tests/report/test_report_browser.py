"""The report in headless Chromium: no error, nothing overflows, all of it works from the keyboard.

Needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver).
"""

import base64
import json
import shutil

import pytest
from report_pages import CLASSES

pytest_plugins = ["report_runs"]
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium isn't installed")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
DRIVER = shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip(
        "no chromium and chromedriver: apt-get install chromium chromium-driver", allow_module_level=True
    )

NAMES, NUMBERS = "#all-table tbody th", "#all-table tbody td:nth-of-type(2)"
OVERFLOWING = """
const wide = document.documentElement.clientWidth;
const found = [];
for (const e of document.body.querySelectorAll("*")) {
  const box = e.getBoundingClientRect();
  const apart = e.closest(".scroll, .hidden, .skip") && !e.matches(".scroll");
  const over = box.right > wide + 0.5 || box.left < -0.5;
  if (box.width && !apart && over) found.push(e.outerHTML.slice(0, 120));
}
return [document.documentElement.scrollWidth - wide, found];
"""

# The least contrast of a text with what is behind it, WCAG 2.1, section 1.4.3; of a cell of the
# matrix with its shade, which a pseudo-element draws.
CONTRAST = """
const parts = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const over = (a, b) => a.slice(0, 3).map((v, i) => v * a[3] + b[i] * (1 - a[3]));
const light = (c) => c.slice(0, 3).map((v) => v / 255)
  .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function ratio(a, b) {
  const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05);
}
function behind(e) {
  const colour = parts(getComputedStyle(e).backgroundColor);
  const below = colour[3] === 1 || !e.parentElement ? [255, 255, 255] : behind(e.parentElement);
  let found = over(colour, below);
  if (e.matches(".matrix td")) {
    const shade = getComputedStyle(e, "::before");
    found = over([...parts(shade.backgroundColor).slice(0, 3), Number(shade.opacity)], found);
  }
  return found;
}
const worst = [99, ""];
for (const e of document.querySelectorAll("main *, nav *")) {
  if (e.closest(".graph, .hidden, dialog, option") || !e.getBoundingClientRect().width) continue;
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const style = getComputedStyle(e);
  const colour = parts(e instanceof SVGElement ? style.fill : style.color);
  const found = ratio(over(colour, behind(e)), behind(e));
  if (found < worst[0]) worst.splice(0, 2, found, e.outerHTML.slice(0, 120));
}
return worst;
"""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, request):
    """Opens the report of a run, at a width, in a theme."""

    def show(kind="image_run", width=1440, theme="light", media=""):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((request.getfixturevalue(kind) / "report.html").as_uri())
        return browser

    return show


def press(browser, *keys):
    actions = webdriver.ActionChains(browser)
    for key in keys:
        actions.send_keys(getattr(webdriver.Keys, key))
    actions.perform()


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
    return browser.execute_script(script, selector)


@pytest.mark.parametrize("kind", ["image_run", "signal_run"])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_it_renders(show, kind, width, theme):
    browser = show(kind, width, theme)
    assert [e for e in browser.get_log("browser") if e["level"] != "INFO"] == []
    assert browser.execute_script("return window.boom") is None
    assert browser.execute_script(OVERFLOWING) == [0, []]
    contrast, where = browser.execute_script(CONTRAST)
    assert contrast >= 4.5, where
    loaded = "return [...document.images, ...document.querySelectorAll('image')].length"
    assert browser.execute_script(loaded) > 0
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_hostile_names_are_shown_as_they_are(show, image_run):
    assert texts(show(), "#classes tbody th") == CLASSES


def test_sorting_from_the_keyboard(show):
    browser = show()
    button = browser.find_element("css selector", "#all-table th.num button")
    header = browser.find_element("css selector", "#all-table th.num")
    assert header.get_attribute("aria-sort") == "ascending"
    before = texts(browser, NUMBERS)
    assert before[-1] == "–" and before[:-1] == sorted(before[:-1])
    button.send_keys(webdriver.Keys.ENTER)
    assert header.get_attribute("aria-sort") == "descending"
    assert texts(browser, NUMBERS) == [*before[-2::-1], "–"]
    browser.find_element("css selector", "#all-table th button").send_keys(webdriver.Keys.SPACE)
    assert texts(browser, NAMES) == sorted(texts(browser, NAMES))
    assert header.get_attribute("aria-sort") is None
    said = browser.find_element("id", "said").get_attribute("textContent")
    assert said == "sorted by name, ascending"


def test_the_confusion_matrix_tells_its_counts(show):
    browser = show()
    counts = json.loads(browser.find_element("css selector", ".matrix").get_attribute("data-counts"))
    cells = browser.find_elements("css selector", ".matrix td")
    assert [c.get_attribute("tabindex") for c in cells].count("0") == 1
    readout = browser.find_element("id", "readout")
    webdriver.ActionChains(browser).move_to_element(cells[5]).move_by_offset(3, 3).perform()
    assert f"{counts[1][1]:,} pixels" in readout.text
    browser.execute_script("arguments[0].focus()", cells[0])
    assert readout.text.startswith(f"ground → ground: {counts[0][0]:,} pixels, ")
    press(browser, *["ARROW_DOWN"] * 2, *["ARROW_RIGHT"] * 4)  # one more than there is room for
    share = 100 * counts[2][3] / sum(counts[2])
    assert f": {counts[2][3]:,} pixels, {share:.2f}% of " in readout.text
    assert browser.switch_to.active_element == cells[2 * 4 + 3]


def test_a_picture_is_enlarged_and_closed(show):
    browser = show(width=375)
    panel = browser.find_element("css selector", ".panel.errors")
    panel.send_keys(webdriver.Keys.ENTER)
    dialog = browser.find_element("id", "zoom")
    assert dialog.is_displayed() and "Errors of" in dialog.text
    assert browser.execute_script(OVERFLOWING) == [0, []]
    press(browser, "ESCAPE")
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == panel


def test_the_overlay_fades(show):
    browser = show()
    slider = browser.find_element("css selector", ".opacity input")
    assert slider.is_displayed()
    slider.send_keys(webdriver.Keys.HOME)
    layer = browser.find_element("css selector", ".panel.truth .layer")
    assert layer.value_of_css_property("opacity") == "0"


@pytest.mark.parametrize("kind", ["image_run", "signal_run"])
def test_on_paper(show, kind):
    browser = show(kind, width=794, theme="dark", media="print")
    style = "return getComputedStyle(arguments[0])[arguments[1]]"
    assert browser.execute_script(style, browser.find_element("tag name", "nav"), "display") == "none"
    ink = browser.execute_script(style, browser.find_element("tag name", "body"), "color")
    assert max(int(v) for v in ink[4:-1].split(",")) < 60
    assert browser.execute_script(OVERFLOWING) == [0, []]
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    pdf = base64.b64decode(printed)
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") > 2
