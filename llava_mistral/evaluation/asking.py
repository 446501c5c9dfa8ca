"""Load a checkpoint through the Auto classes and let it answer batches of questions."""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mistral.data.problem import LETTERS, Problem, question_parts, text_parts
from llava_mistral.evaluation.journal import Answer, AnswerSettings
from llava_mistral.evaluation.questions import Question
from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import (
    check_files,
    check_image_token,
    computing_type,
    context_length,
    opening,
    read_config_file,
    weight_files,
)
from llava_mistral.ground.foreign_code import load_model, load_processor, origin
from llava_mistral.ground.pictures import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

MID_GREY = (128, 128, 128)


class Checkpoint:
    """A model and its processor, from a folder or a Hub id; `dtype` is the type it computes in.

    A checkpoint that was trained in 16 bits is asked in 16 bits, whatever its file holds.

    Raises:
        BadInput: the folder lacks a part, weights are missing from the file, the template drops the question, or the
            code is not the checkpoint's own (`foreign_code.origin`).
    """

    def __init__(
        self, name: str, *, device: str | None = None, revision: str | None = None, chat_template: str | None = None
    ):
        check_checkpoint(name)
        source = origin(name, revision)
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        self.name = name
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        with opening(source.name, "config.json"), _found(source.name, source.revision):
            config = AutoConfig.from_pretrained(source.name, **source.options())
        with opening(name), _found(name, revision):
            self.processor = load_processor(source)
        check_image_token(config, self.processor, name)
        if chat_template is not None:
            self.processor.chat_template = chat_template
        if not self.processor.chat_template:
            remedy = "give one with --chat_template"
            raise BadInput("there is no chat template", remedy=remedy, file=name, field="chat_template")
        self.lead, self.letter_ids = self._letter_tokens()
        with opening(name), _found(name, revision):
            kind = computing_type(source.name, source.revision)
            self.model = load_model(AutoModelForImageTextToText, source, dtype=kind)
        self.model.to(self.device).eval()
        self.dtype = str(self.model.dtype).removeprefix("torch.")

    def prompt(self, problem: Problem | Question) -> str:
        """Return the question's prompt as text, one image token for each picture."""
        if isinstance(problem, Question):
            return self._templated(list(problem.chat), problem.texts)
        return self._worded(question_parts(problem))

    def _worded(self, content: list[dict[str, str]], answer: str | None = None) -> str:
        turns = [{"role": "user", "content": content}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self._templated(turns, [part["text"] for part in content if part["type"] == "text"])

    def _templated(self, turns: list[dict[str, Any]], texts: list[str]) -> str:
        asked = turns[-1]["role"] == "user"
        prompt = self.processor.apply_chat_template(turns, add_generation_prompt=asked, tokenize=False)
        from processing.processing_llava_mistral import WORD_JOINER  # it keeps a `</s>` in the question a text

        if not all(text.replace(WORD_JOINER, "").strip() in prompt.replace(WORD_JOINER, "") for text in texts):
            remedy = "give one that keeps it with --chat_template"
            raise BadInput(
                "the chat template drops the question", remedy=remedy, file=self.name, field="chat_template"
            )
        return prompt

    def _letter_tokens(self) -> tuple[list[int], list[int]]:
        """Return (lead, letters): the tokens an answer begins with whatever its letter, and the token of each letter.

        They are taken from the template's own wording of an answered question, tokenised whole as in training:
        Mistral's tokenizer puts a space before whatever it is given, so "B" alone would be another token than "B"
        after a prompt.
        """
        tokens = functools.partial(self.processor.tokenizer, add_special_tokens=False)
        prompt_length = len(tokens(self._worded(text_parts("?")))["input_ids"])
        ids = [tokens(self._worded(text_parts("?"), letter))["input_ids"][prompt_length:] for letter in LETTERS]
        position = next((i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), None)
        if position is None:
            remedy = "use a tokenizer that knows the letters A to Z"
            raise BadInput("the tokenizer does not tell letters apart", remedy=remedy, file=self.name)
        return ids[0][:position], [tokens[position] for tokens in ids]

    def inputs(self, problems: Sequence[Problem], images: str) -> Any:
        """Return the tensors of a batch: left-padded prompts and their pictures, on the processor's device.

        Raises:
            BadInput: a prompt, its image tokens counted, leaves no room for an answer in the text model's context.
        """
        pictures = [picture for problem in problems for picture in pictures_of(problem, images)]
        batch = self.processor(
            text=[self.prompt(problem) for problem in problems],
            images=pictures or None,
            padding=True,
            padding_side="left",
            add_special_tokens=False,  # the template writes <bos> itself
            return_tensors="pt",
        )
        context, answer = context_length(self.model.config), max(1, len(self.lead))
        for problem, length in zip(problems, batch["attention_mask"].sum(1).tolist(), strict=True):
            if context is not None and length + answer > context:
                message = f"the prompt has {length} tokens and the text model a context of {context}"
                raise BadInput(message, remedy="shorten the question or drop it", record=problem.pid, field="question")
        return batch

    def answer(self, problems: Sequence[Problem], inputs: Any, settings: AnswerSettings) -> list[Answer]:
        """Return the answers to one batch whose tensors are `inputs`."""
        import torch

        inputs = inputs.to(self.device, self.model.dtype)
        with torch.inference_mode():
            if settings.scoring == "likelihood":
                outputs, logits = [None] * len(problems), self._letter_logits(inputs)
            else:
                outputs, logits = self._generate(inputs, settings.max_new_tokens)
        scores = torch.log_softmax(logits.float(), dim=-1)[:, self.letter_ids].tolist()
        return [
            Answer(problem.pid, output, tuple(row[: len(problem.choices)]))
            for problem, output, row in zip(problems, outputs, scores, strict=True)
        ]

    def _generate(self, inputs: Any, max_new_tokens: int) -> tuple[list[str], Any]:
        tokenizer = self.processor.tokenizer
        stops = self.model.generation_config.eos_token_id
        generated = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id if stops is None else stops,
            output_logits=True,
            return_dict_in_generate=True,
        )
        written = generated.sequences[:, inputs["input_ids"].shape[1] :]
        texts = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
        # Without leading tokens the first step's logits are the letters' own, and the likelihood costs nothing.
        return texts, self._letter_logits(inputs) if self.lead else generated.logits[0]

    def _letter_logits(self, inputs: Any) -> Any:
        """Return the next-token logits (batch, vocabulary) where an answer's letter would come, by one forward."""
        import torch

        inputs = dict(inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        lead = torch.tensor(self.lead, dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
        inputs["input_ids"] = torch.cat([ids, lead], dim=1)
        mask = torch.cat([mask, torch.ones_like(lead, dtype=mask.dtype)], dim=1)
        # As `generate` counts them, from the first token: some decoders depend on it, and padding is on the left.
        inputs |= {"attention_mask": mask, "position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
        return self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1]


@contextmanager
def _found(name: str, revision: str | None) -> Iterator[None]:
    """Name a checkpoint that neither the Hub nor the cache can provide whole."""
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError where the tokenizer's file is missing
        if Path(name).is_dir():
            raise
        at = f" at {revision}" if revision else ""
        message = " ".join(str(error).split(".")[0].split())
        remedy = "check name, revision and connection, or name a folder"
        problem = f"cannot be loaded{at} from the Hub or from the cache ({message})"
        raise BadInput(problem, remedy=remedy, file=name, field="model") from error


def check_checkpoint(name: str) -> None:
    """Refuse what cannot be a checkpoint, before torch is imported: `transformers` would build a 7B default from it.

    An adapter is one, too: transformers puts it, with its projector, onto the base that its own configuration names.

    Raises:
        BadInput: no such folder, or one whose configuration, index or headers are not whole.
    """
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")) or folder.parent.is_dir():
            raise BadInput("no such checkpoint folder", remedy="check the path", file=name, field="model")
        return
    if (folder / "adapter_model.safetensors").is_file() and (folder / "adapter_config.json").is_file():
        return
    check_files(folder, "model")
    if "mm_vision_tower" in read_config_file(folder, "model"):
        remedy = f"convert it: llava-mistral convert {name} OUTPUT --to plugin"
        raise BadInput("is in the original LLaVA code's layout", remedy=remedy, file=name, field="model")


def weights_fingerprint(name: str, revision: str | None = None) -> str:
    """Return a hash of a local checkpoint's configuration and of its weight files' names, sizes and times.

    On the Hub the id and the revision stand for them.
    """
    folder = Path(name)
    digest = hashlib.sha256(b"" if folder.is_dir() else f"{name} {revision}".encode())
    for path in [*weight_files(folder), *folder.glob("adapter_model.safetensors")] if folder.is_dir() else ():
        state = path.stat()
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    if (folder / "config.json").is_file():
        digest.update((folder / "config.json").read_bytes())
    elif (folder / "adapter_config.json").is_file():
        config = (folder / "adapter_config.json").read_bytes()
        digest.update(config)
        digest.update(weights_fingerprint(str(json.loads(config)["base_model_name_or_path"])).encode())
    return digest.hexdigest()


def check_pictures(problems: Sequence[Problem | Question]) -> None:
    """Refuse questions whose pictures are not at hand, before a model is loaded."""
    absent = [one.pid for one in problems if isinstance(one, Problem) and one.has_image and one.image is None]
    if absent:
        remedy = "put them beside problems.json, in images/{split}/{pid}/"
        raise BadInput(f"{len(absent)} pictures are not at hand", remedy=remedy, record=absent[0], field="image")


def pictures_of(problem: Problem | Question, images: str) -> "list[Image]":
    """Return the question's pictures in RGB and upright, or mid-grey of their sizes when `images` is "blank".

    Raises:
        BadInput: a picture is not at hand or cannot be decoded.
    """
    from PIL import Image

    check_pictures([problem])
    upright = [
        open_picture(image, file=image if isinstance(image, Path) else None, record=problem.pid)
        for image in problem.images
    ]
    return [Image.new("RGB", one.size, MID_GREY) for one in upright] if images == "blank" else upright
