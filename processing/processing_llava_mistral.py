"""The processor of LLaVA-Mistral: a conversation and its pictures become tensors."""

import re
from inspect import signature

from jinja2 import TemplateError
from transformers import LlavaNextProcessor, LlavaProcessor

from .pictures_llava_mistral import PICTURE_KEYS, check_form, decoded, decoded_chat

# Between the first two characters of a control token that a user wrote: it shows nothing, and the token stays text.
WORD_JOINER = "\u2060"
ROLES = ("system", "user", "assistant")
# What the library keeps of the call that opened a tokenizer, and would write into its folder, which may be published.
CALL_ARGUMENTS = ("local_files_only", "is_local", "cache_dir", "token", "proxies", "force_download", "subfolder")


class RefusedRequest(TemplateError, ValueError):
    """A request that cannot be answered. Servers may answer with `status_code` and the message.

    It is a `TemplateError`, too, because trainers try a template out and expect one where it refuses.
    """

    status_code = 400


class LlavaMistralProcessor(LlavaProcessor):
    r"""CLIP's image processor and the text model's tokenizer in one object.

    A call takes `text` with one `<image>` per picture and returns `input_ids` and `attention_mask` `(batch, length)`,
    in which every `<image>` has become as many image tokens as the picture has features, and `pixel_values`
    `(pictures, 3, height, width)`, or with anyres `(pictures, tiles, 3, height, width)` and `image_sizes`
    `(pictures, 2)`.
    `apply_chat_template` words a conversation and does the same; an `<image>` or `</s>` in a user's own words stays
    text. A picture is a PIL picture, an array, a path, the bytes of a file or base64, and has the same pixels in each
    of these forms (`pictures_llava_mistral.py`). No address is fetched.

    Args:
        image_processor: `CLIPImageProcessor` (centre crop), `LlavaImageProcessor` with `do_pad` (LLaVA-1.5's square by
            mean colour) or `LlavaNextImageProcessor` (LLaVA-1.6's tiles, "anyres").
        tokenizer: the text model's, with `image_token` as one special token.
        patch_size (`int`): side of the tower's patches in pixels.
        vision_feature_select_strategy (`str`): `"default"` leaves the class token out, `"full"` keeps it.
        chat_template (`str`): Jinja template that words a conversation.
        image_token (`str`): the picture's placeholder in a prompt.
        num_additional_image_tokens (`int`): tokens the tower adds to the patches; 1 for CLIP's class token.
    """

    # The library's loader looks for the names of the parts in the class itself when it is remote code.
    attributes = ["image_processor", "tokenizer"]

    # A server sets this: what its clients give as `url` is then a picture's bytes and never a path of the server's.
    serves_strangers = False

    # How a folder of the original LLaVA code becomes a processor. The plugin sets it when `processing` is imported
    # (`original.py`, which does not travel); code in a published folder never meets such a folder.
    read_original = None

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        patch_size=None,
        vision_feature_select_strategy="default",
        chat_template=None,
        image_token="<image>",
        num_additional_image_tokens=1,
        **kwargs,
    ):
        if tokenizer is not None and image_token not in tokenizer.get_vocab():
            raise ValueError(
                f"image token {image_token!r} is not in the tokenizer's vocabulary; add it as a special token first"
            )
        super().__init__(
            image_processor=image_processor,
            tokenizer=tokenizer,
            patch_size=patch_size,
            vision_feature_select_strategy=vision_feature_select_strategy,
            chat_template=chat_template,
            image_token=image_token,
            num_additional_image_tokens=num_additional_image_tokens,
            **kwargs,
        )
        # LLaMA's tokenizer takes `legacy` and does not save it; its copy would begin words with other tokens.
        if getattr(tokenizer, "legacy", None) is not None:
            tokenizer.init_kwargs["legacy"] = tokenizer.legacy
        for name in CALL_ARGUMENTS:
            getattr(tokenizer, "init_kwargs", {}).pop(name, None)
        # The library sets this when it saves and drops it when it loads; a processor is then unequal to its own copy.
        self.auto_map = {"AutoProcessor": "processing_llava_mistral.LlavaMistralProcessor"}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, tokenizer=None, **kwargs):
        """As [`ProcessorMixin.from_pretrained`]; a folder of the original LLaVA code is read as it is.

        Args:
            tokenizer: takes the place of the folder's own, and is needed where an original folder carries none.
        """
        if cls.read_original is not None:
            original = cls.read_original(pretrained_model_name_or_path, tokenizer, **kwargs)
            if original is not None:
                return original
        if tokenizer is not None:
            kwargs["tokenizer"] = tokenizer
        if kwargs.get("trust_remote_code") is None:
            kwargs["trust_remote_code"] = False  # AutoTokenizer would ask whether to run the code of the model
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @property
    def image_aspect_ratio(self) -> str:
        """What becomes of a picture: `"anyres"`, `"pad"` or `"square"`, as in the model's configuration."""
        if hasattr(self.image_processor, "image_grid_pinpoints"):
            return "anyres"
        return "pad" if getattr(self.image_processor, "do_pad", None) else "square"

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """One image token per feature of picture `image_idx`, from the size of its pixels."""
        if self.patch_size is None:
            raise ValueError("patch_size is not set, and features cannot be counted; give that of the vision tower")
        if self.image_aspect_ratio == "anyres":
            return LlavaNextProcessor.replace_image_token(self, image_inputs, image_idx, **kwargs)
        height, width = image_inputs["pixel_values"][image_idx].shape[-2:]
        count = (height // self.patch_size) * (width // self.patch_size) + self.num_additional_image_tokens
        return self.image_token * (count - (self.vision_feature_select_strategy == "default"))

    _get_number_of_features = LlavaNextProcessor._get_number_of_features
    _get_unpadded_features = LlavaNextProcessor._get_unpadded_features

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        family = LlavaNextProcessor if self.image_aspect_ratio == "anyres" else LlavaProcessor
        return family._get_num_multimodal_tokens(self, image_sizes, **kwargs)

    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """As [`ProcessorMixin.apply_chat_template`], after a look at the messages and their pictures.

        A control token in somebody's words stays text: the template parts it with a word joiner (U+2060).
        Where a template does not (one of the caller's own, or of an older checkpoint), it is done here.

        Args:
            protected_tokens (`list[str]`, *optional*): the tokens that are parted; by default those that the template
                and the pictures use (image, beginning, end, padding, unknown, and `[INST]` where it is written). A
                token of your own that was added with `add_tokens` is that token, in everybody's words, unless it is
                named here. An empty list parts none.

        Raises:
            ValueError: it is no conversation of system, user and assistant (with a `chat_template` of the caller's,
                of whatever roles that knows), or a picture is none, or an address: a server would fetch or open, in
                its own name, what a stranger points at. The message is named by its place. The error is a
                `jinja2.TemplateError`, too.
        """
        try:
            batched = isinstance(conversation, list | tuple) and conversation
            batched = batched and isinstance(conversation[0], list | tuple)
            chats = []
            for chat in conversation if batched else [conversation]:
                self._check_chat(chat, own_template=chat_template is None)
                chats.append(decoded_chat(chat) if kwargs.get("tokenize") else chat)
            template = chat_template or self.chat_template
            if isinstance(template, str) and WORD_JOINER not in template:
                tokens = kwargs.get("protected_tokens")
                tokens = self._control_tokens() if tokens is None else tokens
                chats = [_parted_chat(chat, tokens) for chat in chats]
                kwargs = {key: value for key, value in kwargs.items() if key != "protected_tokens"}
            marks = not isinstance(template, str) or re.search(r"\{%-?\s*generation\b", template)
            if kwargs.get("return_assistant_tokens_mask") and not marks:  # the library would mark nothing
                raise ValueError("the chat template does not mark answers; tokenize prompt and conversation instead")
            if kwargs.get("tokenize") and "processor_kwargs" in signature(super().apply_chat_template).parameters:
                # As a tokenizer does it: what stands before a chat, the template alone says.
                kwargs["processor_kwargs"] = {"add_special_tokens": False, **(kwargs.get("processor_kwargs") or {})}
            return super().apply_chat_template(chats if batched else chats[0], chat_template, **kwargs)
        except Exception as error:  # Pillow, Jinja and the library have no error in common
            reason = " ".join((str(error) or type(error).__name__).split())[:300]
            raise RefusedRequest(reason) from error

    def _control_tokens(self) -> list[str]:
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return [self.image_token, *filter(None, (getattr(self.tokenizer, name) for name in names))]

    def _check_chat(self, chat, own_template: bool) -> None:
        """Refuse what no template could word, with the place and the remedy."""

        def wrong(index, field, problem, remedy):
            return ValueError(f"message {index}: field {field}: {problem}; {remedy}")

        if not isinstance(chat, list | tuple) or not chat:
            raise ValueError(
                "the conversation is not a list of messages, or is empty; give [{'role': 'user', 'content': …}, …]"
            )
        for index, message in enumerate(chat):
            role = message.get("role") if isinstance(message, dict) else None
            if not isinstance(role, str) or (own_template and role not in ROLES):
                raise wrong(index, "role", f"{str(role)[:40]!r} is unknown", f"use {', '.join(ROLES)}")
            if own_template and role == "system" and index:
                raise wrong(index, "role", "the system message must come first", "move it or drop it")
            if own_template and message.get("tool_calls"):
                raise wrong(index, "tool_calls", "tools are not supported", "leave them out")
            content = message.get("content")
            if isinstance(content, str):
                continue
            if not isinstance(content, list | tuple) or not all(isinstance(part, dict) for part in content):
                raise wrong(index, "content", "is neither a text nor a list of parts", "give one of them")
            for part in content:
                kind = part.get("type")
                if kind == "text" and not isinstance(part.get("text"), str):
                    raise wrong(index, "text", f"is {type(part.get('text')).__name__}, not text", "give a text")
                if not isinstance(kind, str) or (own_template and kind not in ("text", "image", "image_url")):
                    raise wrong(index, "type", f"{str(kind)[:40]!r} is unknown", "use text or image")
                if own_template and kind != "text" and role != "user":
                    raise wrong(index, "content", f"a picture cannot come from {role}", "put it into a user's message")
                self._check_picture(part, index)

    def _check_picture(self, part: dict, index: int) -> None:
        if part["type"] not in ("image", "image_url"):
            return
        try:
            for key in ("url", "image_url") if self.serves_strangers else ():
                address = part.get(key)
                name = address.get("url") if isinstance(address, dict) else address
                if isinstance(name, str) and not name.startswith("data:"):
                    raise ValueError(
                        f"the picture {name[:80]!r} is an address; send its bytes as data:image/png;base64,…"
                    )
            check_form([part[key] for key in PICTURE_KEYS if key in part])
        except ValueError as error:
            raise ValueError(f"message {index}: field image: {error}") from None

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        check_form(images)
        own = getattr(self.image_processor, "do_rescale", True)
        scaled = not kwargs.get("do_rescale", kwargs.get("images_kwargs", {}).get("do_rescale", own))
        images = decoded(images, keep_arrays=scaled)
        return super().prepare_inputs_layout(images=images, text=text, videos=videos, audio=audio, **kwargs)

    def _validated(self, images, text) -> None:
        """Refuse a batch whose samples do not have the pictures their prompts speak of, and name the first of them."""
        if not isinstance(images, list | tuple) or not isinstance(text, list) or len(images) != len(text):
            return
        if not all(isinstance(own, list | tuple) for own in images):
            return  # one flat list: only the tokens show which picture belongs to which sample
        for index, (own, sample) in enumerate(zip(images, text, strict=True)):
            if (tokens := sample.count(self.image_token)) != len(own):
                raise ValueError(
                    f"sample {index} has {tokens} {self.image_token} tokens and {len(own)} images; make them agree"
                )

    def validate_inputs(self, images=None, text=None, **kwargs):
        self._validated(images, text)
        super().validate_inputs(images=images, text=text, **kwargs)


def _parted_chat(chat: list[dict], tokens: list[str]) -> list[dict]:
    """Return the messages with every one of `tokens` in their texts parted, as the shipped templates do."""

    def parted(text: str) -> str:
        for token in (token for token in tokens if len(token) > 1):
            text = text.replace(token, token[:1] + WORD_JOINER + token[1:])
        return text

    def literal(content):
        if isinstance(content, str):
            return parted(content)
        parts, before = [], ""
        for part in content:
            if isinstance(part.get("text"), str):
                text = parted(part["text"])
                if any(token in before + text for token in tokens):  # a template puts the parts side by side
                    text = WORD_JOINER + text
                part, before = {**part, "text": text}, before + text
            parts.append(part)
        return parts

    return [{**message, "content": literal(message["content"])} for message in chat]


LlavaMistralProcessor.register_for_auto_class()

__all__ = ["LlavaMistralProcessor"]
