"""The processor of LLaVA-Mistral: a conversation and its pictures become tensors."""

from transformers import LlavaProcessor


class LlavaMistralProcessor(LlavaProcessor):
    r"""CLIP's image processor and the text model's tokenizer in one object.

    A call takes `text` with one `<image>` per picture and returns `input_ids` and `attention_mask` `(batch, length)`,
    in which every `<image>` has become as many image tokens as the tower has patches, and `pixel_values` `(pictures,
    3, height, width)`. `apply_chat_template` words a conversation and does the same.

    Args:
        image_processor: `CLIPImageProcessor` (centre crop) or `LlavaImageProcessor` with `do_pad` (LLaVA-1.5's square
        by
            mean colour).
        tokenizer: the text model's, with `image_token` as one special token.
        patch_size (`int`): side of the tower's patches in pixels.
        vision_feature_select_strategy (`str`): `"default"` leaves the class token out, `"full"` keeps it.
        chat_template (`str`): Jinja template that words a conversation.
        image_token (`str`): the picture's placeholder in a prompt.
        num_additional_image_tokens (`int`): tokens the tower adds to the patches; 1 for CLIP's class token.
    """

    # The library's loader looks for the names of the parts in the class itself when it is remote code.
    attributes = ["image_processor", "tokenizer"]

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
        # The library sets this when it saves and drops it when it loads; a processor is then unequal to its own copy.
        self.auto_map = {"AutoProcessor": "processing_llava_mistral.LlavaMistralProcessor"}

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """One image token per patch feature of picture `image_idx`, from the size of its pixels."""
        height, width = image_inputs["pixel_values"][image_idx].shape[-2:]
        count = (height // self.patch_size) * (width // self.patch_size) + self.num_additional_image_tokens
        return self.image_token * (count - (self.vision_feature_select_strategy == "default"))


LlavaMistralProcessor.register_for_auto_class()

__all__ = ["LlavaMistralProcessor"]
