"""Prompts of the measurements."""

from __future__ import annotations


def made_up_prompt(length: int, salt: int = 0) -> list[int]:
    """Returns token ids of plain words, different for each salt."""
    return [1000 + (7919 * (i + 131 * salt)) % 20000 for i in range(length)]


def chat_text(user: str) -> str:
    """Returns a question in the chat form of the embedded model."""
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


HARBOUR = (
    "The harbour of Ellsworth lies at the mouth of a slow green river, and every Tuesday the "
    "market opens there before sunrise. Fishermen bring mackerel, crab and long silver eels, "
    "and the baker from the upper town carries bread in two wicker baskets. By seven the "
    "square is full. A woman named Ada sells honey from a blue cart; her brother repairs nets "
    "beside the fountain and tells the children stories about whales. When the bell of the "
    "old customs house rings eight times, the ferry leaves for the islands with letters, "
    "flour and a few tired travellers. In winter the river freezes along its edges, and the "
    "boats are pulled up on the stones, where they are painted red, white and yellow. The "
    "mayor once wanted to build a hotel on the pier, but nobody in the town agreed, so the "
    "pier still belongs to the gulls. Visitors often ask why the lighthouse has no lamp. The "
    "answer is simple: the lamp was moved to the church tower in 1911, after a storm broke "
    "the windows, and the sailors found that they could see it better from there. Since that "
    "year the lighthouse has been a library. It has nine hundred books, most of them about "
    "birds, and a single armchair that faces the sea."
)
"""A text of about 270 tokens in which little repeats."""
