"""The processor, which turns pictures and words into what the model reads, and its chat templates.

The processor needs transformers and is imported on first use, so that a program that only wants the templates
starts at once. With it comes the plugin, so that AutoProcessor, AutoTokenizer and AutoConfig know the model.
"""

from pathlib import Path

CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"

__all__ = ["CHAT_TEMPLATES", "LlavaMistralProcessor"]


def __getattr__(name: str):
    if name == "LlavaMistralProcessor":
        from llava_mistral.checkpoints.original_processor import read_processor
        from processing.processing_llava_mistral import LlavaMistralProcessor

        LlavaMistralProcessor.read_original = staticmethod(read_processor)
        globals()[name] = LlavaMistralProcessor
        import modeling_llava_mistral  # noqa: F401  registers all of them

        return LlavaMistralProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
