"""The processor, which turns pictures and words into what the model reads, and its chat templates.

The processor needs transformers and is imported on first use, so that a program that only wants the templates
starts at once.
"""

from pathlib import Path

CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"

__all__ = ["CHAT_TEMPLATES", "LlavaMistralProcessor"]


def __getattr__(name: str):
    if name == "LlavaMistralProcessor":
        from llava_mistral.checkpoints.original_processor import read_processor
        from processing.processing_llava_mistral import LlavaMistralProcessor

        LlavaMistralProcessor.read_original = staticmethod(read_processor)
        _register(LlavaMistralProcessor)
        return LlavaMistralProcessor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register(processor_class) -> None:
    """Let AutoProcessor open folders without remote code, the original code's too, where the plugin is imported.

    The configuration is looked up in the library, not imported: neither package needs the other.
    """
    from transformers import CONFIG_MAPPING, AutoProcessor

    if "llava_mistral" in CONFIG_MAPPING:
        AutoProcessor.register(CONFIG_MAPPING["llava_mistral"], processor_class, exist_ok=True)
