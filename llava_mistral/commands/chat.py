"""Talk to a model about a picture, in a browser.

    llava-mistral chat outputs/finetune
    llava-mistral chat OWNER/NAME --revision v1

Code and weights from the Hub are loaded at one commit: the revision is resolved first, and the page shows what it was
resolved to. Without MODEL the page is that of `app.json`, as in a Space (`llava-mistral publish space`).
"""

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import computing_type
from llava_mistral.ground.command_line import VerbParser, run_verb

COMMIT = re.compile(r"[0-9a-f]{40}")


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral chat", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a checkpoint folder or a Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; the head of main when not given")
    parser.add_argument("--port", type=int, help="port of 127.0.0.1; the first free one from 7860 when not given")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="how long an answer may become")
    return parser


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a folder, or a Hub id at a commit of 40 hexadecimal digits."""

    name: str
    commit: str | None = None

    def pinned(self) -> dict[str, Any]:
        """What makes `from_pretrained` load code and weights of this commit and no other."""
        return {"trust_remote_code": True, **({"revision": self.commit} if self.commit else {})}


@dataclass(frozen=True)
class Chat:
    """A model that answers, with its processor."""

    source: Source
    model: Any
    processor: Any
    max_new_tokens: int = 256

    def answer(self, messages: list[dict]) -> Iterator[str]:
        """Yield the answer as it grows; the model stops when the reader does.

        Args:
            messages: a chat of the processor's template; pictures are `{"type": "image", "image": PIL image}`.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        left = threading.Event()
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {"max_new_tokens": self.max_new_tokens, "streamer": streamer}
        options["stopping_criteria"] = StoppingCriteriaList([lambda *_, **__: left.is_set()])
        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(self.model.generate, **inputs, **options)
            task.add_done_callback(lambda _: streamer.end())  # a failure would leave the reader waiting for ever
            said = ""
            try:
                for piece in streamer:
                    said += piece
                    yield said
            finally:
                left.set()
            task.result()


def find(model: str | None, revision: str | None, space: Path | None = None) -> Source:
    """The source a user names, or that of a Space's `app.json`; a Hub id is resolved to the commit to load.

    Raises:
        BadInput: it is no checkpoint, or nothing the Hub knows.
    """
    if model is None:
        if space is None:
            raise BadInput("no model is named", remedy="give a checkpoint folder or a Hub id", field="MODEL")
        noted = json.loads(space.read_text(encoding="utf-8"))
        model, revision = noted["model"], noted["revision"]
    if Path(model).is_dir():
        return _folder(Path(model), revision)
    if revision and COMMIT.fullmatch(revision):
        return Source(model, revision)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RevisionNotFoundError

    remedy = "give a checkpoint folder, or OWNER/NAME on the Hub with a token that may read it"
    try:
        return Source(model, HfApi().model_info(model, revision=revision).sha)
    except RevisionNotFoundError:
        raise BadInput(
            f"{model} has no revision {revision!r}", remedy="give a branch, tag or commit of it", field="revision"
        ) from None
    except OfflineModeIsEnabled:
        raise BadInput(
            f"{model} is no folder, and offline its revision cannot be resolved",
            remedy="give --revision with a commit of 40 digits that is in the cache",
            field="revision",
        ) from None
    except HFValidationError:
        raise BadInput(f"{model!r} is neither a folder nor a Hub id", remedy=remedy, field="MODEL") from None
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code not in (401, 403, 404):
            raise
        raise BadInput(f"the Hub shows no model {model}", remedy=remedy, field="MODEL") from None


def _folder(folder: Path, revision: str | None) -> Source:
    if revision:
        raise BadInput("a folder has no revisions", remedy="leave --revision out", file=folder, field="revision")
    if (folder / "adapter_config.json").is_file():
        raise BadInput(
            "is an adapter, which answers nothing by itself",
            remedy="merge it with merge_and_unload() and give the merged folder",
            file=folder,
        )
    if not (folder / "config.json").is_file():
        raise BadInput(
            "is no checkpoint: it has no config.json", remedy="give an output of llava-mistral train", file=folder
        )
    if not any(folder.glob("*.safetensors*")):
        raise BadInput("holds no safetensors", remedy="convert its weights at their source", file=folder)
    return Source(str(folder))


def check_code(source: Source) -> None:
    """Refuse code that another repository keeps, which no commit of this one pins, and weights that lie elsewhere.

    Raises:
        BadInput: naming the file and the field.
    """
    for file in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        for reference in re.findall(r'"([^"]+)--', json.dumps(_read(source, file).get("auto_map"))):
            if reference != source.name:
                raise _elsewhere(f"takes its code from another repository ({reference})", source, file, "auto_map")
    index = "model.safetensors.index.json"
    for shard in set((_read(source, index).get("weight_map") or {}).values()):
        if Path(shard).name != shard:
            raise _elsewhere(
                f"names the weights {shard!r}, which are outside of its folder", source, index, "weight_map"
            )


def _elsewhere(problem: str, source: Source, file: str, field: str) -> BadInput:
    remedy = "save the checkpoint again so that all of it lies in its folder"
    return BadInput(problem, remedy=remedy, file=f"{source.name}/{file}", field=field)


def _read(source: Source, file: str) -> dict:
    from transformers.utils import cached_file

    path = cached_file(source.name, file, revision=source.commit, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_bytes()) if path else {}


def open_chat(source: Source, max_new_tokens: int = 256) -> Chat:
    """Load model and processor; on a GPU where there is one.

    Raises:
        BadInput: the checkpoint has no chat template, no eyes, or somebody else's code.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    check_code(source)
    processor = AutoProcessor.from_pretrained(source.name, **source.pinned())
    if not (getattr(processor, "image_processor", None) and getattr(processor, "chat_template", None)):
        raise BadInput(
            "has no processor for pictures and chats", remedy="give a vision-language checkpoint", file=source.name
        )
    model = AutoModelForImageTextToText.from_pretrained(
        source.name, dtype=computing_type(source.name, source.commit), **source.pinned()
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Chat(source, model.to(device).eval(), processor, max_new_tokens)


def conversation(message: dict, history: list[dict]) -> list[dict]:
    """What Gradio hands over, as a chat of the processor's template.

    Args:
        message: `{"text": words, "files": [paths]}`, the newest question.
        history: `{"role", "content": [{"type": "text", "text"} | {"type": "file", "file": {"path"}}]}` per message.

    Raises:
        BadInput: a file is no picture.
    """
    turns: list[dict] = []
    for entry in [
        *history,
        {"role": "user", "content": [*_files(message), {"type": "text", "text": message["text"]}]},
    ]:
        parts = [_part(part) for part in entry["content"]]
        if turns and turns[-1]["role"] == entry["role"]:  # Gradio keeps each upload as a message of its own
            turns[-1]["content"] += parts
        else:
            turns.append({"role": entry["role"], "content": parts})
    for turn in turns:
        words = "\n".join(part["text"] for part in turn["content"] if part["type"] == "text" and part["text"])
        turn["content"] = [part for part in turn["content"] if part["type"] == "image"]
        turn["content"].append({"type": "text", "text": words})
    return turns


def _files(message: dict) -> list[dict]:
    return [{"type": "file", "file": {"path": path}} for path in message.get("files") or []]


def _part(part: dict) -> dict:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"].strip()}
    from PIL import Image, ImageOps

    path = part["file"]["path"]
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
            return {"type": "image", "image": ImageOps.exif_transpose(picture).convert("RGB")}
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"is no picture ({said})", remedy="upload a PNG or JPEG", file=Path(path).name) from None


def page(chat: Chat):
    """The chat as a Gradio page, which contacts nobody but its reader."""
    import gradio as gr

    def respond(message: dict, history: list[dict]) -> Iterator[str]:
        try:
            messages = conversation(message, history)
        except BadInput as error:
            raise gr.Error(str(error)) from None
        yield from chat.answer(messages)

    source = chat.source
    at = f"Loaded from the Hub at commit `{source.commit}`" if source.commit else "Loaded from a folder: no revision"
    return gr.ChatInterface(
        respond,
        multimodal=True,
        chatbot=gr.Chatbot(height=560, show_label=False, buttons=["copy"]),  # "share" would upload the chat
        textbox=gr.MultimodalTextbox(
            file_types=["image"], file_count="multiple", placeholder="Add a picture and ask about it", show_label=False
        ),
        title=Path(source.name).name if source.commit is None else source.name,
        description=f"{at}. For research: it answers with confidence also when the picture does not show it.",
        analytics_enabled=False,
        api_name="chat",
    )


def main(space: Path | None = None) -> None:
    """Open the page; `space` is the app.json of a published Space, which names the model and its commit."""
    args = build_parser().parse_args()
    if args.max_new_tokens < 1:
        raise BadInput(f"{args.max_new_tokens} tokens are no answer", remedy="give 1 or more", field="max_new_tokens")
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise BadInput(f"{args.port} is no port", remedy="give 1 to 65535", field="port")
    source = find(args.model, args.revision, space)
    try:
        import gradio as gr
    except ImportError:
        raise BadInput("gradio is not installed", remedy="run `pip install 'llava-mistral[app]'`") from None
    chat = open_chat(source, args.max_new_tokens)
    # Gradio's own theme fetches its fonts from Google.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    page(chat).launch(server_port=args.port, theme=theme, footer_links=[])


if __name__ == "__main__":
    run_verb(main)
