"""The whole way on one page in a browser: data, choosing, training, judging, talking, publishing.

    llava-mistral studio
    llava-mistral studio --folder my_project

Each button runs a command of `llava-mistral` in the folder, and shows it. The page is for you alone: it listens on
this machine, and its link has a key.
"""

import secrets
import signal
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, run_verb


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral studio", about=__doc__)
    folder = "the folder to work in; no path on the page leads out of it"
    parser.add_argument("--folder", type=Path, default=Path(), metavar="DIR", help=f"{folder} (default: this one)")
    parser.add_argument("--port", type=int, help="port to listen on; the first free one from 7860 when not given")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    if not args.folder.is_dir():
        raise BadInput("is not a folder", remedy="make it first", file=args.folder, field="folder")
    if args.port is not None and not 0 < args.port < 1 << 16:
        raise BadInput(f"{args.port} is not a port", remedy="give 1 to 65535", field="port")
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise BadInput("gradio is not installed", remedy="run `pip install '.[app]'` in the project") from None
    from llava_mistral.ground.served import serve
    from llava_mistral.studio.page import STYLE, page
    from llava_mistral.studio.running import Studio

    # What a shell runs in its background ignores Ctrl-C, and so would the commands started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    studio, key = Studio(args.folder.absolute()), secrets.token_urlsafe(24)
    made = page(studio)
    where = {"server_name": "127.0.0.1", "server_port": args.port}
    guard = {"key": key, "folder": studio.folder, "style": STYLE}
    _, url, _ = serve(made, prevent_thread_lock=True, quiet=True, **where, **guard)
    print(f"open {url}?key={key} in a browser on this machine; Ctrl-C ends the studio", flush=True)
    try:
        made.block_thread()
    finally:
        studio.close()


if __name__ == "__main__":
    run_verb(main)
