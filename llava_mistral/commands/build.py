"""Join a CLIP vision tower and a Mistral (or LLaMA) text model into a stage-0 checkpoint: a real, loadable folder.

    llava-mistral build --vision openai/clip-vit-large-patch14-336 --llm mistralai/Mistral-7B-Instruct-v0.2 \\
        --output checkpoints/mistral-7b-stage0
"""

from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import read_config_file, read_header, weight_files
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder
from processing import CHAT_TEMPLATES


def parse_arguments():
    parser = VerbParser(prog="llava-mistral build", description=__doc__.splitlines()[0])
    parser.add_argument("--vision", required=True, help="CLIP model: Hub id or folder")
    parser.add_argument("--llm", required=True, help="Mistral or LLaMA model with its tokenizer: Hub id or folder")
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
        choices=["mistral_instruct", "vicuna_v1"],
        default="mistral_instruct",
        help="wording of a chat",
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
    check_output_folder(args.output, "config.json")
    for name, source in (("vision", args.vision), ("llm", args.llm)):
        refuse_missing_folder(name, source)
    from llava_mistral.checkpoints.stage0 import compose, stage0_config
    from llava_mistral.checkpoints.stage0_processor import build_processor
    from llava_mistral.checkpoints.text_tokenizer import reads_apart

    revisions = (args.vision_revision, args.llm_revision)
    template = (CHAT_TEMPLATES / f"{args.chat_template}.jinja").read_text(encoding="utf-8")
    processor = build_processor(args.vision, args.llm, args.image_aspect_ratio, template, revisions)
    config = stage0_config(
        args.vision,
        args.llm,
        processor.image_token_id,
        len(processor.tokenizer),
        projector_type=args.projector,
        image_aspect_ratio=args.image_aspect_ratio,
        revisions=revisions,
    )
    processor.patch_size = config.vision_config.patch_size
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
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.model.named_children()}
    print(f"{args.output}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()) + " parameters")


def refuse_missing_folder(field: str, source: str) -> None:
    """A path is told from a Hub id, and a damaged folder from a whole one, before anything heavy is imported."""
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


if __name__ == "__main__":
    run_verb(main)
