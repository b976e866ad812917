"""Text to ids and back, and messages to a prompt, from a model's own files."""

from pomona_gateway.tokenizer.source import LanguageModel, load_language_model
from pomona_gateway.tokenizer.tokenizer import Tokenizer

__all__ = ["LanguageModel", "Tokenizer", "load_language_model"]
