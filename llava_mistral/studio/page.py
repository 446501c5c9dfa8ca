"""The studio as a Gradio page: on the left what to do, on the right the command, what it says and what it wrote."""

import os
import shutil
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.bounded import read_bounded
from llava_mistral.ground.escaping import markdown
from llava_mistral.ground.served import FILES, KEPT
from llava_mistral.ground.whole_file import write_whole
from llava_mistral.studio.running import Studio
from llava_mistral.studio.steps import CHOOSE, STEPS, TRAIN, Action, Field, Step, command_text, inside

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# A folder is of a kind where it has one of these files.
MARKS = {
    "data": ("manifest.json", "problems.json"),
    "model": ("config.json", "adapter_config.json"),
    "results": ("summary.json",),
}
MOST_FOLDERS = 2_000  # that are looked through for what to offer
# Gradio opens a list whose choices have changed, wherever the reader is.
STYLE = """
.block:not(:focus-within) [role=listbox] { display: none !important; }
.halves > .column { min-width: min(420px, 100%); }
.report iframe { width: 100%; height: 34rem; border: 1px solid #888; border-radius: 6px; background: #fff; }
.mono textarea { font-family: monospace; }
"""


def found(folder: Path) -> dict[str, list[str]]:
    """What the folder holds that a step can take, by kind: data, folders of pictures, checkpoints, results."""
    kinds: dict[str, list[str]] = {"pictures": [], **{kind: [] for kind in MARKS}}
    for count, (place, folders, files) in enumerate(os.walk(folder)):
        here = Path(place).relative_to(folder)
        marked = [kind for kind, marks in MARKS.items() if here.parts and set(marks) & set(files)]
        for kind in marked:
            kinds[kind].append(str(here))
        if not marked:
            kinds["data"] += [str(here / file) for file in sorted(files) if file.endswith(TABLES)]
            kinds["pictures"] += [str(here)] if any(file.lower().endswith(PICTURES) for file in files) else []
        deep = marked or len(here.parts) > 2 or count > MOST_FOLDERS
        folders[:] = [] if deep else sorted(one for one in folders if not one.startswith("."))
    return kinds


def take(folder: Path, files: list[str]) -> tuple[str | None, str | None]:
    """Put uploads into the folder, pictures below `pictures`; returns the table and the folder of pictures, if any.

    Raises:
        BadInput: a file is neither, or one of its name is there with other content.
    """
    table = pictures = None
    for source in map(Path, files):
        kind = source.suffix.lower()
        if kind not in (*TABLES, *PICTURES):
            raise BadInput(
                "is neither a table nor a picture", remedy="put it into the folder by hand", file=source.name
            )
        target = folder / ("pictures" if kind in PICTURES else "") / source.name
        if target.parent.is_file() or target.is_dir():
            problem = "cannot be put there: a file or a folder of that name is there already"
            raise BadInput(problem, remedy="rename one of them", file=target.name)
        target.parent.mkdir(exist_ok=True)
        if target.is_symlink() or (target.exists() and target.read_bytes() != source.read_bytes()):
            raise BadInput("is there already, with other content", remedy="rename one of them", file=target.name)
        shutil.copyfile(source, target)
        table, pictures = (table, "pictures") if kind in PICTURES else (target.name, pictures)
    return table, pictures


def page(studio: Studio) -> Any:
    """The page. Whatever a command or a file says is shown as plain text, and reports in a frame without scripts."""
    import gradio as gr

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="LLaVA-Mistral studio", analytics_enabled=False, delete_cache=KEPT) as made:
        gr.Markdown(f"# Studio\n\nWorks in {markdown(studio.folder.resolve())}. Each button runs the command that the "
                    "page shows, which does the same in a terminal.")  # fmt: skip
        with gr.Row(elem_classes="halves"):
            with gr.Column(), gr.Tabs():
                tabs = [_step(step) for step in STEPS]
            with gr.Column():
                shown = _outcome()
        offered = [one for inputs, *_ in tabs for one in inputs.values() if isinstance(one, gr.Dropdown)]
        kinds = [one.kind for step in STEPS for one in step.fields if one.kind not in ("text", "new")]

        def offer() -> list:
            there = found(studio.folder)
            return [gr.skip() if kind == "choice" else gr.Dropdown(choices=there[kind]) for kind in kinds]

        for step, (inputs, buttons, *own) in zip(STEPS, tabs, strict=True):
            for action, button in zip(step.actions, buttons, strict=True):
                asked = list(inputs.values())
                begun = button.click(
                    _starting(studio, step, action), asked, shown, concurrency_limit=None, **quiet
                ).then(offer, None, offered, **quiet)
                if action.verb == "init":
                    begun.then(lambda name: _recipe(studio, name), inputs["config"], own[0], **quiet)
            if step is CHOOSE:
                _uploads(studio, own[0], [inputs["dataset"], inputs["image_folder"], shown[1]], quiet)
            if step is TRAIN:
                editor, save = own
                inputs["config"].change(lambda name: _recipe(studio, name), inputs["config"], editor, **quiet)
                save.click(lambda name, text: _save(studio, name, text), [inputs["config"], editor], shown[1], **quiet)
        shown[-1].click(studio.stop, None, None, **quiet)
        made.load(offer, None, offered, **quiet)
        made.load(lambda: (yield from follow(studio)), None, shown, concurrency_limit=None, **quiet)
    return made


def _step(step: Step) -> tuple:
    """A tab: its inputs by their names, its buttons, and what this step alone has."""
    import gradio as gr

    with gr.Tab(step.name):
        gr.Markdown(step.about)
        own = []
        if step is CHOOSE:
            kinds = [*TABLES, *PICTURES]
            own = [
                gr.File(label="upload a table and its pictures", file_count="multiple", file_types=kinds, height=150)
            ]
        with gr.Row():
            inputs = {field.name: _input(field) for field in step.fields}
        with gr.Row():
            buttons = [gr.Button(action.label, variant="primary") for action in step.actions]
        if step is TRAIN:
            own = [gr.Textbox(label="the recipe", lines=12, max_lines=24, elem_classes="mono")]
            own += [gr.Button("Save the recipe", size="sm")]
    return inputs, buttons, *own


def _input(field: Field) -> Any:
    import gradio as gr

    if field.kind in ("text", "new"):
        return gr.Textbox(field.value, label=field.label, min_width=260)
    choices, free = list(field.choices), field.kind != "choice"
    return gr.Dropdown(choices, value=field.value, label=field.label, allow_custom_value=free, min_width=260)


def _outcome() -> list:
    """The right half: command, what it says, losses, report, Stop."""
    import gradio as gr

    command = gr.Textbox(
        label="command", lines=1, max_lines=6, buttons=["copy"], interactive=False, elem_classes="mono"
    )
    stop = gr.Button("Stop", interactive=False)
    said = gr.Textbox(label="what it says", lines=12, max_lines=12, interactive=False, elem_classes="mono")
    losses = gr.LinePlot(x="step", y="loss", color="rows", height=240, visible=False, label="losses", buttons=[])
    report = gr.HTML(elem_classes="report")
    return [command, said, losses, report, stop]


def _starting(studio: Studio, step: Step, action: Action) -> Any:
    """The function of a button."""
    import gradio as gr

    def start(*given: str) -> Iterator[list]:
        try:
            studio.start(step, action, dict(zip((field.name for field in step.fields), given, strict=True)))
        except BadInput as error:
            yield [gr.skip(), f"llava-mistral studio: {error}", *[gr.skip()] * 3]
            return
        yield from follow(studio)

    return start


def follow(studio: Studio) -> Iterator[list]:
    """What the right half shows, whenever it changes, until the command ends; it goes on without a reader."""
    import gradio as gr
    import pandas

    run, before = studio.run, [None] * 5
    if not run.words:
        yield [gr.skip()] * 5
        return
    while True:
        going = run.going
        if not going:
            run.reader.join(2)
        losses = studio.losses()[-2_000:]
        now = [(command_text(run.words), run.state), run.text, losses, _report(studio), going]
        fresh = [one != old for one, old in zip(now, before, strict=True)]
        plot = pandas.DataFrame(losses, columns=["step", "loss", "rows"])
        yield [
            gr.Textbox(now[0][0], label=f"command: {run.state}") if fresh[0] else gr.skip(),
            run.text if fresh[1] else gr.skip(),
            gr.LinePlot(plot, visible=bool(losses)) if fresh[2] else gr.skip(),
            now[3] if fresh[3] else gr.skip(),
            gr.Button(interactive=going) if fresh[4] else gr.skip(),
        ]
        before = now
        if not going or studio.run is not run:
            return
        time.sleep(0.5)


def _report(studio: Studio) -> str:
    """The newest report in a frame, or the link of a chat or of what was published."""
    elsewhere = 'target="_blank" rel="noopener noreferrer"'
    if link := studio.run.link:
        return f'<p><a href="{escape(link)}" {elsewhere}>Open {escape(link)}</a></p>'
    if (file := studio.report()) is None:
        return ""
    place = escape(f"{FILES}{quote(file.as_posix())}?{(studio.folder / file).stat().st_mtime_ns}")
    frame = f'<iframe sandbox title="report" src="{place}"></iframe>'
    return f'{frame}<p><a href="{place}" {elsewhere}>Open the report in a tab of its own</a></p>'


def _uploads(studio: Studio, box: Any, outputs: list, quiet: dict) -> None:
    import gradio as gr

    def taken(files: list[str] | None) -> list:
        try:
            table, pictures = take(studio.folder, files or [])
        except BadInput as error:
            return [gr.skip(), gr.skip(), f"llava-mistral studio: {error}"]
        return [table or gr.skip(), pictures or gr.skip(), f"uploaded {len(files or []):,} files"]

    box.upload(taken, box, outputs, **quiet)


def _recipe(studio: Studio, name: str) -> Any:
    import gradio as gr

    try:
        return read_bounded(inside(name or "", studio.folder, "config"), 1 << 20).decode()
    except (BadInput, OSError, UnicodeDecodeError):
        return gr.skip()


def _save(studio: Studio, name: str, text: str) -> str:
    """Write the recipe; returns what is said of it."""
    try:
        path = inside(name or "", studio.folder, "config")
        if path.suffix not in (".yaml", ".yml"):
            raise BadInput(f"{name!r} is not a YAML file", remedy="name one, such as recipe.yaml", field="config")
        write_whole(path, text)
    except BadInput as error:
        return f"llava-mistral studio: {error}"
    except OSError as error:
        return f"llava-mistral studio: {name} cannot be written ({error.strerror})"
    return f"wrote {name}"
