"""What the W&B server of the tests holds, and its answers to the GraphQL operations that W&B's clients send."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

ENTITY = "tester"


@dataclass
class TrackedRun:
    """What the server holds of one run."""

    name: str
    project: str
    entity: str = ENTITY
    group: str | None = None
    display_name: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Every history row, in the order of arrival."""
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    upserts: int = 0

    def points(self) -> list[dict[str, Any]]:
        """History without W&B's own columns, one row a step."""
        last = {row["_step"]: row for row in self.rows}
        return [{key: value for key, value in last[step].items() if not key.startswith("_")} for step in sorted(last)]

    @property
    def state(self) -> str:
        """What W&B calls it."""
        return {None: "running", 0: "finished"}.get(self.exit_code, "failed")

    def values(self) -> dict[str, Any]:
        """Summary without W&B's own entries."""
        return {key: value for key, value in self.summary.items() if not key.startswith("_")}

    def settings(self) -> dict[str, Any]:
        """Configuration without W&B's own entry, unwrapped."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


@dataclass
class StoredArtifact:
    """An artifact as far as its upload tells."""

    id: str
    name: str
    type: str
    run: str
    digest: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


_ENTITY = {"entity": {"id": "e1", "name": ENTITY}}


def operation_of(query: str) -> str:
    """Name of a GraphQL operation."""
    found = re.search(r"(?:query|mutation)\s+(\w+)", query)
    return found.group(1) if found else "anonymous"


class Operations:
    """One method an operation. All that was sent is in `runs`, `artifacts` and `views`."""

    url: str

    def __init__(self) -> None:
        self.runs: dict[str, TrackedRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.unknown: list[str] = []

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = operation_of(query)
        method = getattr(self, f"do_{operation.lower()}", None)
        if method is None:
            self.unknown.append(operation)
            return {"errors": [{"message": f"the test server does not know {operation}"}]}
        try:
            return {"data": method(variables)}
        except (KeyError, TypeError) as error:  # the client has changed its mind about the operation's variables
            self.unknown.append(f"{operation}: {error!r} with {sorted(variables)}")
            return {"errors": [{"message": self.unknown[-1]}]}

    def do_viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u1", "entity": ENTITY, "username": ENTITY, "email": "t@example.org", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}}}

    do_getdefaultentity = do_probe = do_viewer

    def do_serverfeaturesquery(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def do_organizationcoreweaveorganizationid(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def do_runstoppedstatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"run": {"stopped": False}}}

    def do_upsertbucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name, project = variables.get("name") or variables["id"].removeprefix("id-"), variables.get("project")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, TrackedRun(name, project, variables.get("entity") or ENTITY))
        run.upserts += 1
        for given, kept in (("groupName", "group"), ("displayName", "display_name"), ("tags", "tags")):
            if variables.get(given) is not None:
                setattr(run, kept, variables[given])
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        if variables.get("summaryMetrics"):
            run.summary = json.loads(variables["summaryMetrics"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def do_runresumestatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = self._bucket(run) if run else None
        return {"model": {"id": "p1", "name": variables["project"], **_ENTITY, "bucket": bucket}}

    def _bucket(self, run: TrackedRun) -> dict[str, Any]:
        tail = [json.dumps(row) for row in run.rows[-1:]]
        return {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.display_name,
            "description": None,
            "sweepName": None,
            "notes": None,
            "tags": run.tags,
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.rows),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": 1}) if run.config else None,
            "project": {"id": "p1", "name": run.project, "entity": {"id": "e1", "name": run.entity}},
        }

    def do_createrunfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/files/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"id-{run}", "uploadHeaders": [], "files": files}}

    def do_run(self, variables: dict[str, Any]) -> dict[str, Any]:
        """What ``wandb.Api().run`` asks for; of whom nothing was uploaded there is no such project."""
        run = self.runs.get(variables["name"])
        if run is None or (run.entity, run.project) != (variables["entity"], variables["project"]):
            return {"project": None}
        facts = dict.fromkeys(("jobType", "commit", "createdAt", "heartbeatAt", "systemMetrics", "historyKeys"))
        user = {"name": ENTITY, "username": ENTITY}
        more = {"state": run.state, "group": run.group, "readOnly": False, "user": user, "projectId": "1"}
        return {"project": {"internalId": "1", "run": {**facts, **self._bucket(run), **more}}}

    # -- views: workspaces and reports --------------------------------------------------------------------------------

    def do_projectinternalid(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "p1", "internalId": "1"}}

    def do_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._views("project-view", variables.get("viewName"))

    def do_projectviews(self, variables: dict[str, Any]) -> dict[str, Any]:
        return self._views(variables.get("viewType") or "runs", variables.get("viewName"))

    def _views(self, kind: str, name: str | None) -> dict[str, Any]:
        if not self.runs:
            return {"project": None}
        found = [view for view in self.views.values() if view["type"] == kind and name in (None, view["name"])]
        page = {"endCursor": None, "hasNextPage": False}
        return {"project": {"allViews": {"edges": [{"node": view, "cursor": ""} for view in found], "pageInfo": page}}}

    def do_upsertview(self, variables: dict[str, Any]) -> dict[str, Any]:
        """By its id, else a new one: the real server does not look for another of that name."""
        key = variables.get("id") or f"v{len(self.views)}"
        inserted = key not in self.views
        kept = {name: variables.get(name) for name in ("type", "name", "displayName", "description", "spec")}
        project = {"id": "p1", "name": variables["projectName"], "entityName": variables["entityName"]}
        self.views[key] = {**kept, "id": key, "project": project, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": self.views[key], "inserted": inserted}}

    do_upsertview2 = do_upsertview

    def do_getprojects(self, variables: dict[str, Any]) -> dict[str, Any]:
        facts = {
            "id": "p1",
            "entityName": ENTITY,
            "createdAt": "2026-01-01T00:00:00Z",
            "isBenchmark": False,
            "user": None,
        }
        edges = [{"node": {**facts, "name": name}} for name in sorted({run.project for run in self.runs.values()})]
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": edges, "pageInfo": page}}

    # -- artifacts ----------------------------------------------------------------------------------------------------

    def do_createartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        key = f"a{len(self.artifacts)}"
        for held in self.artifacts.values():
            if (held.name, held.digest) == (given["artifactCollectionName"], given["digest"]):
                key = held.id
        new = StoredArtifact(
            key, given["artifactCollectionName"], given["artifactTypeName"], given["runName"], given["digest"]
        )
        artifact = self.artifacts.setdefault(key, new)
        state = "COMMITTED" if artifact.committed else "PENDING"
        return {"createArtifact": {"artifact": {"id": key, "state": state, "artifactSequence": {}}}}

    def do_createartifactmanifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createArtifactManifest": self._manifest(variables["artifactID"])}

    def do_updateartifactmanifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"updateArtifactManifest": self._manifest(variables["artifactManifestID"].removeprefix("m-"))}

    def _manifest(self, key: str) -> dict[str, Any]:
        file = {"id": f"f-{key}", "uploadUrl": f"{self.url}/artifacts/{key}/MANIFEST", "uploadHeaders": []}
        return {"artifactManifest": {"id": f"m-{key}", "file": file}}

    def do_createartifactfiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in variables["input"]["artifactFiles"]:
            url = f"{self.url}/artifacts/{file['artifactID']}/{file['name']}"
            node = {"storagePath": file["name"], "uploadUrl": url, "uploadHeaders": []}
            edges.append({"node": {**node, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def do_commitartifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        artifact = self.artifacts[variables["artifactID"]]
        artifact.committed = True
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}
