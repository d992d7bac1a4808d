"""`fibo doctor`: what works on this machine, and how to mend what does not."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from fibo_robot.cli.json_result import JsonFile, write_result

if TYPE_CHECKING:
    from fibo_robot.doctor import Check


def register(app: typer.Typer) -> None:
    """Add `doctor` to the command."""

    @app.command()
    def doctor(
        json_file: JsonFile = None,
        full: Annotated[
            bool,
            typer.Option("--full", help="Draw with Warp, too; compiling its kernels takes minutes."),
        ] = False,
    ) -> None:
        """Check versions, rendering, video decoders and devices; exit status 1 if something needed fails."""
        from concurrent.futures import ThreadPoolExecutor
        from dataclasses import asdict

        from rich.console import Console

        from fibo_robot.doctor import run_checks

        # Each check waits for a process of its own.
        with Console(stderr=True).status("Trying everything ..."), ThreadPoolExecutor() as pool:
            machine, rendering = pool.submit(run_checks), pool.submit(check_rendering, full)
            checks = [*machine.result(), *rendering.result()]
        ok = all(check.ok for check in checks if check.needed)
        if json_file is not None:
            write_result(json_file, {"ok": ok, "checks": [asdict(check) for check in checks]})
        if json_file != "-":
            _print_table(checks, ok)
        raise typer.Exit(0 if ok else 1)


def check_rendering(full: bool = False) -> "list[Check]":
    """Every rendering back end; one that draws OpenGL's pictures (egl or osmesa) is enough.

    Args:
        full: draw with Warp, too; else only look whether it is installed.
    """
    from fibo_robot.doctor import Check, check_warp_installed
    from fibo_robot.envs.rendering.probe import probe_renderers
    from fibo_robot.envs.rendering.settings import FIXES, RENDERERS

    tried = RENDERERS if full else tuple(name for name in RENDERERS if name != "warp")
    probes = probe_renderers(tried)
    has_simulator = find_spec("mujoco") is not None  # what draws; without it nothing else is amiss
    has_opengl = any(probe.ok for probe in probes if probe.name in ("egl", "osmesa"))
    checks = [
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
    return checks if full else [*checks, check_warp_installed(FIXES["warp"])]


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
