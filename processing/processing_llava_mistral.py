"""The processor of LLaVA-Mistral: a conversation and its pictures become tensors."""

from transformers import LlavaNextProcessor, LlavaProcessor

# Between the first two characters of an image token that a user wrote: it shows nothing, and what is shown stays text.
WORD_JOINER = "\u2060"


class LlavaMistralProcessor(LlavaProcessor):
    r"""CLIP's image processor and the text model's tokenizer in one object.

    A call takes `text` with one `<image>` per picture and returns `input_ids` and `attention_mask` `(batch, length)`,
    in which every `<image>` has become as many image tokens as the picture has features, and `pixel_values`
    `(pictures, 3, height, width)`, or with anyres `(pictures, tiles, 3, height, width)` and `image_sizes`
    `(pictures, 2)`.
    `apply_chat_template` words a conversation and does the same; an `<image>` in a user's own words stays text.

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
        # LLaMA's tokenizer is told `legacy` and does not save it; its copy would begin words with other tokens.
        if getattr(tokenizer, "legacy", None) is not None:
            tokenizer.init_kwargs["legacy"] = tokenizer.legacy
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
        """As [`ProcessorMixin.apply_chat_template`], but an image token in somebody's own words stays text.

        A word joiner (U+2060) parts it, so that no picture is looked for where someone asks about HTML.
        """
        parted = self.image_token[:1] + WORD_JOINER + self.image_token[1:]

        def literal(node):
            if isinstance(node, str):
                return node.replace(self.image_token, parted)
            if isinstance(node, list | tuple):
                return [literal(item) for item in node]
            if isinstance(node, dict):
                return {key: literal(item) if key in ("content", "text") else item for key, item in node.items()}
            return node

        return super().apply_chat_template(literal(conversation), chat_template, **kwargs)

    def _validated(self, images, text) -> None:
        """Refuse a batch whose samples do not have the pictures their prompts speak of, and name the first of them."""
        if not isinstance(images, list | tuple) or not isinstance(text, list) or len(images) != len(text):
            return
        if not all(isinstance(own, list | tuple) for own in images):
            return  # one flat list: which picture belongs to whom is told by the tokens alone
        for index, (own, sample) in enumerate(zip(images, text, strict=True)):
            if (tokens := sample.count(self.image_token)) != len(own):
                raise ValueError(
                    f"sample {index} has {tokens} {self.image_token} tokens and {len(own)} images; make them agree"
                )

    def validate_inputs(self, images=None, text=None, **kwargs):
        self._validated(images, text)
        super().validate_inputs(images=images, text=text, **kwargs)


LlavaMistralProcessor.register_for_auto_class()

__all__ = ["LlavaMistralProcessor"]
