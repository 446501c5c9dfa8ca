"""Talk to a model about a picture, in a browser.

    llava-mistral chat outputs/finetune
    llava-mistral chat OWNER/NAME --revision v1
    llava-mistral chat outputs/before outputs/after

Two models answer the same questions side by side. An adapter answers on its base. A Hub id is loaded at one commit:
the revision is resolved first, and the page shows what it was resolved to. Without MODEL the page is that of
`app.json`, as in a Space (`llava-mistral publish space`).
"""

import json
import re
from pathlib import Path

from llava_mistral.chatting.answering import Source, open_chat
from llava_mistral.chatting.page import LONGEST, page, serve
from llava_mistral.chatting.turns import conversation
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import weight_files
from llava_mistral.ground.command_line import VerbParser, run_verb
from llava_mistral.ground.foreign_code import add_flag, split_revision
from llava_mistral.ground.hub_access import reach_hub

COMMIT = re.compile(r"[0-9a-f]{40}")
__all__ = ["Source", "conversation", "find", "main", "open_chat", "page", "serve"]


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral chat", about=__doc__)
    what = "a checkpoint or adapter folder, or a Hub id, perhaps with @REVISION; two are shown side by side"
    parser.add_argument("model", nargs="*", metavar="MODEL", help=what)
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id; the head of main when not given")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets anybody in, without a login"
    )
    share = "let anybody with the link in, through a tunnel of Gradio's servers; what is asked goes through them"
    parser.add_argument("--share", action="store_true", help=share)
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
    reach_hub(model)
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


def main(space: Path | None = None) -> None:
    """Open the page; `space` is the app.json of a published Space, which names the model and its commit."""
    args = build_parser().parse_args()
    if not 1 <= args.max_new_tokens <= LONGEST:
        problem = f"{args.max_new_tokens} tokens are too {'few' if args.max_new_tokens < 1 else 'many'} for an answer"
        remedy = "give 1 or more" if args.max_new_tokens < 1 else f"give {LONGEST:,} or fewer"
        raise BadInput(problem, remedy=remedy, field="max_new_tokens")
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise BadInput(f"{args.port} is not a port", remedy="give 1 to 65535", field="port")
    if len(args.model) > 2 or (args.revision and len(args.model) == 2):
        problem = f"{len(args.model)} models are named" + (" and one revision" if args.revision else "")
        raise BadInput(problem, remedy="name one or two, as OWNER/NAME@REVISION", field="MODEL")
    named = [split_revision(model) for model in args.model] or [(None, None)]
    sources = [find(model, args.revision or revision, space) for model, revision in named]
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise BadInput("gradio is not installed", remedy="run `pip install '.[app]'` in the project") from None
    made = page(*(open_chat(source, args.max_new_tokens) for source in sources))
    host = None if space else args.host
    if host not in (None, "127.0.0.1", "localhost", "::1"):
        print(f"listening on {host}: whoever can reach this machine can ask; there is no login", flush=True)
    serve(made, share=args.share, server_name=host, server_port=args.port)


if __name__ == "__main__":
    run_verb(main)
