"""LangChain's standard tests of a chat model, with langchain-openai.

A scripted model passes all tests. SmolLM2 passes those that need no tool calls of its own.
"""

from __future__ import annotations

import os
from typing import Any

import openai
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from support.questions import ANSWER, MODEL, QUESTION

too_small = pytest.mark.xfail(
    run=False, reason="SmolLM2 is too small; TestAbleModel runs it with a scripted model"
)


def parameters(url: str, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "base_url": f"{url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_retries": 0,
        "stream_usage": True,
        "model_kwargs": {"parallel_tool_calls": False},
    }


class TestAbleModel(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return parameters(os.environ["POMONA_DOUBLE_URL"], "double")

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestSmallModel(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # One sentence is enough, and quick.
        short = {"max_tokens": 40, "stop": [".", "!", "?"]}
        return {**parameters(os.environ["POMONA_CLIENTS_URL"], MODEL), **short}

    @property
    def model_override_value(self) -> str:
        return MODEL

    @property
    def has_structured_output(self) -> bool:
        # `test_openai.py` tests its structured output; here its jokes would not end.
        return False

    @too_small
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None: ...

    @too_small
    async def test_agent_loop(self, model: BaseChatModel) -> None: ...

    @too_small
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None: ...


def test_errors_raise_openais_exceptions() -> None:
    chat = ChatOpenAI(**{**parameters(os.environ["POMONA_CLIENTS_URL"], MODEL), "temperature": 9})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.invoke("Hello")


def test_the_responses_api_gives_the_same_answer() -> None:
    chat = ChatOpenAI(
        model=MODEL,
        base_url=f"{os.environ['POMONA_CLIENTS_URL']}/v1",
        api_key="none",
        temperature=0,
        use_responses_api=True,
    )
    assert chat.invoke(QUESTION).text == ANSWER
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == ANSWER
