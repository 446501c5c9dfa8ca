"""Talk to a model about a picture, in a browser.

    llava-mistral chat outputs/finetune
    llava-mistral chat OWNER/NAME --revision v1

An adapter answers on its base. A Hub id is loaded at one commit: the revision is resolved first, and the page shows
what it was resolved to. Without MODEL the page is that of `app.json`, as in a Space (`llava-mistral publish space`).
"""

import json
import re
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

from llava_mistral.chatting.answering import Chat, Source, open_chat
from llava_mistral.chatting.turns import conversation, respond
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import weight_files
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.escaping import SERVED_POLICY
from llava_mistral.ground.foreign_code import add_flag

COMMIT = re.compile(r"[0-9a-f]{40}")
__all__ = ["Source", "conversation", "find", "main", "open_chat", "page"]
UPLOAD = "32mb"
KEPT = (600, 3600)  # seconds: how often uploads are looked for, and how old they may become


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral chat", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a checkpoint or adapter folder, or a Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; the head of main when not given")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets anybody in, without a login"
    )
    parser.add_argument("--port", type=int, help="port to listen on; the first free one from 7860 when not given")
    parser.add_argument("--max_new_tokens", type=int, default=256, help="most tokens of an answer")
    add_flag(parser)
    return parser


def find(model: str | None, revision: str | None, space: Path | None = None) -> Source:
    """The source a user names, or that of a Space's `app.json`; a Hub id is resolved to the commit to load.

    Raises:
        BadInput: it is not a checkpoint, or nothing the Hub knows.
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
            f"{model} is not a folder, and offline its revision cannot be resolved",
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
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise BadInput(
            "is not a checkpoint: it has no config.json", remedy="give an output of llava-mistral train", file=folder
        )
    if not (weight_files(folder) or (folder / "adapter_model.safetensors").is_file()):
        raise BadInput("holds no safetensors", remedy="convert its weights at their source", file=folder)
    return Source(str(folder))


def page(chat: Chat):
    """The chat as a Gradio page: it contacts no other host, and shows all messages as plain text."""
    import gradio as gr

    source = chat.source
    at = f"Loaded from the Hub at commit `{source.commit}`" if source.commit else "Loaded from a folder: no revision"
    if chat.base:
        at += f"; an adapter on {chat.base.name}" + (f" at `{chat.base.revision}`" if chat.base.revision else "")
    made = gr.ChatInterface(
        lambda message, history: (yield from respond(chat, message, history)),
        multimodal=True,
        chatbot=gr.Chatbot(
            height=560,
            show_label=False,
            buttons=["copy"],  # "share" would upload the chat
            render_markdown=False,  # an answer could show pictures of any server, and tell it the question by that
            sanitize_html=True,
            placeholder="Add a picture, ask about it, and press Enter.",
        ),
        textbox=gr.MultimodalTextbox(
            file_types=["image"], file_count="multiple", placeholder="Add a picture and ask about it", show_label=False
        ),
        title=Path(source.name).name if source.commit is None else source.name,
        description=f"{at}. For research: it answers with confidence also when the picture does not show it.",
        analytics_enabled=False,
        api_name="chat",
        delete_cache=KEPT,
    )
    return draw_words(made)


def draw_words(made: Any) -> Any:
    """Let a page draw what is said in it as words: without Markdown, Gradio still draws forms and pictures of HTML."""
    if bot := getattr(made, "chatbot", None):
        bot.postprocess = _on_text(bot.postprocess, after=escape)
        bot.preprocess = _on_text(bot.preprocess, before=unescape)
    return made


def _on_text(step: Callable, before: Callable = str, after: Callable = str) -> Callable:
    """A step of Gradio's chat box with something done to the texts that go into it, or come out."""

    def changed(messages: Any, change: Callable) -> Any:
        if messages is None or change is str:
            return messages
        messages = messages.model_copy(deep=True)
        for part in (part for message in messages.root for part in message.content):
            if getattr(part, "type", None) == "text":
                part.text = change(part.text)
        return messages

    return lambda messages: changed(step(changed(messages, before)), after)


class Guarded:
    """Adds to every answer of the page's server what the page may load."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", SERVED_POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, guarded)


def serve(made: Any, **options) -> tuple:
    """Start a page as it is meant to be served: bounded uploads, nothing from elsewhere, no public link."""
    import gradio as gr
    from starlette.middleware import Middleware

    return made.queue(max_size=32).launch(
        share=False,
        # Gradio's own theme fetches its fonts from Google.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        footer_links=[],
        max_file_size=UPLOAD,
        app_kwargs={"middleware": [Middleware(Guarded)]},
        **options,
    )


def main(space: Path | None = None) -> None:
    """Open the page; `space` is the app.json of a published Space, which names the model and its commit."""
    args = build_parser().parse_args()
    if args.max_new_tokens < 1:
        raise BadInput(
            f"{args.max_new_tokens} tokens are too few for an answer", remedy="give 1 or more", field="max_new_tokens"
        )
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise BadInput(f"{args.port} is not a port", remedy="give 1 to 65535", field="port")
    source = find(args.model, args.revision, space)
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise BadInput("gradio is not installed", remedy="run `pip install '.[app]'` in the project") from None
    chat = open_chat(source, args.max_new_tokens)
    serve(page(chat), server_name=None if space else args.host, server_port=args.port)


if __name__ == "__main__":
    run_verb(main)
