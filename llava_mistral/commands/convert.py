"""Convert a LLaVA-Mistral checkpoint between the plugin's layout, llava-hf's and that of the original LLaVA code.

    llava-mistral convert liuhaotian-llava-v1.6-mistral-7b llava-v1.6-mistral-7b --to plugin

llava-hf is what vLLM and SGLang read with classes of their own. Weights are copied byte for byte, shard by shard, in
constant memory. gguf is for llama.cpp: model.gguf and mmproj.gguf, which nothing is converted back from.
"""

import re
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.command_line import VerbParser, check_output_folder, run_verb, whole_folder

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_arguments():
    parser = VerbParser(prog="llava-mistral convert", about=__doc__)
    parser.add_argument("source", help="folder of the checkpoint; its layout is detected")
    parser.add_argument("output", help="folder to write")
    parser.add_argument(
        "--to", required=True, choices=["plugin", "llava-hf", "original", "gguf"], help="layout to write"
    )
    parser.add_argument(
        "--gguf_type", default="f16", choices=["f16", "f32", "q8_0", "q4_0"], help="of the text model's matrices"
    )
    parser.add_argument("--max_shard_size", default="5GB", help="largest weight file, such as 5GB or 500MiB")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    source, limit = Path(args.source), shard_size(args.max_shard_size)
    marker = "model.gguf" if args.to == "gguf" else "config.json"
    check_output_folder(args.output, marker, [source])
    if not (source / "config.json").is_file():
        problem = "there is no config.json in it" if source.is_dir() else "no such folder"
        raise BadInput(problem, remedy="name the folder of a checkpoint", file=source, field="source")

    from llava_mistral.checkpoints.conversion import convert
    from llava_mistral.checkpoints.processor_conversion import convert_processor

    with whole_folder(args.output, marker) as folder:
        layout = convert(source, folder, args.to, max_shard_size=limit, gguf_type=args.gguf_type)
        processor_kind = "" if args.to == "gguf" else convert_processor(source, folder, layout, args.to)
    if args.to == "gguf":
        print(f"wrote {args.output}: {layout} to model.gguf and mmproj.gguf, {args.gguf_type}")
        return
    print(f"wrote {args.output}: {layout} to {args.to}, weights equal byte for byte, with {processor_kind}")


def shard_size(text: str) -> int:
    """Return the bytes that "5GB", "0.5MB" or "500MiB" mean, whole ones."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*((?:[KMGT]I?B)?)", text.strip().upper())
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        remedy = "give a number of KB, MB, GB or TB, or of KiB, MiB, GiB or TiB, such as 5GB"
        raise BadInput(f"{text!r} is not a valid size", remedy=remedy, field="max_shard_size")
    return size


if __name__ == "__main__":
    run_verb(main)
