"""The wheel carries ``conf/`` and ``sweeps/`` and works from any folder, without the checkout."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from support import CONF, ROOT, SWEEPS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_every_config_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in ((CONF, "peftbench/_conf"), (SWEEPS, "peftbench/_sweeps")):
        for path in folder.rglob("*.yaml"):
            assert f"{inside}/{path.relative_to(folder)}" in names
    for shipped in ("page.html.j2", "page.css", "page.js"):
        assert f"peftbench/report/{shipped}" in names
    assert not [name for name in names if name.startswith(("tests/", "outputs/", "docs/"))]


def test_an_installed_wheel_runs_from_elsewhere(wheel: Path, tmp_path: Path, sentences: Path) -> None:
    # The libraries come from this environment: only peftbench itself is installed afresh.
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next((home / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    python = str(home / "bin" / "python")

    def run(*arguments: str) -> str:
        command = [python, "-m", "peftbench", *arguments]
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import peftbench; print(peftbench.__file__)"], cwd=elsewhere, capture_output=True, text=True
    )
    assert str(site) in where.stdout, "the checkout must not be what is tested"
    assert "name: movie_reviews" in run("-cn", "demo", "hydra.mode=RUN", "--cfg", "job")
    data = ["dataset=text", f"dataset.path={sentences}", "model=tiny", "tracker=none", "trainer.max_steps=3"]
    assert "ok" in run("method=hira", "rank=4", *data)
    (record,) = elsewhere.glob("outputs/default/*/record.json")
    assert '"git_commit": null' in record.read_text()
