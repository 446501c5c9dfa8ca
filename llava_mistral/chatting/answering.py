"""A chat model that streams its answer and stays within its context."""

import threading
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.checkpoint_headers import computing_type, context_length
from llava_mistral.ground.foreign_code import Origin, load_model, load_processor, origin


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a folder, or a Hub id at a commit of 40 hexadecimal digits."""

    name: str
    commit: str | None = None


@dataclass(frozen=True)
class Chat:
    """A model that answers, with its processor."""

    source: Source
    model: Any
    processor: Any
    max_new_tokens: int = 256
    base: Origin | None = None  # of an adapter
    temperature: float = 0.0  # 0: greedy
    system: str = ""  # said before the first question

    def answer(self, messages: list[dict]) -> Iterator[str]:
        """Yield the answer as it grows; the model stops when the reader does.

        What no longer fits into the model's context is left out, the oldest turns first, and an answer ends where the
        context does; both are said.

        Args:
            messages: a chat of the processor's template; pictures are `{"type": "image", "image": PIL image}`.

        Raises:
            BadInput: the last question alone does not fit, or the template refuses the chat.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        inputs, left_out = self._fitting(messages)
        room = self._context() - inputs["input_ids"].shape[1]
        before = f"(The first {left_out} turns no longer fit and were left out.)\n\n" if left_out else ""
        left = threading.Event()
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = {"max_new_tokens": min(self.max_new_tokens, room), "streamer": streamer}
        options |= {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        options["stopping_criteria"] = StoppingCriteriaList([lambda *_, **__: left.is_set()])
        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(self.model.generate, **inputs.to(self.model.device), **options)
            task.add_done_callback(lambda _: streamer.end())  # a failure would leave the reader waiting for ever
            said = before
            try:
                for piece in streamer:
                    said += piece
                    yield said
            finally:
                left.set()
            written = task.result().shape[1] - inputs["input_ids"].shape[1]
        if written >= room < self.max_new_tokens:
            yield f"{said}\n\n(The model's context of {self._context():,} tokens ends here.)"

    def _fitting(self, messages: list[dict]) -> tuple[Any, int]:
        """The tensors of the newest turns that leave room for an answer, and how many older ones were left out."""
        context = self._context()
        first = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        wanted = min(self.max_new_tokens, context // 4)

        def worded(start: int) -> Any:
            return self.processor.apply_chat_template(
                first + messages[start:],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )

        starts = [*range(0, len(messages) - 1, 2), len(messages) - 1]
        inputs, chosen = worded(0), 0
        if inputs["input_ids"].shape[1] + wanted > context:  # a chat of thousands of turns is worded a dozen times
            room = context - wanted
            after = bisect_left(starts, True, 1, key=lambda start: worded(start)["input_ids"].shape[1] <= room)
            chosen = starts[min(after, len(starts) - 1)]
            inputs = worded(chosen)
        length = inputs["input_ids"].shape[1]
        if length >= context:
            problem = f"the question and its pictures are {length:,} tokens, and the model takes {context:,}"
            raise BadInput(problem, remedy="ask with fewer words or pictures")
        return inputs, chosen

    def _context(self) -> int:
        return context_length(self.model.config) or 1 << 20


def open_chat(source: Source, max_new_tokens: int = 256) -> Chat:
    """Load model and processor; on a GPU where there is one.

    Raises:
        BadInput: the checkpoint is not whole, or has no chat template, no eyes, or somebody else's code.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    found = origin(source.name, source.commit)
    processor = load_processor(found)
    if not (getattr(processor, "image_processor", None) and getattr(processor, "chat_template", None)):
        raise BadInput(
            "has no processor for pictures and chats", remedy="give a vision-language checkpoint", file=source.name
        )
    model = load_model(AutoModelForImageTextToText, found, dtype=computing_type(found.name, found.revision))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Chat(source, model.to(device).eval(), processor, max_new_tokens, found if found.adapter else None)
