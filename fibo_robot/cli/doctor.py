"""`fibo doctor`: what works on this machine, and how to mend what does not."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from fibo_robot.cli.json_result import JsonFile, write_result

if TYPE_CHECKING:
    from fibo_robot.doctor import Check


def register(app: typer.Typer) -> None:
    """Add `doctor` to the command."""

    @app.command()
    def doctor(json_file: JsonFile = None) -> None:
        """Check versions, rendering, video decoders and devices; exit status 1 if something needed fails."""
        from concurrent.futures import ThreadPoolExecutor
        from dataclasses import asdict

        from rich.console import Console

        from fibo_robot.doctor import run_checks

        # Each check waits for a process; Warp's first one compiles its kernels for a minute or more.
        with Console(stderr=True).status("Trying everything ..."), ThreadPoolExecutor() as pool:
            machine, rendering = pool.submit(run_checks), pool.submit(check_rendering)
            checks = [*machine.result(), *rendering.result()]
        ok = all(check.ok for check in checks if check.needed)
        if json_file is not None:
            write_result(json_file, {"ok": ok, "checks": [asdict(check) for check in checks]})
        if json_file != "-":
            _print_table(checks, ok)
        raise typer.Exit(0 if ok else 1)


def check_rendering() -> "list[Check]":
    """Every rendering back end, tried; one that draws OpenGL's pictures (egl or osmesa) is enough."""
    from fibo_robot.doctor import Check
    from fibo_robot.envs.simulation.rendering import probe_renderers

    probes = probe_renderers()
    has_simulator = find_spec("mujoco") is not None  # what draws; without it nothing else is amiss
    has_opengl = any(probe.ok for probe in probes if probe.name in ("egl", "osmesa"))
    return [
        Check(
            "rendering",
            probe.name,
            probe.ok,
            probe.detail or "draws",
            probe.fix if has_simulator else "pip install 'fibo-robot[sim]'",
            needed=probe.name == "egl" and not has_opengl and has_simulator,
        )
        for probe in probes
    ]


def _print_table(checks: "list[Check]", ok: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("group", "name", "result"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    previous = ""
    for check in checks:
        result = (
            "[green]ok[/]" if check.ok else ("[red]missing[/]" if check.needed else "[yellow]optional[/]")
        )
        group = "" if check.group == previous else f"[bold]{check.group}[/]"
        fix = f"\n-> {escape(check.fix)}" if check.fix else ""
        table.add_row(group, check.name, result, escape(check.detail) + fix)
        previous = check.group
    console.print(table)
    console.print(
        "\nEverything needed works." if ok else "\nSomething needed is missing; each -> says what to do."
    )
