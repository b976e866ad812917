"""Text to token ids and back, and messages to prompts, with a model's own files."""

from pomona_gateway.text.language_model import (
    LanguageModel,
    load_language_model,
    probe_language_model,
)
from pomona_gateway.text.render_chat import render_chat
from pomona_gateway.text.tokenizer import Tokenizer
from pomona_gateway.text.vocabulary import Vocabulary

__all__ = [
    "LanguageModel",
    "Tokenizer",
    "Vocabulary",
    "load_language_model",
    "probe_language_model",
    "render_chat",
]
