"""The page in a real browser: Debian's chromium, driven through selenium. Nothing here replaces the server."""

import math
import re
import shutil
import threading
from types import SimpleNamespace

import pytest
from served import serving, wait_for

from nemotron4_infer.chat import ChatTemplate

webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not BROWSER or not DRIVER:
    pytest.skip("needs chromium and chromedriver, e.g. Debian's chromium-driver", allow_module_level=True)

PROMPT = "the <script>document.title = 'broken'</script> <b>theme</b> & мир"


class Page:
    """The page in a browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url, mode="text"):
        """Load it anew, and wait until it knows the model."""
        self.driver.get(url)
        wait_for(lambda: "context of 256 tokens" in self["model"].text)
        if mode == "chat":
            self.all("[value=chat]")[0].click()
        self.type("seed", "3")
        return self

    def __getitem__(self, name):
        return self.driver.find_element("id", name)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def type(self, name, text):
        self[name].clear()
        self[name].send_keys(text)

    def text(self, selector):
        """What an element holds, as the browser has it."""
        return self.driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)

    def wait_until_done(self):
        wait_for(lambda: self["go"].is_enabled())

    def generate(self, prompt, **settings):
        for name, value in settings.items():
            self.type(name, value)
        self.type("prompt", prompt)
        self["prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
        self.wait_until_done()

    def log(self):
        """What the browser's console has been told since the last call."""
        return "\n".join(entry["message"] for entry in self.driver.get_log("browser"))


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, server):
    driver.get_log("browser")
    yield Page(driver).open(server.url)
    assert "Content Security Policy" not in Page(driver).log()


@pytest.fixture
def held(thread, monkeypatch):
    """Steps of the engine wait once `held.left` more of them are done; `held.release()` ends that."""
    state, step, gate = SimpleNamespace(left=3), thread.engine.step, threading.Event()

    def step_or_wait():
        if state.left <= 0:
            gate.wait(20)
        state.left -= 1
        return step()

    state.release = gate.set
    monkeypatch.setattr(thread.engine, "step", step_or_wait)
    yield state
    gate.set()


def test_tokens_are_shown_as_they_come(page, server, held):
    page.type("max_tokens", "40")
    page.type("prompt", PROMPT)
    page["prompt"].send_keys(Keys.CONTROL, Keys.ENTER)
    wait_for(lambda: page.all(".answer span"))
    assert page["stop"].is_enabled()
    assert not page["go"].is_enabled()
    held.release()
    page.wait_until_done()
    body = {"prompt": PROMPT, "max_tokens": 40, "temperature": 0.8, "top_p": 0.95, "seed": 3}
    (choice,) = server.ask("/v1/completions", body).json()["choices"]
    assert page.text(".answer") == choice["text"]
    assert page.text(".said") == PROMPT
    assert not page.all("#text script, #text b")
    assert page.driver.title == "nemotron4"
    assert re.fullmatch(r"\d+ tokens, first after \d+ ms, [\d.]+ tokens/s( \(max tokens\))?", page["numbers"].text)
    assert page.text("#live") == f"Done, {page['numbers'].text.split()[0]} tokens. {choice['text']}"


def test_stop_keeps_what_came_and_frees_the_engine(page, server, held):
    page.type("prompt", "the theme of")
    page["go"].send_keys(Keys.ENTER)
    wait_for(lambda: page.all(".answer span"))
    assert page.driver.switch_to.active_element == page["stop"]  # the focus is not lost with the button
    page["stop"].send_keys(Keys.ENTER)
    page.wait_until_done()
    assert page.driver.switch_to.active_element == page["go"]
    text = page.text(".answer")
    assert text
    assert page["numbers"].text.endswith("(stopped)")
    held.release()
    wait_for(server.is_idle)
    assert page.text(".answer") == text
    page.generate("the", max_tokens="2")  # it still works
    assert page["numbers"].text.startswith("2 tokens")


def test_a_text_goes_on_where_it_ended(page):
    assert not page["more"].is_enabled()
    page.generate("the theme", max_tokens="6")
    text = "the theme" + page.text(".answer")
    page["more"].send_keys(Keys.ENTER)
    wait_for(lambda: page.text(".said") == text)
    page.wait_until_done()
    assert page["prompt"].get_attribute("value") == text
    assert page.text(".answer")
    assert page.driver.switch_to.active_element == page["go"]
    page["clear"].click()
    assert not page["more"].is_enabled()
    page["modes"].find_element("css selector", "[value=chat]").click()
    assert not page["more"].is_displayed()


def test_alternatives_by_keyboard_and_by_mouse(page, server):
    page.generate("the theme", max_tokens="12", temperature="0")
    body = {"prompt": "the theme", "max_tokens": 12, "temperature": 0, "logprobs": 5}
    logprobs = server.ask("/v1/completions", body).json()["choices"][0]["logprobs"]
    likeliest = sorted(logprobs["top_logprobs"][0].items(), key=lambda pair: -pair[1])
    page["shade"].click()
    page["prompt"].click()
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB * 2).key_up(Keys.SHIFT).perform()
    answer = page.driver.switch_to.active_element
    assert answer.get_attribute("class") == "answer"
    answer.send_keys(Keys.ARROW_RIGHT)
    rows = [row.text for row in page.all("#tip tr")]
    assert len(rows) == 5
    assert rows[0].endswith(f"{100 * math.exp(likeliest[0][1]):.1f} %")
    assert page.all("#tip tr.chosen")[0].text == rows[0]
    assert "Otherwise: " in page.text("#live")
    first = page.all(".answer .current")
    answer.send_keys(Keys.ARROW_RIGHT)
    assert page.all(".answer .current") != first
    answer.send_keys(Keys.HOME)
    assert page.all(".answer .current") == first
    answer.send_keys(Keys.ESCAPE)
    assert not page["tip"].is_displayed()
    ActionChains(page.driver).move_to_element(first[0]).perform()
    assert [row.text for row in page.all("#tip tr")] == rows
    assert page["tip"].is_displayed()


def test_a_chat_sends_its_history(page, server, thread, monkeypatch):
    prompts, add = [], thread.engine.add

    def add_recording(request, *rest):
        prompts.append(list(request.prompt_ids))
        return add(request, *rest)

    monkeypatch.setattr(thread.engine, "add", add_recording)
    page.open(server.url, mode="chat")
    page.type("max_tokens", "6")
    page.type("system", "Be brief.")
    for said in ("<i>of it</i>", "there"):
        page["prompt"].send_keys(said, Keys.ENTER)
        page.wait_until_done()
    first, second = (element.get_attribute("textContent") for element in page.all(".answer"))
    template = ChatTemplate.for_tokenizer(thread.engine.tokenizer)
    said = [("system", "Be brief."), ("user", "<i>of it</i>")]
    assert prompts == [
        template.encode(said),
        template.encode([*said, ("assistant", first), ("user", "there")]),
    ]
    assert second
    assert [element.text for element in page.all(".said")] == ["<i>of it</i>", "there"]
    assert page["prompt"].get_attribute("value") == ""


def test_errors_are_in_plain_words(page, server):
    page.generate("the", max_tokens="5000")
    assert page["error"].text.startswith(
        "Prompt and max tokens are more than the model can read. Shorten one of them. ("
    )
    page.generate("the", max_tokens="3")
    assert page["error"].text == ""
    server.served.draining = True
    try:
        page.generate("the")
        assert page["error"].text == "The server takes no requests now. (the server is about to stop)"
    finally:
        server.served.draining = False
    page.generate("   ")
    assert page["error"].text == "Type something first."
    page.type("top_p", "2")
    page.generate("the")
    assert page.driver.switch_to.active_element == page["top_p"]  # where the browser says what is wrong


def test_a_fault_within_a_stream_and_a_lost_server(page, thread, chat_dir, monkeypatch):
    step, steps = thread.engine.step, []

    def failing_step():
        steps.append(1)
        if len(steps) == 4:
            raise RuntimeError("seeded")
        return step()

    monkeypatch.setattr(thread.engine, "step", failing_step)
    with serving(thread, chat_dir) as server:
        page.open(server.url)
        page.generate("the")
        fault = "a fault of the server ended this request; its log says which"
        assert page["error"].text == f"The answer broke off. ({fault})"
    page.generate("the")
    assert page["error"].text == "The server does not answer. Is it still running?"


def test_a_key(page, thread, chat_dir):
    assert not page["key"].is_displayed()
    with serving(thread, chat_dir, api_key=b"secret") as server:
        page.driver.get(server.url)
        wait_for(lambda: page["error"].text == "The server wants an API key: type it into the settings.")
        page["key"].send_keys("secret", Keys.ENTER)
        wait_for(lambda: "context of 256 tokens" in page["model"].text)
        assert page["error"].text == ""
        page.generate("the", max_tokens="2")
        assert page["numbers"].text.startswith("2 tokens")


def test_everything_has_a_name_and_fits(page):
    page["modes"].find_element("css selector", "[value=chat]").click()
    named = page.all("input, textarea, button, section, aside")
    assert len(named) >= 14
    for element in named:
        assert element.accessible_name or not element.is_displayed(), element.get_attribute("outerHTML")
    for width in (360, 1200):
        page.driver.set_window_size(width, 900)
        assert page.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_the_policy_is_enforced(driver, server):
    page = Page(driver).open(server.url)
    page.log()
    page.driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)"
    )
    assert page.driver.title == "nemotron4"
    assert "Content Security Policy" in page.log()
