"""What a user of macOS or Windows needs is imported where the modules of Unix are absent."""

import pytest

from tests.support.running import run_apart

HIDDEN = ("fcntl",)  # absent on Windows; psutil for Linux would need the others


@pytest.mark.parametrize("verb", ["chat", "evaluate", "convert", "publish", "compare", "prune"])
def test_a_verb_shows_its_help_without_the_modules_of_unix(verb):
    hide = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN!r})); "
    run = f"from llava_mistral.cli import main; main([{verb!r}, '--help'])"
    assert run_apart("-c", hide + run).stdout.startswith("usage: ")


def test_the_plugin_and_what_the_verbs_do_are_imported_without_the_modules_of_unix():
    modules = (
        *(
            "modeling_llava_mistral",
            "processing",
            "llava_mistral.evaluation.asking",
            "llava_mistral.evaluation.report",
        ),
        *(
            "llava_mistral.checkpoints.conversion",
            "llava_mistral.publishing.upload",
            "llava_mistral.ground.whole_file",
        ),
        *("llava_mistral.publishing.model_publication", "llava_mistral.training.saving.output_folder"),
    )
    hide = f"import importlib, sys; sys.modules.update(dict.fromkeys({HIDDEN!r}))\n"
    run_apart("-c", hide + f"for name in {modules!r}: importlib.import_module(name)")
