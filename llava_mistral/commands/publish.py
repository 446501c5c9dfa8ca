"""Publish a checkpoint, a pruned dataset or a chat page, with its card, and prove that what strangers receive is it.

    llava-mistral publish model outputs/finetune OWNER/NAME --results outputs/evaluation/summary.json
    llava-mistral publish dataset outputs/pruned OWNER/NAME --license cc-by-4.0
    llava-mistral publish space OWNER/MODEL OWNER/NAME

The token comes from HF_TOKEN or from `hf auth login`; HF_ENDPOINT names another Hub.
"""

import re
import tempfile
from functools import partial
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb
from llava_mistral.ground.foreign_code import add_flag
from llava_mistral.ground.whole_file import saving

KINDS = {
    "model": "a checkpoint or adapter folder",
    "dataset": "an output of llava-mistral prune",
    "space": "a page to talk to a published model",
}


def build_parser() -> VerbParser:
    parser = VerbParser(prog="llava-mistral publish", about=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="{model,dataset,space}", parser_class=VerbParser)
    for kind, what in KINDS.items():
        one = kinds.add_parser(kind, help=f"publish {what}")
        if kind == "space":
            one.add_argument("model", metavar="MODEL", help="the model's Hub id")
        else:
            one.add_argument("folder", type=Path, metavar="FOLDER", help=what)
        one.add_argument("repo_id", metavar="REPO_ID", help="OWNER/NAME on the Hub")
        one.add_argument("--private", action="store_true", help="create the repository private")
        one.add_argument("--dry_run", action="store_true", help="show what would be published, contact nothing")
        one.add_argument("--no_verify", action="store_true", help="do not download and compare what was published")
        one.add_argument(
            "--timeout", type=float, default=30, help="seconds without a byte before a request is repeated"
        )
        one.add_argument(
            "--preview",
            type=Path,
            default=Path("outputs/card"),
            help="with --dry_run: the folder for the card as a page",
        )
        if kind != "space":
            one.add_argument("--license", help="the Hub's identifier, e.g. apache-2.0 or cc-by-4.0")
        if kind == "model":
            add_flag(one)
            one.add_argument("--results", type=Path, action="append", default=[], help="summary.json; may be repeated")
            one.add_argument("--chart", type=Path, help="a PNG for the card")
            one.add_argument("--recipe", help="the YAML the model was made with")
            one.add_argument("--base_model", help="the base's Hub id, where the folder names a local one")
            one.add_argument("--dataset", help="the training data's Hub id, where the folder names a local one")
            one.add_argument(
                "--ask",
                nargs=2,
                metavar=("PICTURE", "QUESTION"),
                help="put to the published model when it is verified",
            )
        elif kind == "dataset":
            one.add_argument("--split", help="the split's name on the Hub, where the folder has one split")
            one.add_argument("--config_name", help="its config's name, such as default; otherwise the method's")
        else:
            one.add_argument("--revision", help="branch, tag or commit of the model that the page shows")
    return parser


def main() -> int | None:
    args = build_parser().parse_args()
    if args.kind != "space" and not args.folder.is_dir():
        raise BadInput("the folder does not exist", remedy="give the folder to publish", file=args.folder)
    if not 0 < args.timeout < float("inf"):
        raise BadInput(f"{args.timeout} s is not a valid time-out", remedy="give seconds above 0", field="timeout")
    if getattr(args, "ask", None) and not Path(args.ask[0]).is_file():
        raise BadInput("no such picture", remedy="give the file to ask about", file=args.ask[0], field="ask")
    if args.dry_run:
        check_output_folder(args.preview, "README.html")
    from llava_mistral.publishing.connection import connect
    from llava_mistral.publishing.upload import check_repo_id

    check_repo_id(args.repo_id)
    if args.kind == "space" and not Path(args.model).exists():
        check_repo_id(args.model)
    api = None if args.dry_run else connect(args.timeout)  # asks for the token; contacts nothing yet
    if args.kind == "model":
        from llava_mistral.publishing.model_publication import prepare_model

        prepare = partial(prepare_model, args.folder, api=api)
    elif args.kind == "dataset":
        from llava_mistral.publishing.dataset_publication import prepare_dataset

        prepare = partial(prepare_dataset, args.folder)
    else:
        from llava_mistral.publishing.space import prepare_space

        prepare = partial(prepare_space, args.model, api=api)

    with tempfile.TemporaryDirectory(prefix="publish-") as staging:
        options = {name: value for name, value in vars(args).items() if name not in NOT_FOR_PREPARING}
        with saving(Path(staging)):
            prepared = prepare(args.repo_id, Path(staging), **options)
        show(prepared.files(None), prepared.left_out)
        if args.kind == "model" and re.search(r"^license: unknown$", prepared.files(None)["README.md"].decode(), re.M):
            print("no licence is stated, so nobody knows whether they may use the model; state one with --license")
        prepared.check()
        if args.dry_run:
            show_card(prepared, args.preview)
            return
        published = prepared.publish(api, args.private)
        done = "published as" if published.changed else "unchanged at"
        print(f"{published.repo_id} {done} {published.commit}", flush=True)
        if not args.no_verify:
            print(prepared.verify(published), flush=True)
        print(f"\n{prepared.snippet(published)}\n\n{link(api, args.kind, published.repo_id)}")


def link(api, kind: str, repo_id: str) -> str:
    """Where a browser shows the repository."""
    return f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}"


NOT_FOR_PREPARING = {
    "kind", "folder", "model", "repo_id", "private", "dry_run", "no_verify", "timeout", "preview", "verbose",
}  # fmt: skip


def show(files: dict, left_out: list[str]) -> None:
    """Print the files to be published, with their sizes, and those left out."""
    for path, content in sorted(files.items()):
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{size:>14,}  {path}")
    if left_out:
        print(f"stays here: {', '.join(left_out[:20])}{' …' if len(left_out) > 20 else ''}")


def show_card(prepared, preview: Path) -> None:
    """Print the card, and write it into `preview` as README.md and README.html with its pictures."""
    from llava_mistral.publishing.cards import card_html

    files = prepared.files(None)
    card = files["README.md"].decode()
    print(f"\n{card}")
    for path, content in files.items():
        if path.endswith((".md", ".png")):
            place = preview / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    (preview / "README.html").write_text(card_html(card, prepared.repo_id), encoding="utf-8")
    print(f"open {preview / 'README.html'}; nothing was sent")


if __name__ == "__main__":
    run_verb(main, keeps_secrets=True)
