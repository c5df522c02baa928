"""The dashboard as code: ``python -m peftbench.tracking.dashboard --sweep NAME [--print]``.

Creates, or brings up to date, a workspace and a report of one sweep in your W&B project. Exit status: 0 done, 1 W&B
would not, 2 something to put right here first (no key, package missing, a name).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peftbench.component import LETTERS
from peftbench.console import print_anything
from peftbench.errors import UserError
from peftbench.glossary import EVALUATION, NAMES
from peftbench.tracking.server import authenticated, default_entity, quiet_setup, reachable

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

    from peftbench.tracking.panels import Place


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the dashboard's specification, or put it into W&B; the exit status."""
    print_anything()
    options = _parser().parse_args(arguments)
    try:
        _refuse_unknown(options.sweep, options.quality)
        if importlib.util.find_spec("wandb_workspaces") is None:
            raise UserError("the dashboard needs wandb-workspaces: pip install 'peftbench[dashboard]'")
        os.environ.pop("WANDB_MODE", None)  # offline is for runs
        quiet_setup()
        if options.print:
            print(json.dumps(specification(_place(options, entity="")), indent=1))
            return 0
        if not authenticated():
            raise UserError("no W&B key is configured: run `wandb login` or set WANDB_API_KEY")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        for url in publish(options):
            print(url)
    except Exception as error:
        print(" ".join(str(error).split())[:300], file=sys.stderr)
        return 1
    return 0


def _refuse_unknown(sweep: str, quality: str) -> None:
    """Look at what would make a dashboard without runs, or panels without points.

    Raises:
        UserError: no sweep can have this name, or no run this figure of quality.
    """
    if re.fullmatch(f"[{LETTERS}]+", sweep) is None:
        raise UserError(f"--sweep {sweep!r} is no name of a sweep, which is that of its folder: write one like demo")
    if quality not in (known := [name for name in NAMES if name.startswith(EVALUATION)]):
        raise UserError(f"--quality {quality!r} is no figure of quality: write one of {', '.join(known)}")


def specification(place: Place) -> dict[str, Any]:
    """What W&B is sent of workspace and report, as plain data; no server is asked if ``place`` has no entity."""
    from peftbench.tracking.panels import report, workspace

    view = workspace(place)._to_model()
    page = report(place)._to_model()

    def plain(spec: Any) -> Any:
        return spec.model_dump(by_alias=True, exclude_none=True, mode="json")

    return {
        "workspace": {"name": view.display_name, "spec": plain(view.spec)},
        "report": {"title": page.display_name, "spec": plain(page.spec)},
    }


def publish(options: argparse.Namespace) -> list[str]:
    """Create or update workspace and report; their addresses.

    Raises:
        UserError: the server cannot be reached, or has no such project.
    """
    import wandb

    base = wandb.setup().settings.base_url
    if not reachable(base):
        raise UserError(f"W&B at {base} cannot be reached")
    from peftbench.tracking.panels import report, workspace

    os.environ["WANDB_SILENT"] = "true"  # the package says on its own what we print
    api = wandb.Api()
    place = _place(options, options.entity or default_entity(api))
    reports = _reports(api, place)
    shown, page = workspace(place), report(place)
    _adopt(shown, place)
    page.id = reports.get(page.title, "")
    shown.save()
    page.save()
    return [f"workspace {shown.url}", f"report {page.url}"]


def _adopt(shown: Workspace, place: Place) -> None:
    """Give ``shown`` the name that this sweep's workspace always has, and the id of the one that is there already."""
    from wandb_workspaces.workspaces.internal import View

    shown._internal_name = place.view_name
    try:
        shown._internal_id = View.from_name(place.entity, place.project, place.view_name).id
    except ValueError:  # none there yet
        shown._internal_id = ""


def _reports(api: Any, place: Place) -> dict[str, str]:
    """Ids of the reports in the project by their titles.

    Raises:
        UserError: there is no such project.
    """
    path = f"{place.entity}/{place.project}"
    try:
        return {report.display_name: report.id for report in api.reports(path)}
    except ValueError as error:
        raise UserError(f"there is no W&B project {path}: track a run with tracker=wandb, or `make sync`") from error


def _place(options: argparse.Namespace, entity: str) -> Place:
    from peftbench.tracking.panels import Place

    return Place(entity, options.project, options.sweep, options.quality)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m peftbench.tracking.dashboard", description="A W&B workspace and report for a sweep."
    )
    parser.add_argument("--sweep", required=True, metavar="NAME", help="the sweep, which is the group of its runs")
    project = os.environ.get("WANDB_PROJECT") or "peftbench"
    parser.add_argument("--project", default=project, help="W&B project (default: $WANDB_PROJECT, or peftbench)")
    parser.add_argument("--entity", help="W&B user or team (default: $WANDB_ENTITY, or yours)")
    parser.add_argument(
        "--quality", default="quality/accuracy", metavar="FIGURE", help="what is compared (default: %(default)s)"
    )
    parser.add_argument("--print", action="store_true", help="print the specification as JSON, without a server")
    return parser


if __name__ == "__main__":
    sys.exit(main())
