"""The report as a reader meets it: opened in headless Chromium at desktop and phone width."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from fibo_robot.reporting import FIGURE_STYLE, KeyNumber, Picture, Report, VideoClip
from tests.capabilities import CHROMIUM
from tests.video.clips import write_video

pytestmark = pytest.mark.browser

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-pipe",
]


class Browser:
    """A page in headless Chromium, driven over the DevTools protocol's pipe (JSON messages ended by NUL)."""

    def __init__(self, profile: Path) -> None:
        commands_read, self._commands = os.pipe()
        self._answers, answers_write = os.pipe()
        # DevTools reads file descriptor 3 and writes to 4.
        launch = f'exec "$0" "$@" 3<&{commands_read} 4>&{answers_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", launch, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands_read, answers_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_read)
        os.close(answers_write)
        self._buffer = b""
        self._next_id = 0
        self._session: str | None = None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict:
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._next_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            part = os.read(self._answers, 1 << 16)
            assert part, "Chromium ended before it answered"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path, width: int, height: int = 900, dark: bool = False) -> None:
        self.events.clear()
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def complaints(self) -> list[str]:
        """Console errors, exceptions, and refused or failed requests since the page was opened."""
        found = []
        for event in self.events:
            params = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(str(params["exceptionDetails"]))
                case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                    found.append(params["entry"]["text"])
                case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                    found.append(str(params["args"]))
        return found

    def requests(self) -> list[str]:
        sent = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def write_film(path: Path, frames: int = 30) -> Path:
    pictures = np.full((frames, 96, 96, 3), 200, np.uint8)
    for index, picture in enumerate(pictures):
        picture[30:60, index : index + 20] = (200, 30, 30)
    return write_video(path, pictures, rate=20)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of block, and contents too wide for a phone in each."""
    folder = tmp_path_factory.mktemp("report")
    report = Report("A_title_without_any_space_" * 4, "What ran, in one sentence.")
    result = report.section("Result", "Twenty fresh seeds.")
    result.key_numbers(
        [KeyNumber(f"Number {i}", f"{i * 11} %", "95 % interval 64 to 95 %") for i in range(5)]
    )
    result.note("Software rendering.", "warning")
    curves = report.section("Curves")
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure()
        axes = figure.add_subplot(xlabel="epoch", ylabel="loss")
        axes.plot(range(50), np.exp(-np.arange(50) / 10), label="training")
        axes.legend()
    curves.figure(figure, "Loss per epoch")
    rollouts = report.section("Rollouts")
    video = write_film(folder / "episode.mp4")
    rollouts.videos([VideoClip(video, f"seed {i}", success=i % 2 == 0) for i in range(3)])
    rollouts.table([{f"column {i}": "a long value" for i in range(12)}] * 3, caption="Wide")
    masks = report.section("Masks", "Which keys a query sees.")
    masks.images([Picture(np.eye(50, dtype=np.uint8) * 255, f"head {i}") for i in range(3)])
    masks.image(np.zeros((200, 1600, 3), np.uint8), "A wide picture")
    masks.images([Picture(np.zeros((90, 900, 3), np.uint8), "Heads")], "Every head", collapsed=True)
    masks.figure(figure, "Another loss, folded away", collapsed=True)
    report.section("Config").text("word " * 80 + "x" * 300).config("key: " + "value " * 80)
    return report.save(folder / "report.html")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_page_opens_without_complaint_and_requests_nothing(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, dark=dark)
    browser.evaluate("new Promise(done => setTimeout(done, 300))")
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_nothing_is_cut_off(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # Outside the parts that scroll inside themselves, every element lies within the screen.
    outside = browser.evaluate(
        """[...document.querySelectorAll('body *')]
           .filter(e => !e.closest('svg') && !e.parentElement.closest('.scroll, pre'))
           .filter(e => { const b = e.getBoundingClientRect();
                          return b.width > 0 && (b.left < -0.5 || b.right > innerWidth + 0.5) })
           .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []
    cut_text = browser.evaluate(
        """[...document.querySelectorAll('h1, p, dt, dd, figcaption, .badge')]
           .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != 'inline')
           .map(e => e.textContent.slice(0, 40))"""
    )
    assert cut_text == []
    if width < 600:
        assert browser.evaluate("document.querySelector('.scroll').scrollWidth > innerWidth")


def test_every_video_plays_to_its_end(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    ended = browser.evaluate(
        """Promise.all([...document.querySelectorAll('video')].map(video => {
             video.loop = false;
             video.playbackRate = 4;
             return new Promise(done => {
               video.onended = () => done([video.videoWidth, video.videoHeight, video.currentTime]);
               video.onerror = () => done(video.error.message);
               setTimeout(() => done('did not end'), 8000);
               video.play().catch(error => done(String(error)));
             });
           }))"""
    )
    assert len(ended) == 3
    for width_height_time in ended:
        assert width_height_time == [96, 96, pytest.approx(1.5, abs=0.1)]


def test_every_picture_is_decoded(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    assert browser.evaluate("[...document.images].map(i => i.naturalWidth)") == [50, 50, 50, 1600, 900]


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(browser: Browser, page: Path, dark: bool) -> None:
    """WCAG contrast of at least 4.5 for all text, the figures' labels included."""
    browser.open(page, 1280, dark=dark)
    ratios = browser.evaluate(
        """(() => {
          const parse = c => c.match(/[\\d.]+/g).map(Number);
          const channel = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
          const luminance = c => {
            const [r, g, b] = parse(c).map(channel);
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const ground = e => {
            for (; e; e = e.parentElement) {
              const c = getComputedStyle(e).backgroundColor, a = parse(c)[3];
              if (a === undefined || a > 0) return c;
            }
          };
          const ratio = (e, colour) => {
            const [a, b] = [luminance(colour), luminance(ground(e))].sort((x, y) => y - x);
            return (a + .05) / (b + .05);
          };
          const texts = [...document.querySelectorAll(
              'h1, h2, p, dt, dd, a, td, th, caption, figcaption, summary, code, .badge, footer')]
            .map(e => [e.tagName + ' ' + e.className, ratio(e, getComputedStyle(e).color)]);
          const labels = [...document.querySelectorAll('.plot svg [id*="text_"] g')]
            .map(e => ['plot label', ratio(e, getComputedStyle(e).fill)]);
          return texts.concat(labels);
        })()"""
    )
    assert sum(name == "plot label" for name, _ in ratios) > 5
    assert [(name, round(ratio, 2)) for name, ratio in ratios if ratio < 4.5] == []
