"""Every test's world: no network, an empty Hugging Face cache, and tiny components that are made once."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import offline

# Before anything imports huggingface_hub, which reads these once. Child processes inherit them.
_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")
os.environ.update(HF_HOME=_HOME.name, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # huggingface.co would be told of each run in a module with a Hub
for _name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(_name, None)

pytest_plugins = ["tests.support.reliability", "tests.support.browser"]
SHARED = Path(__file__).parents[2] / "shared"
# Files of few tests that take long. Two workers end together when these begin; more tests are not longer ones.
FIRST = re.compile(
    "test_(killed_|full_disks|packed_training|many_processes|push_to_hub|push_adapter|your_data|installed|benchmarks|"
    "serving|hub_down|local_hub_faults|foreign_)"
)


def pytest_configure(config):
    """Guard the process that runs tests; pytest-xdist's own process starts the others and runs none."""
    if not config.getoption("numprocesses", None):
        offline.guard()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not FIRST.match(item.path.name))


@pytest.fixture(autouse=True)
def block_other_hosts():
    """A foreign host that was looked up or connected to, here or in a process that was started, fails the test."""
    yield
    assert not (lines := offline.asked()), f"not offline:\n{lines}"


@pytest.fixture(autouse=True, scope="session")
def no_other_host_was_called():
    """What was asked while fixtures were made or taken down fails the last test."""
    yield
    assert not (lines := offline.asked()), f"not offline:\n{lines}"


@pytest.fixture(autouse=True, scope="module")
def offline_unless_a_hub_is_here(request):
    """A module that starts a Hub of its own talks to that one, and so may not be offline."""
    if not {"LocalHub", "hub_here"} & vars(request.module).keys():
        yield
        return
    with reaching_hubs(True):
        yield


@contextmanager
def reaching_hubs(reach: bool) -> Iterator[None]:
    """Whether clients ask a Hub; transformers notes in each tokenizer it saves whether it did."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "" if reach else "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", not reach)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("the reference material (../shared) is not here")
    return SHARED


@pytest.fixture(scope="session")
def originals(shared, tmp_path_factory) -> dict[str, Path]:
    """Two folders of the original code, with a tokenizer that has the image token already. Read them."""
    import shutil

    from tests.support.tiny_components import tiny_tokenizer

    found = {}
    for name in ("llava15_pad", "llava16_anyres"):
        folder = tmp_path_factory.mktemp("originals") / name
        folder.mkdir()
        source = shared / "original_llava" / name
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(source / file, folder / file)
        shutil.copytree(source / "vision_tower", folder / "vision_tower", copy_function=shutil.copyfile)
        (folder / "vision_tower").chmod(0o755)
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
        tokenizer.save_pretrained(folder)
        found[name] = folder
    return found


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory) -> Path:
    from tests.support.tiny_components import save_vision

    return save_vision(tmp_path_factory.mktemp("components") / "vision")


@pytest.fixture(scope="session")
def mistral_folder(tmp_path_factory) -> Path:
    from tests.support.tiny_components import save_text_model

    return save_text_model(tmp_path_factory.mktemp("components") / "mistral", "mistral")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory) -> Path:
    from tests.support.tiny_components import save_text_model

    return save_text_model(tmp_path_factory.mktemp("components") / "llama", "llama")


@pytest.fixture(scope="session")
def stage0(tmp_path_factory, vision_folder, mistral_folder) -> Path:
    """A checkpoint before any training, built by the verb. Read it; copy it before you change it."""
    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    folder = tmp_path_factory.mktemp("checkpoints") / "stage0"
    with reaching_hubs(False):
        run_here(main, "--vision", vision_folder, "--llm", mistral_folder, "--output", folder)
    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory) -> Path:
    """Eight captioned pictures in LLaVA's form."""
    from tests.support.tiny_components import save_rows

    return save_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def stage1(stage0, rows_file, tmp_path_factory) -> Path:
    """Stage 0 after its projector was trained. Read it; copy it before you change it."""
    from tests.support.training_runs import train

    folder = tmp_path_factory.mktemp("trained") / "stage1"
    with reaching_hubs(False):
        train("pretrain", stage0, rows_file, folder)
    return folder


@pytest.fixture(scope="session")
def anyres(tmp_path_factory, vision_folder, mistral_folder) -> Path:
    """A checkpoint that reads pictures in tiles."""
    from llava_mistral.commands.build import main
    from tests.support.running import run_here

    folder = tmp_path_factory.mktemp("anyres") / "stage0"
    parts = ("--vision", vision_folder, "--llm", mistral_folder, "--image_aspect_ratio", "anyres")
    with reaching_hubs(False):
        run_here(main, *parts, "--output", folder)
    return folder


@pytest.fixture(scope="session")
def mixed_rows(tmp_path_factory) -> Path:
    """Eleven rows, of which seven have a picture, with questions of every length: the last step is incomplete."""
    from tests.support.tiny_components import save_rows

    file = save_rows(tmp_path_factory.mktemp("mixed"), 7)
    records = json.loads(file.read_text())
    for index in range(4):
        turns = [{"from": "human", "value": "What is 2 + 2? " * (1 + 5 * index)}, {"from": "gpt", "value": "four"}]
        records.insert(2 * index, {"id": f"text-{index}", "conversations": turns})
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """A ScienceQA folder of three questions, two with a picture; their split is `train`."""
    from tests.support.small_problems import save_problems

    return save_problems(tmp_path_factory.mktemp("questions") / "data", 3)


@pytest.fixture(scope="session")
def warm():
    """Starts training runs in forks of a process that has imported the libraries."""
    from tests.support.warm_process import WarmProcess

    with WarmProcess() as process:
        yield process


@pytest.fixture(scope="session")
def trainee(warm, stage0, stage1, rows_file, tmp_path_factory):
    """Makes the command of a stage with an output folder of its own."""
    from tests.support.trainee import Trainee

    base = {"pretrain": stage0, "finetune": stage1}

    def make(stage: str, rows: Path = rows_file, **flags):
        return Trainee(warm, stage, base[stage], rows, tmp_path_factory.mktemp(stage) / "out", **flags)

    return make


@pytest.fixture(scope="session")
def whole(trainee):
    """Stage -> the uninterrupted run's seconds and result."""
    ends = {}
    for stage in ("pretrain", "finetune"):
        run = trainee(stage)
        ends[stage] = run.run().seconds, run.result()
    return ends


@pytest.fixture(scope="session")
def interrupted(trainee):
    """A run that was killed with checkpoints 6 and 9; copied for each test."""
    run = trainee("finetune")
    run.killed(at=r"os\.rename \.partial/checkpoint-12 ")
    return run
