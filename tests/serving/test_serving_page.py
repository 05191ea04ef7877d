"""The page, driven in Chromium; what it shows is compared with what the predictor and NumPy say."""

import base64
import io

import numpy as np
import pytest
import serve
from conftest import CLASSES
from PIL import Image

import tfsoftmax
from tfsoftmax.exporting.reference import Reference

pytestmark = pytest.mark.browser


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end, nothing may have been said on the console."""
    contexts, said = [], []

    def open_one(url=server.url, width=1200, height=900, scheme="light", wait="#answer strong"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith((url, "blob:", "data:")) or said.append(request.url))
        page.goto(url)
        if url == server.url and wait == "#answer strong":
            page.wait_for_selector("#answer")
            page.select_option("#model", "tiny")
        page.wait_for_selector(wait)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert said == [], "console messages, page errors or requests to elsewhere"


@pytest.fixture(scope="module")
def reference(served):
    return Reference.read(served / "tiny" / "1")


def wait(page, condition):
    """Wait until JavaScript says so. (Playwright's own waiting needs eval, which the page's policy forbids.)"""
    serve.until(lambda: page.evaluate(condition))


def settled(page, label=None):
    """Wait for the answer to the last action; (label, probabilities as the page prints them)."""
    page.wait_for_load_state("networkidle")
    if label is not None:
        serve.until(lambda: page.inner_text("#answer strong") == label)
    return page.inner_text("#answer strong"), page.locator("#bars output").all_inner_texts()


def percents(probabilities):
    """As the page prints them, the largest first."""
    return [f"{100 * p:.1f}%" for p in sorted(probabilities, reverse=True)]


def signed(x):
    return ("+" if x >= 0 else "\N{MINUS SIGN}") + f"{abs(x):.3f}"


def wait_for(page, raw, predictor):
    """Wait until the page shows the predictor's answer for this input."""
    wanted = percents(predictor["tiny"](raw)["probabilities"][0].tolist())
    serve.until(lambda: page.locator("#bars output").all_inner_texts() == wanted)


def pixels(page, name):
    """The canvas as (height, width, 3)."""
    url = page.evaluate(f"document.querySelector('#{name}').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def test_samples_bars_and_exact_evidence(open_page, predictor, reference):
    page = open_page()
    labelled = reference.raw[reference.y >= 0]
    samples = page.locator("#samples button")
    assert samples.count() >= 3 * len(CLASSES) - 2
    for i in (0, 4, samples.count() - 1):
        with page.expect_response(lambda response: ":explain" in response.url) as response:
            samples.nth(i).click()
        raw = np.array([response.value.json()["explanations"][0]["input"]], np.uint8)
        serve.until(lambda raw=raw: np.array_equal(pixels(page, "draw"), np.repeat(raw[0][..., None], 3, 2)))
        assert (labelled == raw).all(axis=(1, 2)).any(), "one of the reference rows"
        wait_for(page, raw, predictor)
        answer = predictor["tiny"](raw)
        label, _ = settled(page)
        assert label == answer["label"][0]
        # the evidence, by NumPy from the weights
        second, first = np.argsort(answer["logits"][0])[-2:]
        kernel = reference.kernel.astype(float)
        evidence = raw.ravel() / 255 * (kernel[:, first] - kernel[:, second])
        bias = float(reference.bias[first]) - float(reference.bias[second])
        figures = [page.inner_text(f"#{name}") for name in ("total", "bias", "margin")]
        assert figures == [
            signed(evidence.sum()),
            signed(bias),
            signed(float(np.diff(np.sort(answer["logits"][0]))[-1])),
        ]
        assert abs(evidence.sum() + bias - float(np.diff(np.sort(answer["logits"][0]))[-1])) < 1e-4
        drawn = pixels(page, "evidence").astype(int)
        bluer = (drawn[..., 2] > drawn[..., 0]).ravel()
        strong = np.abs(evidence) > 0.2 * np.abs(evidence).max()
        np.testing.assert_array_equal(bluer[strong], evidence[strong] > 0)


def test_model_card_and_templates(open_page, finished):
    page = open_page()
    card = page.inner_text("#card")
    metrics = finished[0].metrics
    assert f"{100 * metrics['test']['accuracy']:.1f}%" in card
    assert f"{metrics['val']['loss']:.4f}" in card
    assert "ONNX Runtime" in card
    assert page.locator("#templates figcaption").all_inner_texts() == list(CLASSES)
    assert "version 1" in page.inner_text("#served")


def test_drawing_with_the_mouse(open_page):
    page = open_page()
    box = page.locator("#draw").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 200, steps=5)
    page.mouse.up()
    wait(page, "document.querySelector('#draw').width === 5")
    seen = pixels(page, "draw")[..., 0]
    assert seen.max() > 100
    assert seen[0, -1] == 0
    assert seen[2, 2] > seen[5, 0]
    page.click("#clear")
    assert pixels(page, "draw").max() == 0


def test_drawing_and_choosing_with_the_keyboard(open_page):
    page = open_page()
    page.focus("#draw")
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    page.keyboard.down("Space")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.keyboard.up("Space")
    wait(page, "document.querySelector('#draw').width === 5")
    seen = pixels(page, "draw")[..., 0]
    assert seen[3, 2] > 100
    assert seen[3, 0] == 0
    page.focus("#samples button")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#samples button:nth-child(2)[aria-pressed=true]")
    # everything that can be used is reached by Tab
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
    assert {"model", "draw", "clear", "file", "invert", "samples"} <= reached


def transfer(page, event, content, kind):
    """Drop or paste a file, as the browser would."""
    page.evaluate(
        """([event, content, type]) => {
            const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "x", { type }));
            const made = event === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.body.dispatchEvent(made);
        }""",
        [event, base64.b64encode(content).decode(), kind],
    )


def encoded(array, kind):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, quality=95, lossless=True)
    return stream.getvalue()


@pytest.mark.parametrize(("event", "kind"), [("drop", "png"), ("paste", "jpeg"), ("paste", "webp")])
def test_dropping_and_pasting(open_page, predictor, event, kind):
    page = open_page()
    bright = np.full((60, 50), 230, np.uint8)
    bright[20:40, 10:40] = 40
    transfer(page, event, encoded(bright, kind), f"image/{kind}")
    wait(page, "document.querySelector('#invert').checked")
    page.wait_for_load_state("networkidle")
    seen = pixels(page, "draw")[..., 0]
    assert (seen[3, 2] > 190, seen[0, 0] < 40) == (True, True), "a bright edge: turned light on dark"
    wait_for(page, seen[None], predictor)
    page.uncheck("#invert")
    serve.until(lambda: pixels(page, "draw")[0, 0, 0] > 200)


def test_what_is_not_a_picture(open_page):
    page = open_page()
    transfer(page, "drop", b"not a picture", "text/plain")
    page.wait_for_selector("#problem:not([hidden])")
    assert "is not a picture" in page.inner_text("#problem")
    page.locator("#samples button").first.click()
    page.wait_for_selector("#problem", state="hidden")


def test_tables_have_fields(open_page, predictor):
    page = open_page()
    page.select_option("#model", "table")
    page.wait_for_selector("#features input")
    assert page.locator("#draw").is_hidden()
    row = [0.5, -1.0, 2.0, 3.25]
    for field, value in zip(page.locator("#features input").all(), row, strict=True):
        field.fill(str(value))
    page.click("#features button")
    page.wait_for_selector("#answer strong")
    answer = predictor["table"](np.float32([row]))
    assert settled(page, answer["label"][0])[1] == percents(answer["probabilities"][0].tolist())


def test_a_key_is_asked_for(browser, served, tmp_path):
    (tmp_path / "keys").write_text("correct-horse-battery\n")
    with serve.Server(served / "tiny", "--api-key-file", tmp_path / "keys") as keyed:
        page = browser.new_page()
        page.goto(keyed.url)
        page.fill("#key input", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#problem:not([hidden])")
        page.fill("#key input", "correct-horse-battery")
        page.keyboard.press("Enter")
        page.wait_for_selector("#answer strong")
        assert page.locator("#key").is_hidden()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1600])
def test_any_width_and_both_schemes(open_page, tmp_path, width, scheme):
    page = open_page(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 384) == (scheme == "light")
    if width == 390:  # a finger
        page.locator("#samples button").nth(2).tap()
        page.wait_for_selector("#samples button:nth-child(3)[aria-pressed=true]")
    picture = page.screenshot(full_page=True, path=tmp_path / "page.png")  # kept by pytest, to be looked at
    assert len(np.unique(np.asarray(Image.open(io.BytesIO(picture)).convert("L")))) > 20


def test_names_of_any_length_and_direction(open_page, tmp_path):
    """They keep inside the page at any width, and turn nothing but themselves."""
    names = ("<b>bold</b>", "left \u202eright", "L" * 1000)
    spec = tfsoftmax.ModelSpec("odd", (2,), "float32", names, "unit", 0.0, 1.0)
    kernel, bias = np.array([[3, 2, 0], [0, 1, 9]], np.float32), np.zeros(3, np.float32)
    serve.write_version(tmp_path / "odd", 1, spec, kernel, bias)
    with serve.Server(tmp_path) as running:
        for width in (1200, 400):
            page = open_page(running.url, width=width, wait="#features input")
            page.locator("#features input").first.fill("1")
            page.click("#features button")
            settled(page, "<b>bold</b>")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.locator("#answer bdi").all_inner_texts() == [names[1]]  # whose direction ends with it
            page.locator("#features input").last.fill("1")
            page.click("#features button")
            settled(page, names[2])
            assert page.evaluate("document.documentElement.scrollWidth") <= width
