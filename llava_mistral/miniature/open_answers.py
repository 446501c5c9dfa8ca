"""Ask a checkpoint the open questions of DigitsQA's test split, as people would, and count the right short answers.

    python -m llava_mistral.miniature.open_answers --model outputs/miniature/stage2 --data outputs/miniature/digitsqa
    --output outputs/miniature/results/stage2-open

An answer is right when it is the expected words and nothing else, and the model stopped by itself.
"""

import json
from pathlib import Path
from typing import Any

from llava_mistral.miniature.instructions import OPEN

DIGIT = "Read a written digit, open"
LONGEST = 16  # new tokens; the longest right answer has ten


def open_rows(data: str | Path, split: str = "test") -> list[dict[str, Any]]:
    """The open questions of a split: training rows (`data.conversations`) without choices."""
    from llava_mistral.data.conversations import read_rows

    return [row for row in read_rows(Path(data) / "instructions", split=split) if row["task"] == OPEN]


def answers(model: str, rows: list[dict[str, Any]], batch_size: int = 32) -> list[tuple[str, bool]]:
    """What the checkpoint says to each row, greedily, and whether it stopped by itself."""
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from llava_mistral.ground.foreign_code import loading

    processor = AutoProcessor.from_pretrained(model, **loading(model, None))
    network = AutoModelForImageTextToText.from_pretrained(model, **loading(model, None)).eval()
    end, outputs = processor.tokenizer.eos_token_id, []
    for start in tqdm(range(0, len(rows), batch_size), "asking", unit="batch", delay=2):
        batch = rows[start : start + batch_size]
        inputs = processor(
            text=[_prompt(processor, row) for row in batch],
            images=[picture for row in batch for picture in row["images"]] or None,
            padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            ids = network.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)[
                :, inputs["input_ids"].shape[1] :
            ]
        texts = processor.batch_decode(ids, skip_special_tokens=True)
        outputs += [(text.strip(), end in row) for text, row in zip(texts, ids.tolist(), strict=True)]
    return outputs


def _prompt(processor: Any, row: dict[str, Any]) -> str:
    turns = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in row["prompt"]]
    turns[0]["content"] = [{"type": "image"}] * len(row["images"]) + turns[0]["content"]
    return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def count(rows: list[dict[str, Any]], outputs: list[tuple[str, bool]]) -> dict[str, Any]:
    """Asked, right and stopped of the digits, of all questions with a picture and of those without; by skill, too."""
    marks = [
        (row, text == row["completion"][0]["content"] and stopped, stopped)
        for row, (text, stopped) in zip(rows, outputs, strict=True)
    ]

    def cell(chosen) -> dict[str, Any]:
        found = [(right, stopped) for row, right, stopped in marks if chosen(row)]
        right, stopped = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0)
        share = {"accuracy": 100 * right / len(found)} if found else {}
        return {"n": len(found), "correct": right, "stopped": stopped, **share}

    return {
        "digit": cell(lambda row: row["skill"] == DIGIT),
        "pictured": cell(lambda row: row["images"]),
        "text": cell(lambda row: not row["images"]),
        "skills": {
            skill: cell(lambda row, skill=skill: row["skill"] == skill) for skill in sorted({r["skill"] for r in rows})
        },
    }


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, check_output_folder, whole_folder

    parser = VerbParser(prog="llava_mistral.miniature.open_answers", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="DigitsQA folder")
    parser.add_argument("--output", required=True, help="folder to write")
    args = parser.parse_args()
    check_output_folder(args.output, "open.json")
    rows = open_rows(args.data)
    outputs = answers(args.model, rows)
    counts = count(rows, outputs)
    with whole_folder(args.output, "open.json") as folder:
        texts = {row["id"]: text for row, (text, _) in zip(rows, outputs, strict=True)}
        (folder / "answers.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
        (folder / "open.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    for name in ("digit", "pictured", "text"):
        one = counts[name]
        print(f"{name}: {one['correct']} of {one['n']} right, {one['stopped']} stopped by themselves")


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
