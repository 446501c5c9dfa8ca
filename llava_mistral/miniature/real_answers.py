"""What a real decoder says before and after it learned to see: digits it reads, and questions it answered already.

    python -m llava_mistral.miniature.real_answers --decoders outputs/digits/decoders --joined outputs/digits/stage0
    --trained outputs/digits/stage2 --data outputs/digits/digitsqa --output outputs/digits/answers

Chats of texts are put to each decoder alone, to the same joined to a tower before any training, whose tokens must be
the same, and to the trained model. `real.json` has the figures, `real.md` is the page.
"""

import json
from pathlib import Path
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.escaping import markdown
from llava_mistral.ground.foreign_code import load_model, load_processor, origin
from llava_mistral.ground.strict_json import write_json
from llava_mistral.miniature.open_answers import DIGIT, answers, count, open_rows

KNOWN = {
    "What is the capital of France?": ("paris",),
    "What is the capital of Italy?": ("rome",),
    "What is 2 + 2?": ("4", "four"),
    "How many days are in a week?": ("7", "seven"),
    "What colour is the sky on a clear day?": ("blue",),
}
LONGEST = 32  # new tokens


def say(model: Any, tokenizer: Any) -> dict[str, tuple[list[int], Any]]:
    """The tokens of the greedy answer to each of the five chats of text, and their logits `(tokens, vocabulary)`."""
    import torch

    said = {}
    for question in KNOWN:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        settings = {"max_new_tokens": LONGEST, "output_logits": True, "return_dict_in_generate": True}
        with torch.inference_mode():
            whole = model.generate(**ids, do_sample=False, **settings)
        said[question] = whole.sequences[0, ids["input_ids"].shape[1] :].tolist(), torch.cat(whole.logits)
    return said


def apart(joined: dict, alone: dict, folder: Path) -> float:
    """The largest difference of a joined decoder's logits from those of the decoder alone.

    Raises:
        BadInput: it says to a chat of texts what the decoder alone does not.
    """
    largest = 0.0
    for question, (tokens, logits) in alone.items():
        if joined[question][0] != tokens:
            remedy = "compare its chat template and weights with the decoder's"
            raise BadInput("says to texts what the decoder alone does not", remedy=remedy, file=folder)
        largest = max(largest, (joined[question][1][:, : logits.shape[1]] - logits).abs().max().item())
    return largest


def measure(decoders: Path, joined: Path, trained: str, data: Path) -> dict[str, Any]:
    """The figures of the page."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    def seeing(name: str) -> tuple[dict, Any]:
        source = origin(name)
        tokenizer = load_processor(source).tokenizer
        return say(load_model(AutoModelForImageTextToText, source).eval(), tokenizer), tokenizer

    said, differences = {}, {}
    for name in ("llama", "mistral"):
        tokenizer = AutoTokenizer.from_pretrained(decoders / name)
        said[name] = say(AutoModelForCausalLM.from_pretrained(decoders / name).eval(), tokenizer)
        differences[name] = apart(seeing(str(joined / name))[0], said[name], joined / name)
    said["trained"], tokenizer = seeing(trained)
    texts = {
        name: {question: tokenizer.decode(ids, skip_special_tokens=True).strip() for question, (ids, _) in one.items()}
        for name, one in said.items()
    }
    rows = [row for split in ("val", "test") for row in open_rows(data, split) if row["skill"] == DIGIT]
    digits = count(rows, answers(trained, rows))["digit"]
    return {
        **json.loads((decoders / "decoders.json").read_text(encoding="utf-8")),
        "joined_logits_apart": max(differences.values()),
        "twins_say_the_same": texts["llama"] == texts["mistral"],
        "digits": digits,
        "answers": {"decoder alone": texts["mistral"], "trained": texts["trained"]},
        "known": {name: known(texts[name]) for name in ("mistral", "trained")},
    }


def known(texts: dict[str, str]) -> int:
    """How many of the five answers have a right word in them."""
    return sum(any(word in texts[question].lower() for word in words) for question, words in KNOWN.items())


def page(found: dict[str, Any]) -> str:
    """The page as text; every figure is the run's."""
    digits, before, after = found["digits"], found["answers"]["decoder alone"], found["answers"]["trained"]
    same = "the same answers" if found["twins_say_the_same"] else "other answers"
    rows = [f"| {question} | {markdown(before[question])} | {markdown(after[question])} |" for question in KNOWN]
    return f"""# A real decoder

`make demo-real` joins {found["file"]} of the package {found["package"]} ({found["parameters"]:,} parameters) to the
miniature's tower, trains the projector on DigitsQA's captions and then the projector and a LoRA on its questions.
This page was written by that run.

- Once as LLaMA and once as Mistral without a window, the same weights have logits at most
  {found["largest_difference_of_logits"]:g} apart, and give {same}.
- Joined and not yet trained, both say to chats of texts what the decoder says alone, token for token, with logits at
  most {found["joined_logits_apart"]:g} apart.
- Trained as Mistral, it reads {digits["correct"]} of {digits["n"]} written digits it has not seen, by open answers;
  chance is one in ten.
- Of the five questions below it answers {found["known"]["trained"]} with the right word, the decoder alone
  {found["known"]["mistral"]}.

| question | decoder alone | after stage 2 |
|---|---|---|
{chr(10).join(rows)}
"""


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, check_output_folder, whole_folder

    parser = VerbParser(prog="llava_mistral.miniature.real_answers", description=__doc__.splitlines()[0])
    parser.add_argument("--decoders", required=True, type=Path, help="folder of miniature.smollm2")
    parser.add_argument("--joined", required=True, type=Path, help="folder with stage 0 of llama and of mistral")
    parser.add_argument("--trained", required=True, help="stage 2: a checkpoint or an adapter")
    parser.add_argument("--data", required=True, type=Path, help="DigitsQA folder")
    parser.add_argument("--output", required=True, help="folder to write")
    args = parser.parse_args()
    check_output_folder(args.output, "real.json")
    found = measure(args.decoders, args.joined, args.trained, args.data)
    with whole_folder(args.output, "real.json") as folder:
        write_json(folder / "real.json", found)
        (folder / "real.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
