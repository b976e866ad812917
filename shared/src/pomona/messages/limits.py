"""Types of fields that messages share, with their limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

MAX_ROWS = 4096

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, StringConstraints(max_length=4096)]
Endpoint = Annotated[str, StringConstraints(max_length=256)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Rate = Annotated[float, Field(ge=0)]
LayerIndex = Annotated[int, Field(ge=0, le=4096)]
RequestId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Identifier = Annotated[int, Field(ge=0, le=2**53)]
