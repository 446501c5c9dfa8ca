"""Join a vision tower and a text model of Mistral's or LLaMA's family into a stage-0 checkpoint: a loadable folder.

    llava-mistral build --vision openai/clip-vit-large-patch14-336 --llm mistralai/Mistral-7B-Instruct-v0.2 \\
        --output checkpoints/mistral-7b-stage0
"""

from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_config_file, read_header, weight_files
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from llava_mistral.ground.foreign_code import check_part
from llava_mistral.ground.hub_access import reach_hub


def parse_arguments():
    parser = VerbParser(prog="llava-mistral build", about=__doc__)
    parser.add_argument("--vision", required=True, help="CLIP or SigLIP model: Hub id or folder")
    parser.add_argument(
        "--llm", required=True, help="Mistral, Ministral or LLaMA model with its tokenizer: Hub id or folder"
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--projector", choices=["mlp2x_gelu", "linear"], default="mlp2x_gelu", help="projector type")
    parser.add_argument(
        "--image_aspect_ratio",
        choices=["pad", "square", "anyres"],
        default="pad",
        help="pictures padded to a square, cropped to one, or whole and in tiles",
    )
    parser.add_argument(
        "--chat_template",
        metavar="{own,mistral_instruct,vicuna_v1,FILE}",
        help="wording of a chat: the text model's own, one of LLaVA's, or a Jinja file; by default the own where the "
        "text model has one that is not LLaVA's",
    )
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto", help="of the weights"
    )
    parser.add_argument("--vision_revision", help="commit, tag or branch of --vision")
    parser.add_argument("--llm_revision", help="commit, tag or branch of --llm")
    parser.add_argument("--seed", type=int, default=0, help="seed of the projector's initial weights")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_output_folder(args.output, "config.json", [args.vision, args.llm])
    revisions = (args.vision_revision, args.llm_revision)
    for name, source, revision in zip(("vision", "llm"), (args.vision, args.llm), revisions, strict=True):
        refuse_missing_folder(name, source)
        check_part(source, revision)
    refuse_missing_template(args.chat_template)
    from llava_mistral.checkpoints.decoder_wording import choose_wording
    from llava_mistral.checkpoints.stage0 import compose, read_parts, stage0_config
    from llava_mistral.checkpoints.stage0_processor import build_processor, decoder_tokenizer
    from llava_mistral.checkpoints.text_tokenizer import reads_apart

    rows = read_parts(args.vision, args.llm, revisions)[1].vocab_size
    published = decoder_tokenizer(args.llm, rows, revisions[1])
    wording, template, notes = choose_wording(published, args.chat_template, args.llm)
    processor = build_processor(args.vision, args.llm, args.image_aspect_ratio, template, revisions, rows)
    config = stage0_config(
        args.vision,
        args.llm,
        processor.image_token_id,
        len(processor.tokenizer),
        projector_type=args.projector,
        image_aspect_ratio=args.image_aspect_ratio,
        revisions=revisions,
    )
    for note in notes:
        print(note)
    model = compose(args.vision, args.llm, config, seed=args.seed, dtype=args.dtype, revisions=revisions)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    with whole_folder(args.output, "config.json") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    if not reads_apart(processor.tokenizer, template):
        print(
            "this tokenizer reads prompt and answer apart otherwise than together, as TRL's own collator would: "
            "train with `llava-mistral train`, which reads them together"
        )
    print(describe_words(wording, published, processor, rows, config.text_config.vocab_size))
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.model.named_children()}
    print(f"{args.output}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()) + " parameters")
    print(f"wrote {args.output}; train its projector next: llava-mistral train --stage pretrain --config RECIPE")


def describe_words(wording: str, published, processor, rows: int, padded: int) -> str:
    """Return the line that says how chats are worded, which token stands for a picture, and what the table grew by."""
    image = processor.image_token_id
    name = published.convert_ids_to_tokens(image) if image < len(published) else None
    token = (
        "a new row" if name is None else "the decoder's own" if name == processor.image_token else f"reserved {name}"
    )
    tokens = len(processor.tokenizer)
    table = f"{padded:,} rows, {rows:,} of the decoder's" if padded > rows else f"the decoder's {rows:,} rows"
    spare = f", {padded - max(rows, tokens):,} of them padding" if padded > max(rows, tokens) else ""
    return f"chats worded as {wording}; a picture is token {image} ({token}); vocabulary of {table}{spare}"


def refuse_missing_template(name: str | None) -> None:
    if name not in (None, "own", "mistral_instruct", "vicuna_v1") and not Path(name).expanduser().is_file():
        raise BadInput(
            "is no wording of a chat, and no file",
            remedy="give own, mistral_instruct, vicuna_v1, or a Jinja file",
            file=name,
            field="chat_template",
        )


def refuse_missing_folder(field: str, source: str) -> None:
    """Refuse a missing or damaged local folder before heavy imports; a Hub id passes."""
    looks_like_path = source.startswith((".", "/", "~")) or source.count("/") != 1
    folder = Path(source).expanduser()
    if folder.is_dir():
        read_config_file(folder, field)
        for file in weight_files(folder):
            read_header(file)
    if looks_like_path and not folder.is_dir():
        raise BadInput(
            "no such folder, and not a Hub id", remedy="give a folder or owner/name", file=source, field=field
        )
    reach_hub(source, field=field)


if __name__ == "__main__":
    run_verb(main)
