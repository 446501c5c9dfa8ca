"""The page docs/your_data.md, run in its own words: from a folder of pictures and a table to a model on a Hub."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mistral.local_hub import LocalHub
from tests.support.own_data import BLOCKS, save_data
from tests.support.publishing_runs import TOKEN
from tests.support.warm_process import WarmProcess


@pytest.mark.timeout(300)
def test_the_page_leads_from_the_tables_to_the_link(stage0, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    save_data(work)
    with LocalHub(tmp_path / "hub", token=TOKEN) as hub:
        said = run_page(work, hub.environment(tmp_path / "home"), {"MODEL": str(stage0), "OWNER/NAME": "me/shapes"})
        commands = [text for text, _ in said]
        assert len(commands) == sum(block.count("llava-mistral") for kind, block in BLOCKS if kind == "bash") + 1
        dry, pruned = said[0][1], said[1][1]
        assert "18 samples can be used" in dry and "no faults" in dry
        assert "kept 14 of 18" in pruned
        summary = json.loads((work / "judged" / "after" / "summary.json").read_text())
        assert summary["match"] == "normalised" and summary["ALL"]["n"] == 6
        assert (work / "judged" / "comparison" / "report.html").is_file()
        published = next(text for command, text in said if "publish" in command and "--dry_run" not in command)
        assert "files equal by sha256" in published
        link = published.strip().splitlines()[-1]
        assert link == f"{hub.url}/me/shapes"
        assert said[-1][1].strip(), "the published model answered nothing"


def run_page(folder: Path, environment: dict[str, str], values: dict[str, str]) -> list[tuple[str, str]]:
    """Run the page's blocks from top to bottom in `folder`; returns each command with what it printed."""
    said = []
    with WarmProcess(environment) as warm:
        for language, block in BLOCKS:
            for placeholder, value in values.items():
                block = block.replace(placeholder, value)
            for command in block.strip().splitlines() if language == "bash" else []:
                program, *words = shlex.split(command)
                assert program == "llava-mistral", f"{command}: another program"
                done = warm.run(words, folder, cwd=folder)
                assert done.code == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                said.append((command, done.stdout))
            if language == "python":
                options = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
                run = subprocess.run([sys.executable, "-c", block], **options)
                assert run.returncode == 0, run.stderr
                said.append((block, run.stdout))
    return said
