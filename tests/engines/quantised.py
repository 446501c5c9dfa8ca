"""Quantise a checkpoint, save it, open what was saved, and answer chats: python quantised.py REQUEST.json ANSWER.json

Run by this project's own Python with the quantising libraries on its path.
"""

import json
import sys
from pathlib import Path


def settings(kind: str):
    import torch
    from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if kind == "bitsandbytes int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "bitsandbytes nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    if kind == "quanto int8":
        return QuantoConfig(weights="int8")
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig({"torchao int8": Int8WeightOnlyConfig, "torchao float8": Float8WeightOnlyConfig}[kind]())


def asked(kind: str, request: dict) -> dict:
    """What the model answers, quantised as `kind` says, and whether a saved copy answers alike."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from tests.support.engine_chats import answered

    folder, options = request["model"], {"trust_remote_code": True, "device_map": "cpu", "dtype": torch.float32}
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    quantised = {} if kind == "float32" else {"quantization_config": settings(kind)}
    model = AutoModelForImageTextToText.from_pretrained(folder, **quantised, **options).eval()
    parts = (*model.modules(), *model.parameters())
    answer = {"bytes": None, "of": sorted({type(part).__module__.split(".")[0] for part in parts})}
    if kind not in ("float32", "quanto int8"):  # transformers does not save quanto's
        saved = f"{request['saved']}/{kind.replace(' ', '-')}"
        model.save_pretrained(saved)
        answer["bytes"] = sum(file.stat().st_size for file in Path(saved).glob("*.safetensors"))
        first = answered(model, processor, request["chats"][:8], 4)
        model = AutoModelForImageTextToText.from_pretrained(saved, **options).eval()
        answer["same"] = first == answered(model, processor, request["chats"][:8], 4)
    return answer | {"answers": answered(model, processor, request["chats"], 4)}


if __name__ == "__main__":
    request = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, request["home"])
    answers = {}
    for kind in request["kinds"]:
        try:
            answers[kind] = asked(kind, request)
        except Exception as error:  # one library that fails leaves the others
            answers[kind] = {"error": f"{type(error).__name__}: {error}"}
        print(kind, {key: value for key, value in answers[kind].items() if key != "answers"}, flush=True)
        Path(sys.argv[2]).write_text(json.dumps(answers))
