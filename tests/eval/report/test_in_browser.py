"""The pages in a real browser: Debian's chromium, driven through selenium."""

import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not BROWSER or not DRIVER:
    pytest.skip("needs chromium and chromedriver, e.g. Debian's chromium-driver", allow_module_level=True)
OPEN_ALL = "for (const each of document.querySelectorAll('details')) each.open = true"
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_their_window_and_run_nothing_that_a_model_wrote(driver, report, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for name in ("report.html", "samples/t5_gsm8k.html"):
        driver.get((report / name).as_uri())
        driver.execute_script(OPEN_ALL)
        assert driver.execute_script(WIDER) == 0, name
        assert driver.title != "owned"
        assert driver.get_log("browser") == [], name


def test_right_items_can_be_hidden_and_bars_have_lengths(driver, report):
    driver.get((report / "samples/t5_gsm8k.html").as_uri())
    items = driver.find_elements("css selector", ".items > details")
    driver.find_element("id", "only_wrong").click()
    assert [item.is_displayed() for item in items] == [False, False, True, False, True, False]
    driver.get((report / "report.html").as_uri())
    track, *bars = driver.execute_script(
        "return [document.querySelector('.chart svg'), ...document.querySelectorAll('.chart .own-bar')]"
        ".map(each => each.getBoundingClientRect().width)"
    )
    assert len(bars) == 9
    assert bars[0] / track == pytest.approx(0.62, abs=0.02)  # commonsense, 62 %
