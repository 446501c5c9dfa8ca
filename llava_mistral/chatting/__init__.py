"""A chat with a model: messages in, answers streamed back."""
