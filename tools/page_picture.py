"""`python tools/page_picture.py MODEL_DIR [docs/serve.png]`: a picture of the server's page, answering with a model.
`python tools/page_picture.py DIR/report.html docs/evaluation.png`: one of the beginning of a page in a file.

Needs chromium, chromedriver and selenium, and `nemotron4-infer[serve]`. The same model gives the same text.
"""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from selenium import webdriver

ASKED = {"prompt": "In the beginning", "temperature": "0.6", "max_tokens": "110", "seed": "1"}
WIDTH, HEIGHT = 1200, 700
PAGE_HEIGHT = 1_500


def main() -> None:
    """Take a file's picture, or serve the model, ask, take the picture, end the server."""
    source, output = [*sys.argv[1:], "docs/serve.png"][:2]
    if source.endswith(".html"):
        take(Path(source).resolve().as_uri(), output, PAGE_HEIGHT, lambda driver: None)
        return
    command = ["serve", f"model_dir={source}", "server.port=0", "server.model_name=demo"]
    server = subprocess.Popen(
        [sys.executable, "-m", "nemotron4_config.main", *command], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        url = next(match[0] for match in map(re.compile(r"http://\S+").search, server.stderr) if match)
        take(url, output, HEIGHT, ask)
    finally:
        server.terminate()
        server.wait()


def take(url: str, output: str, height: int, prepare: Callable[[webdriver.Chrome], None]) -> None:
    """The picture of a page of this height, after `prepare`."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(url)
        prepare(driver)
        driver.save_screenshot(output)
    finally:
        driver.quit()


def ask(driver: webdriver.Chrome) -> None:
    """Have the server's page answer, and show the alternatives of the answer's first unlikely token."""
    for name, text in ASKED.items():
        driver.find_element("id", name).clear()
        driver.find_element("id", name).send_keys(text)
    go = driver.find_element("id", "go")
    go.click()
    while not go.is_enabled():
        time.sleep(0.1)
    token = driver.find_element("css selector", ".answer .rare")
    webdriver.ActionChains(driver).move_to_element(token).perform()


if __name__ == "__main__":
    main()
