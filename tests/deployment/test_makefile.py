"""The make targets, run in a checkout below a path that shells and URLs would take apart."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.demo import MARK, DemoError, new_folder
from tests.support.paths import ROOT
from tests.support.processes import environment, running, wait_for_line

PARENT = "it's #1%20 of them"
FOLDERS = ["clickhouse", "connectors", "flows", "kernels", "grafana"]


def quiet(**settings: str) -> dict[str, str]:
    """Return an environment in which the flow serves nothing, and make does not run within another make."""
    defaults = {"HTTP_PORT": "0", "METRICS_PORT": "0", "STATUS_INTERVAL": "100ms"}
    made = environment(**defaults | settings)
    return {name: value for name, value in made.items() if not name.startswith("MAKE")}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the targets run, with this environment's packages in its .venv."""
    parent = tmp_path_factory.mktemp("below") / PARENT
    copy = parent / "pair flow"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy2(ROOT / name, copy / name)
    prefix = Path(sys.prefix)
    (copy / ".venv" / "bin").mkdir(parents=True)
    (copy / ".venv" / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (copy / ".venv" / "lib").symlink_to(prefix / "lib")
    if (prefix / "pyvenv.cfg").exists():
        shutil.copy(prefix / "pyvenv.cfg", copy / ".venv")
    for marker in ("installed", "installed-dev"):
        (copy / ".venv" / marker).touch()
    # What a shell would delete that takes the path apart.
    for stranger in (parent.parent / "it's", parent / "pair", parent.parent / "it's #1"):
        stranger.mkdir()
        (stranger / "precious").write_text("mine")
    return copy


def finished(checkout: Path, *command: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=checkout,
        env=quiet(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def strangers(checkout: Path) -> list[str]:
    return [path.read_text() for path in checkout.parent.parent.rglob("precious")]


def test_a_demo_deletes_its_own_store_alone_and_never_one_in_use(checkout: Path) -> None:
    store = checkout / "data-demo"
    for _ in range(2):
        with running("make", "demo", cwd=checkout, env=quiet()) as demo:
            wait_for_line(demo, " rows stored")
            second = finished(checkout, "make", "demo")
            assert second.returncode != 0
            assert "a demo runs already" in second.stderr
            assert "Traceback" not in second.stderr
            wait_for_line(demo, " rows stored")
            os.killpg(demo.pid, signal.SIGINT)  # as Ctrl-C does in a terminal
            told = demo.communicate(timeout=60)[1]
            assert f"in chdb://{store}" in told, told
    asked = finished(checkout, "make", "sql", "Q=SELECT 'it''s \"it\"', count() > 0, any(source) FROM trades")
    assert asked.stdout.splitlines()[-1].split("\t") == ['it\\\'s "it"', "1", "simulator"], asked
    assert strangers(checkout) == ["mine"] * 3


def test_a_run_keeps_store_and_state_in_the_checkout(checkout: Path, data: Path) -> None:
    settings = {"SOURCE": f"recording:{data / 'recorded' / 'usdm'}", "MARKET": "usdm"}
    for _ in range(2):
        run = finished(checkout, "make", "run", **settings)
        assert run.returncode == 0, run.stderr
        assert f"in chdb://{checkout}/data" in run.stderr
    assert (checkout / "state" / "part-0.sqlite3").exists()
    assert strangers(checkout) == ["mine"] * 3


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data-demo"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    with pytest.raises(DemoError, match="was not made by a demo"):
        new_folder(folder)
    link = tmp_path / "link"
    (folder / MARK).touch()
    link.symlink_to(folder)
    with pytest.raises(DemoError, match="was not made by a demo"):
        new_folder(link)
    assert (folder / "precious").read_text() == "mine"


def test_a_new_demo_begins_with_an_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data-demo"
    os.close(new_folder(folder))
    (folder / "store" / "deep").mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    (folder / "link").symlink_to(tmp_path)
    os.close(new_folder(folder))
    assert [path.name for path in folder.iterdir()] == [MARK]
    assert (tmp_path / "outside").read_text() == "mine"


def test_clean_removes_what_was_built_and_no_data(checkout: Path) -> None:
    for name in ("data", "state", "archive"):
        (checkout / name).mkdir(exist_ok=True)
        (checkout / name / "kept").touch()
    subprocess.run(["make", "clean"], cwd=checkout, env=quiet(), check=True, timeout=60)
    assert not (checkout / ".venv").exists()
    assert all((checkout / name / "kept").exists() for name in ("data", "state", "archive"))
    assert Path(sys.prefix, "lib").exists()
    assert strangers(checkout) == ["mine"] * 3
