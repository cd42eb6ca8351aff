"""Composite actions of GitHub, run step by step here: their expressions, conditions and outputs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.patience import PATIENCE_S

Used = Callable[[Mapping[str, str]], Mapping[str, str]]
"""The replacement of a step that uses another action: from its `with` to its outputs."""


@dataclass
class Ended:
    """What a run of the action left: the step that failed and its exit code, what it printed, outputs."""

    failed: str
    code: int
    text: str
    ran: list[str]
    outputs: dict[str, str]


@dataclass
class CompositeAction:
    """An action's file, the actions that its steps use, and the contexts `github`, `runner` and so on."""

    path: Path
    used: Mapping[str, Used]
    contexts: Mapping[str, str]
    environment: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def run(self, folder: Path, **inputs: str) -> Ended:
        """Run every step in `folder` until one fails; `inputs` have `_` where their names have `-`."""
        action = yaml.safe_load(self.path.read_text())
        self.values = dict(self.contexts)
        for name, entry in action.get("inputs", {}).items():
            given = inputs.pop(name.replace("-", "_"), None)
            self.values[f"inputs.{name}"] = self.text(str(entry["default"])) if given is None else given
        assert not inputs, f"the action has no inputs {sorted(inputs)}"
        ran: list[str] = []
        for step in action["runs"]["steps"]:
            name = step.get("name") or step["uses"].partition("@")[0]
            if "if" in step and not self.holds(step["if"]):
                continue
            ran.append(name)
            code, text, outputs = self._uses(step) if "uses" in step else self._script(step, folder)
            self.values |= {f"steps.{step.get('id')}.outputs.{key}": value for key, value in outputs.items()}
            self.values[f"steps.{step.get('id')}.outcome"] = "failure" if code else "success"
            if code and not step.get("continue-on-error"):
                return Ended(name, code, text, ran, {})
        ends = {name: self.text(entry["value"]) for name, entry in action.get("outputs", {}).items()}
        return Ended("", 0, text, ran, ends)

    def text(self, template: str) -> str:
        """Return a text with its expressions replaced; an output that no step has set is empty."""
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda found: self.values.get(found[1], ""), template)

    def holds(self, condition: str) -> bool:
        """Return whether comparisons with texts, joined by `&&`, all hold."""
        results = []
        for part in condition.split("&&"):
            name, sign, wanted = re.fullmatch(r" *([\w.-]+) (==|!=) '([^']*)' *", part).groups()  # type: ignore[union-attr]
            results.append((self.values.get(name, "") == wanted) == (sign == "=="))
        return all(results)

    def _uses(self, step: dict[str, Any]) -> tuple[int, str, Mapping[str, str]]:
        handler = self.used[step["uses"].partition("@")[0]]
        try:
            return 0, "", handler({key: self.text(value) for key, value in step.get("with", {}).items()})
        except FileNotFoundError as error:
            return 1, str(error), {}

    def _script(self, step: dict[str, Any], folder: Path) -> tuple[int, str, Mapping[str, str]]:
        output = Path(self.values["runner.temp"]) / "output"
        output.write_text("")
        given = {key: self.text(value) for key, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env=os.environ | self.environment | given | {"GITHUB_OUTPUT": str(output)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return done.returncode, done.stdout + done.stderr, outputs
