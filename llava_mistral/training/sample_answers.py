"""Answers to a few held-out questions at every evaluation, generated as at inference.

`samples/step-N.html` shows pictures, questions, right answers and what the model said, in one file that needs no
network; `samples/step-N.json` holds the same without the pictures.
"""

import base64
import copy
import html
import io
import sys
from pathlib import Path

import numpy
import torch

from llava_mistral.ground.escaping import POLICY_TAG, fence
from llava_mistral.ground.pictures import open_picture
from llava_mistral.ground.strict_json import write_json
from llava_mistral.ground.whole_file import write_whole
from llava_mistral.training.collator import AnswerCollator

MAX_NEW_TOKENS = 64
LONGEST_SIDE = 336  # pixels of a picture on the page

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{policy}
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title><style>
body {{ font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222; }}
h1 {{ overflow-wrap: anywhere; }}
section {{ display: flex; flex-wrap: wrap; gap: 1.5em; border-top: 1px solid #ddd; padding: 1em 0; }}
figure {{ margin: 0; flex: 0 1 {side}px; color: #666; }} img {{ max-width: 100%; display: block; }}
dl {{ margin: 0; flex: 1 1 14em; min-width: 0; }} dt {{ color: #666; }}
dd {{ margin: 0 0 .6em; white-space: pre-wrap; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1><p>{facts}</p>
{sections}
</body></html>
"""
SECTION = """<section><figure>{pictures}</figure><dl><dt>question {id}</dt><dd>{question}</dd>
<dt>right answer</dt><dd>{gold}</dd><dt>the model says</dt><dd>{answer}</dd></dl></section>"""


class SampleAnswers:
    """Asks the same few rows again and again, by greedy generation.

    Args:
        rows: training rows `{"id", "images", "prompt", "completion"}` held out of training.
        processor: a `LlavaMistralProcessor`; it is copied, so that its template may change.
        template: the chat template that words the questions: the finished checkpoint's own in stage 2; stage 1 is
            asked in its own words, for a caption.
        count: how many rows, spread evenly over `rows`; at most all.
        folder: the output folder of the run, in which `samples/` is made.
        title: what the pages are headed with.
    """

    def __init__(self, rows, processor, template: str, count: int, folder: str | Path, title: str):
        self.processor = copy.copy(processor)
        self.processor.chat_template = template
        self.collator = AnswerCollator(self.processor)
        count = min(count, len(rows))
        self.rows = [opened(rows[index * len(rows) // count]) for index in range(count)]
        self.folder, self.title = Path(folder) / "samples", title

    def ask(self, model: torch.nn.Module, step: int, metrics: dict[str, float], writer=None) -> None:
        """Ask `model`, which is in evaluation mode, and write the answers.

        Weights that are spread over processes (FSDP, ZeRO) cannot be asked by one process alone; that is said, and
        no page is written.

        Args:
            metrics: of the evaluation; the loss is shown.
            writer: a TensorBoard `SummaryWriter` that takes the pictures and texts as well.
        """
        if is_sharded():
            print(f"step {step}: no sample answers, because FSDP and ZeRO shard the weights", file=sys.stderr)
            return
        answers = self.answers(model)
        samples = [
            {
                "id": str(row["id"]),
                "question": turns_text(row["prompt"]),
                "gold": turns_text(row["completion"]),
                "answer": answer,
                "pictures": len(row["images"]),
            }
            for row, answer in zip(self.rows, answers, strict=True)
        ]
        record = {"step": step, "eval_loss": metrics.get("eval_loss"), "samples": samples}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"step-{step}.json", record)
        write_whole(self.folder / f"step-{step}.html", self.page(record))
        if writer is not None:
            self._to_tensorboard(record, writer)

    @torch.no_grad()
    def answers(self, model: torch.nn.Module) -> list[str]:
        """What the model says to each row: greedy, at most `MAX_NEW_TOKENS` tokens."""
        pictures = [picture for row in self.rows for picture in row["images"]]
        inputs = self.processor(
            images=pictures or None,
            text=[self.collator.word(row, answered=False) for row in self.rows],
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the template writes <bos> itself
            return_tensors="pt",
        ).to(model.device)
        tokenizer = self.processor.tokenizer
        stops = model.generation_config.eos_token_id
        written = model.generate(
            **inputs,
            do_sample=False,
            use_cache=True,  # the Trainer turns it off in the configuration
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id if stops is None else stops,
        )
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def page(self, record: dict) -> str:
        """The HTML of one evaluation."""
        sections = []
        for row, sample in zip(self.rows, record["samples"], strict=True):
            pictures = "".join(
                f'<img alt="picture of question {html.escape(str(row["id"]))}" src="{data_uri(picture)}">'
                for picture in row["images"]
            )
            texts = {key: html.escape(sample[key]) for key in ("id", "question", "gold", "answer")}
            sections.append(SECTION.format(pictures=pictures or "no picture", **texts))
        loss = record["eval_loss"]
        return PAGE.format(
            policy=POLICY_TAG,
            title=html.escape(f"{self.title}, step {record['step']}"),
            facts="" if loss is None else f"Loss on held-out answers: {loss:.4f}",
            side=LONGEST_SIDE,
            sections="\n".join(sections),
        )

    def _to_tensorboard(self, record: dict, writer) -> None:
        for row, sample in zip(self.rows, record["samples"], strict=True):
            name = f"samples/{sample['id']}"
            # TensorBoard draws Markdown, and would fetch the pictures that an answer names.
            text = "\n\n".join(f"**{key}**\n\n{fence(sample[key])}" for key in ("question", "gold", "answer"))
            writer.add_text(name, text, record["step"])
            for index, picture in enumerate(row["images"]):
                pixels = numpy.asarray(small(picture))
                writer.add_image(f"{name}/{index}", pixels, record["step"], dataformats="HWC")
        writer.flush()


def is_sharded() -> bool:
    """Whether the weights lie spread over processes, so that a forward needs all of them."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    spread = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
    return AcceleratorState().distributed_type in spread


def turns_text(turns: list[dict]) -> str:
    """The text of a prompt or a completion; who speaks is named where there are several turns."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


def small(picture):
    """The picture in RGB, at most `LONGEST_SIDE` pixels a side."""
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture


def data_uri(picture) -> str:
    """The picture inside an address, so that the page needs no second file."""
    buffer = io.BytesIO()
    small(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def opened(row: dict) -> dict:
    """The row with its pictures decoded."""
    return {**row, "images": [open_picture(cell, record=row["id"]) for cell in row["images"] or ()]}
