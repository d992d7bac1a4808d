"""Does a renderer draw here? Asked in a process of its own: a broken driver aborts the one that asks."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fibo_robot.envs.rendering.renderer import create_renderer
from fibo_robot.envs.rendering.settings import FIXES, RENDERERS, RenderQuality, prepare_rendering
from fibo_robot.envs.untyped import import_mujoco
from fibo_robot.errors import FiboError

_SCENE = (
    "<mujoco><worldbody><light pos='0 0 3'/><camera name='top' pos='0 0 2'/>"
    "<geom type='sphere' size='.5' rgba='1 0 0 1' group='1'/></worldbody></mujoco>"
)


@dataclass(frozen=True)
class RendererProbe:
    """Whether one renderer draws here.

    Attributes:
        name: the renderer.
        ok: it drew a sphere.
        detail: what went wrong, or nothing.
        fix: what to install, or nothing.
    """

    name: str
    ok: bool
    detail: str
    fix: str


def probe_renderers(names: Sequence[str] = RENDERERS, timeout: float = 300.0) -> list[RendererProbe]:
    """Draw a sphere with each renderer, side by side in processes of their own: a broken driver aborts one.

    Args:
        names: which renderers.
        timeout: seconds per renderer; Warp compiles its kernels on the first run.
    """
    with ThreadPoolExecutor(max(len(names), 1)) as pool:
        return list(pool.map(lambda name: _probe_renderer(name, timeout), names))


def _probe_renderer(name: str, timeout: float) -> RendererProbe:
    command = [sys.executable, "-m", "fibo_robot.envs.rendering.probe", name]
    environment = {**os.environ, "MUJOCO_GL": "disable" if name == "warp" else name}
    environment.pop("PYOPENGL_PLATFORM", None)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return RendererProbe(name, False, f"gave no picture within {timeout:.0f} s", FIXES[name])
    if done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["ok"]:
        return RendererProbe(name, True, "", "")
    reason = (done.stderr.strip().splitlines() or ["drew an empty picture"])[-1]
    return RendererProbe(name, False, reason, FIXES[name])


def _draw_scene(name: str) -> bool:
    prepare_rendering(name)
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(_SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    renderer = create_renderer(model, name, RenderQuality())
    image = renderer.render(data, "top", 32, 32)
    renderer.close()
    return bool(image[16, 16, 0] > image[16, 16, 1] + 20)


if __name__ == "__main__":
    try:
        print(json.dumps({"ok": _draw_scene(sys.argv[1])}))
    except FiboError as error:
        sys.exit(str(error))
