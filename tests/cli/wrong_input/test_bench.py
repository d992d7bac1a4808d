"""`fibo bench` of nothing, or into a file that cannot be written."""

from pathlib import Path

import pytest

from tests.cli.wrong_input.refusals import refused


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("policy", "--policies", "bc"), "--batches"),
        (("attention",), "--tokens"),
    ],
)
@pytest.mark.parametrize("number", ["0", "4,-1"])
def test_a_benchmark_of_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str, number: str
) -> None:
    assert f"{option} must be at least 1" in refused(capsys, "bench", *command, option, number)


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_results_that_could_not_be_written_are_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    def measure(*_: object) -> None:
        raise AssertionError("minutes of work for nothing")

    monkeypatch.setattr("fibo_robot.benchmarks.attention.sweep.measure", measure)
    Path("file").touch()
    for output, reason in (("file/rows", "exists"), (".", "directory")):
        assert reason in refused(capsys, "bench", "attention", option, output), output
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_a_study_without_a_finished_run_has_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No run is finished in runs/study/small" in refused(capsys, "bench", "study")
