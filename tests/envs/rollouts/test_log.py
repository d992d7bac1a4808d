"""The log of finished episodes, where something else stands in it."""

import pytest

from fibo_robot.envs.errors import EvaluationError
from fibo_robot.envs.rollouts.log import LOG_FILE, EpisodeLog


@pytest.mark.parametrize("line", ['{"episode": {}}', "3", '{"other": 1}', '{"session": {"wall": 1}}'])
def test_a_log_that_holds_something_else_is_not_continued(line, tmp_path):
    (tmp_path / LOG_FILE).write_text(f'{{"header": {{}}}}\n{line}\n')
    with pytest.raises(EvaluationError, match=f"{LOG_FILE} is damaged"):
        EpisodeLog(tmp_path, {}, resume=True)
