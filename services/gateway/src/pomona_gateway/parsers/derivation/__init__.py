"""Derives the notation of reasoning and tool calls from a chat template."""
