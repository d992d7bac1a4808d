"""One self-contained HTML page that shows what a run did: numbers, tables, figures, pictures and videos.

The page opens offline and on a phone; it knows nothing of tasks or models. Training, evaluation and
comparison fill it::

    report = Report("Lift with Fibottention", subtitle="20 episodes")
    section = report.section("Result", "Fresh seeds, never seen in training.")
    section.key_numbers([KeyNumber("Success rate", "85 %", "17 of 20, 95 % interval 64 to 95 %")])
    section.videos([VideoClip("episode_0.mp4", "Seed 1000", success=True)])
    report.save("report.html")
"""

from fibo_robot.reporting.media import FIGURE_STYLE
from fibo_robot.reporting.report import KeyNumber, Picture, Report, ReportError, Section, VideoClip

__all__ = ["FIGURE_STYLE", "KeyNumber", "Picture", "Report", "ReportError", "Section", "VideoClip"]
