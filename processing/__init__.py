"""What the model reads: the processor, the wording of questions and conversations, and the data sets.

The processor needs transformers, the rest of the package does not; it is imported when it is asked for, so that a verb
that only reads questions starts at once.
"""

__all__ = ["LlavaMistralProcessor"]


def __getattr__(name: str):
    if name == "LlavaMistralProcessor":
        from processing.original import read_processor
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
