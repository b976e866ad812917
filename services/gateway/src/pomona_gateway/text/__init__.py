"""Text to ids and back, and messages to a prompt, from a model's own files."""

from pomona_gateway.text.conversation import render_chat
from pomona_gateway.text.language_model import LanguageModel, load_language_model
from pomona_gateway.text.tokenizer import Tokenizer

__all__ = ["LanguageModel", "Tokenizer", "load_language_model", "render_chat"]
