"""The study runner: what it refuses, what it runs again and what not, and how it goes on after a failed step."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from llava_mistral.cli import VERBS
from llava_mistral.commands import study as reproduce_study
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import recipe_file
from tests.support.running import run_apart

SCORE = "evaluate --problems {0}/problems.json --predictions {0}/{1}.json --output {{output}}/{1}-results"


@pytest.fixture
def study(tmp_path) -> Path:
    """Two steps that score two predictions files, in a folder of their own."""
    problem = {"question": "Which?", "choices": ["this", "that"], "answer": 0, "hint": "", "image": None}
    (tmp_path / "problems.json").write_text(json.dumps({"1": {**problem, "split": "test"}}))
    for name, index in (("first", 0), ("second", 1)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"results": {"1": index}}))
    steps = [
        {"name": name, "run": SCORE.format(tmp_path, name), "makes": f"{{output}}/{name}-results"}
        for name in ("first", "second")
    ]
    # JSON is YAML
    (tmp_path / "study.yaml").write_text(json.dumps({"output": str(tmp_path), "steps": steps}))
    return tmp_path / "study.yaml"


def steps_run(done) -> list[str]:
    return [line.split("] ")[1] for line in done.stdout.splitlines() if line.startswith("[")]


def test_steps_run_once_and_again_only_after_what_changed(study):
    command = ("-m", "llava_mistral", "study", "--config", study, "--output", study.parent)
    assert steps_run(run_apart(*command)) == ["first", "second"]
    taken = {file.stem: json.loads(file.read_text()) for file in sorted((study.parent / "steps").glob("*.json"))}
    assert list(taken) == ["first", "second"]
    assert all(one["seconds"] > 0 and 0 < one["cpu_seconds"] < 90 for one in taken.values())
    again = run_apart(*command)
    assert steps_run(again) == [] and "every step is done" in again.stdout
    shutil.rmtree(study.parent / "second-results")
    assert steps_run(run_apart(*command)) == ["second"]
    study.write_text(study.read_text().replace('{output}/first-results"', '{output}/first-results --verbose"', 1))
    assert steps_run(run_apart(*command)) == ["first", "second"]


def test_a_failed_step_ends_the_study_and_is_where_it_goes_on(study):
    predictions = study.parent / "second.json"
    right = predictions.read_text()
    predictions.write_text("no JSON")
    failed = run_apart("-m", "llava_mistral", "study", "--config", study, "--output", study.parent, code=2)
    assert "step second failed; correct it and run the same command" in failed.stderr
    predictions.write_text(right)
    assert steps_run(run_apart("-m", "llava_mistral", "study", "--config", study, "--output", study.parent)) == [
        "second"
    ]


def test_a_fork_of_the_warm_interpreter_is_a_typed_command(tmp_path, capfd):
    runner = reproduce_study.Runner(warm=False)
    runner.warm = True  # forks, without the seconds of importing
    assert runner.run(("evaluate", "--problems", "nowhere.json", "--predictions", "x.json")) == 2
    assert runner.run(("-m", "llava_mistral.miniature.digitsqa", "--help")) == 0
    assert "DigitsQA" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [", "is not YAML"),
        ("name: none", "has no list of steps"),
        ("steps: []\nstpes: 1", "field stpes: there is no such key"),
        ("steps: [{name: one}]", "record 0: needs a name and a command"),
        ("steps: [{name: one, run: 5}]", "record 0: field run: is of another type; write a text"),
        ("steps: [{name: one, run: prune, for: {a: 1}}]", "field for: is of another type"),
        (f"steps: [{{name: one, run: prune, for: {{a: {[*range(99)]}, b: {[*range(99)]}}}}}]", "is 9,801 steps"),
        ("steps: [{name: one, run: x, maks: y}]", "record 0: field maks: there is no such key"),
    ],
)
def test_a_study_that_cannot_be_is_refused(tmp_path, text, said):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        reproduce_study.read_study(path, None)


def test_the_miniature_study_names_verbs_and_recipes_that_exist():
    study, steps = reproduce_study.read_study("miniature/study", None)
    for step in [*steps, *reproduce_study.read_study("small/digits", None)[1]]:
        verb, module = step.command[:2]
        assert verb in VERBS or (verb == "-m" and find_spec(module)), step
        if "--config" in step.command:
            assert recipe_file(step.command[step.command.index("--config") + 1]).is_file(), step
    assert set(study["summary"]) >= {"results", "skill", "data", "answers", "chart", "picture", "try_next"}


def test_a_step_for_every_combination_of_values(tmp_path):
    step = {"name": "{kind}-{seed}", "for": {"kind": ["a", "b"], "seed": [0, 1]}, "makes": "{output}/{kind}/{seed}"}
    step["run"] = "prune --kind {kind} --seed {seed} --output {output}/{kind}/{seed}"
    (tmp_path / "study.yaml").write_text(json.dumps({"output": "here", "steps": [], "full": [step]}))
    study, steps = reproduce_study.read_study(tmp_path / "study.yaml", None, full=True)
    assert study["output"] == "here-full"
    assert [found.name for found in steps] == ["a-0", "a-1", "b-0", "b-1"]
    assert steps[2].command == ("prune", "--kind", "b", "--seed", "0", "--output", "here-full/b/0")
    assert steps[2].makes == Path("here-full/b/0")


def test_two_steps_of_one_name_are_refused(tmp_path):
    step = {"name": "train", "run": "prune", "for": {"seed": [0, 1]}}
    (tmp_path / "study.yaml").write_text(json.dumps({"steps": [step]}))
    with pytest.raises(BadInput, match="train occurs twice; name every value of its `for`"):
        reproduce_study.read_study(tmp_path / "study.yaml", None)


STUDIES = {name: f"{name}/study" for name in ("miniature", "seed")}


def test_the_miniature_is_the_study_step_for_step():
    """What the small study makes itself, the large one is given: data, and one tower and one text model of a kind."""
    small, large = (reproduce_study.read_study(file, None, full=True)[1] for file in STUDIES.values())
    made = ("data", "components", "stage0")
    names = [step.name for step in small if not step.name.startswith(made)]
    assert [step.name for step in large if not step.name.startswith(made)] == names
    assert len(names) == len(set(names)) > 78, "81 less the two of stage 0, which differ"
    of = [{step.name: step for step in steps} for steps in (small, large)]
    for name in names:
        flags = [{word for word in steps[name].command if word.startswith("--")} for steps in of]
        # The Hub's card knows the source, vicuna's template differs, and the floors are those of DigitsQA alone.
        expected = {"--source", "--license", "--chat_template"} | ({"--data"} if name == "report" else set())
        assert flags[0] ^ flags[1] <= expected, name


def test_every_step_of_a_study_names_flags_that_exist():
    flags: dict[tuple[str, ...], set[str]] = {}
    for file, kinds in {"miniature/study": (False, True), "seed/study": (True,), "small/digits": (False,)}.items():
        for full in kinds:
            for step in reproduce_study.read_study(file, None, full=full)[1]:
                program = step.command[: 1 + (step.command[0] in ("-m", "publish"))]
                program = program if program[0] == "-m" else ("-m", "llava_mistral", *program)
                flags.setdefault(program, set()).update(word for word in step.command if word.startswith("--"))
    for program, wanted in flags.items():
        usage = run_apart(*program, "--help").stdout
        assert all(flag in usage for flag in wanted), (program, wanted)


VICTIM = {
    "a module of Python": {"run": "-c 'print(1)'"},
    "a module of others": {"run": "-m http.server"},
    "a module beside ours": {"run": "-m llava_mistral.miniature.digitsqa.x"},
    "a program": {"run": "rm -rf x"},
    "another study": {"run": "study --config other.yaml"},
    "a name that climbs": {"name": "../../x"},
    "a folder elsewhere": {"makes": "{victim}"},
    "a folder that climbs": {"makes": "{output}/../victim"},
    "the output itself": {"makes": "{output}"},
    "a file written elsewhere": {"run": "prune --dataset x --output {victim}"},
    "the same in one word": {"run": "prune --dataset x --output={victim}"},
    "with a dash": {"run": "train --output-dir {victim}"},
    "a cache elsewhere": {"run": "train --output_dir {output}/one --vision_cache {victim}"},
    "a recipe that names a folder": {"run": "train --config mistral/finetune"},
    "a recipe that writes elsewhere": {"run": "train --output_dir {output}/one --config {victim}/../recipe.yaml"},
    "an argument without a name": {"run": "convert {victim} {victim} --to plugin"},
    "a stranger's code": {"run": "evaluate --model a/b --trust_code_of a/b@" + "a" * 40},
}


@pytest.mark.parametrize("kind", VICTIM)
@pytest.mark.case("S35", "refused")
def test_a_study_of_a_stranger_runs_and_removes_nothing_elsewhere(tmp_path, kind):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine.txt").write_text("mine")
    (tmp_path / "recipe.yaml").write_text(f"vision_cache: {victim}\n")
    step = {"name": "one", "run": "prune --dataset x --output {output}/one", "makes": "{output}/one", **VICTIM[kind]}
    step = {key: text.replace("{victim}", str(victim)) for key, text in step.items()}
    (tmp_path / "study.yaml").write_text(json.dumps({"steps": [step]}))
    command = ("-m", "llava_mistral", "study", "--config", tmp_path / "study.yaml", "--output", tmp_path / "out")
    said = run_apart(*command, code=2).stderr
    assert "record 0: field" in said and (victim / "mine.txt").exists() and not (tmp_path / "out").exists()


@pytest.mark.case("S35", "refused")
def test_what_stood_in_the_output_before_the_study_is_not_removed(study):
    """A step that is run again for another command takes away what it made itself, and nothing else."""
    made = study.parent / "first-results"
    made.mkdir()
    (made / "mine.txt").write_text("mine")
    (study.parent / "steps").mkdir()
    (study.parent / "steps" / "first.json").write_text(json.dumps({"fingerprint": "of another command"}))
    said = run_apart("-m", "llava_mistral", "study", "--config", study, "--output", study.parent, code=2).stderr
    assert "was there before this study" in said and (made / "mine.txt").exists()


@pytest.mark.parametrize("output", ["/", "~", "..", ".", "/tmp/elsewhere", "here/../..", "mine", "link"])
@pytest.mark.case("S35", "refused")
def test_a_study_does_not_choose_any_folder_for_its_output(tmp_path, monkeypatch, output):
    here = tmp_path / "here"
    (here / "mine").mkdir(parents=True)
    (here / "mine" / "notes.txt").write_text("mine")
    (here / "link").symlink_to(tmp_path)
    monkeypatch.chdir(here)
    (here / "study.yaml").write_text(json.dumps({"output": output, "steps": []}))
    with pytest.raises(BadInput, match="field output: names .*; give --output if it is meant"):
        reproduce_study.read_study(here / "study.yaml", None)
    assert reproduce_study.read_study(here / "study.yaml", output)[0]["output"] == output, "typed, it is meant"


@pytest.mark.case("S35", "accepted")
def test_a_study_chooses_a_new_folder_below_the_current_one_or_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "old" / "steps").mkdir(parents=True)
    for output in ("outputs/new", "outputs/old", "./x"):
        (tmp_path / "study.yaml").write_text(json.dumps({"output": output, "steps": []}))
        assert reproduce_study.read_study(tmp_path / "study.yaml", None)[0]["output"] == output


@pytest.mark.case("S35", "refused")
def test_a_file_put_into_what_a_step_made_is_not_removed(study):
    command = ("-m", "llava_mistral", "study", "--config", study, "--output", study.parent)
    run_apart(*command)
    mine = study.parent / "first-results" / "mine.txt"
    mine.write_text("mine")
    study.write_text(study.read_text().replace('{output}/first-results"', '{output}/first-results --verbose"', 1))
    said = run_apart(*command, code=2).stderr
    assert "holds mine.txt, which the step did not write; move it elsewhere" in said and mine.exists()


@pytest.mark.case("S35", "accepted")
def test_a_study_of_verbs_below_its_output_runs(study):
    assert steps_run(run_apart("-m", "llava_mistral", "study", "--config", study, "--output", study.parent)) == [
        "first",
        "second",
    ]
