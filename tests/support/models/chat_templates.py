"""Small chat templates, one for each shape of notation that models have. Their marks are of no
real model, so nothing but rendering can tell what they mean."""

from __future__ import annotations

_FRAME = """{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{{- '<|turn|>model\\n' -}}
{%- if m.reasoning_content %}{{ REASONING }}{% endif -%}
{{- m.content or '' -}}
{%- if m.tool_calls %}CALLS{% endif -%}
{{- '<|over|>\\n' -}}
{%- else -%}
{{- '<|turn|>' + m.role + '\\n' + (m.content or '') + '<|over|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|turn|>model\\n' }}{% endif -%}
"""
_THINK = "'<muse>\\n' + m.reasoning_content + '\\n</muse>\\n\\n'"


def _template(calls: str, reasoning: str = _THINK) -> str:
    return _FRAME.replace("REASONING", reasoning).replace("CALLS", calls)


def _each(call: str, before: str = "", between: str = "", after: str = "") -> str:
    gap = f"{{% if not loop.last %}}{{{{ '{between}' }}}}{{% endif %}}"
    body = f"{{% set f = c.function %}}{call}{gap}"
    return (
        f"{{{{ '{before}' }}}}{{% for c in m.tool_calls %}}{body}{{% endfor %}}{{{{ '{after}' }}}}"
    )


def _fields(field: str) -> str:
    return f"{{% for k, v in f.arguments.items() %}}{field}{{% endfor %}}"


_VALUE = "{{ v if v is string else v | tojson }}"
_OBJECT = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
_RELAXED = """{%- macro relaxed(v) -%}
{%- if v is string %}<~>{{ v }}<~>
{%- elif v is mapping %}{{ '{' }}{% for k, x in v.items() -%}
{{ k }}:{{ relaxed(x) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}
{%- elif v is sequence %}[{% for x in v %}{{ relaxed(x) }}{% if not loop.last %},{% endif -%}
{% endfor %}]{% else %}{{ v | tojson }}{% endif -%}
{%- endmacro -%}
"""
_PYTHON = """{%- macro literal(v) -%}
{%- if v is string %}{{ v | tojson }}{% elif v is none %}None{% elif v is boolean -%}
{{ 'True' if v else 'False' }}{% else %}{{ v | tojson }}{% endif -%}
{%- endmacro -%}
"""

TEMPLATES = {
    "objects in tags": _template(_each("<do>\n" + _OBJECT + "\n</do>", "\\n", "\\n")),
    "list of objects with ids": _template(
        _each(_OBJECT[:-1] + ', "id": "{{ c.id }}"}', "[DO_THESE][", ", ", "]"),
        "'[MULL]' + m.reasoning_content + '[/MULL]'",
    ),
    "objects with a numbered key first": _template(
        _each(
            '{"nr": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", '
            '"parameters": {{ f.arguments | tojson }}}',
            "<|DO|>[\\n  ",
            ",\\n  ",
            "\\n]<|DONE|>",
        ),
        "'<|BEGIN_MUSE|>' + m.reasoning_content + '<|END_MUSE|>'",
    ),
    "names as keys": _template(
        _each('{"{{ f.name }}": {{ f.arguments | tojson }}}', "<|do|>[", ", ", "]<|/do|>")
    ),
    "named objects in a section": _template(
        _each(
            "<|one|>functions.{{ f.name }}:{{ loop.index0 }}<|with|>"
            "{{ f.arguments | tojson }}<|/one|>",
            "<|all|>",
            "",
            "<|/all|>",
        )
    ),
    "named objects with a mark": _template(
        _each("[DO]{{ f.name }}[WITH]{{ f.arguments | tojson }}")
    ),
    "fenced objects": _template(
        _each(
            "<|one|>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```<|/one|>",
            "<|all|>",
            "\\n",
            "<|/all|>",
        )
    ),
    "tags on lines of their own": _template(
        _each(
            "<do>\n<call={{ f.name }}>\n"
            + _fields("<arg={{ k }}>\n" + _VALUE + "\n</arg>\n")
            + "</call>\n</do>",
            "\\n",
            "\\n",
        )
    ),
    "tags in one line": _template(
        _each("<do>{{ f.name }}" + _fields("<k>{{ k }}</k><v>" + _VALUE + "</v>") + "</do>")
    ),
    "tags with attributes": _template(
        _each(
            '<run name="{{ f.name }}">\n'
            + _fields(
                "<p name=\"{{ k }}\" text=\"{{ 'yes' if v is string else 'no' }}\">"
                + _VALUE
                + "</p>\n"
            )
            + "</run>\n",
            "<doing>\\n",
            "",
            "</doing>",
        )
    ),
    "relaxed objects": _RELAXED
    + _template(
        _each("<|do>run:{{ f.name }}{{ relaxed(f.arguments) }}<do|>"),
        "'<|room>mind\\n' + m.reasoning_content + '\\n<room|>'",
    ),
    "Python calls": _PYTHON
    + _template(
        _each(
            "{{ f.name }}("
            + _fields("{{ k }}={{ literal(v) }}{% if not loop.last %}, {% endif %}")
            + ")",
            "<|do|>[",
            ", ",
            "]<|/do|>",
        )
    ),
    "a word before a list": _template(_each(_OBJECT, "doit[", ", ", "]")),
    "arguments as text": _template(
        _each("<|one|>{{ f.name }}<|with|>{{ '' + f.arguments }}<|/one|>")
    ),
}
BARE = _template(_each('{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'))
"""Calls that no mark begins."""
HARMONY = """{%- for m in messages -%}
{%- if m.role == 'assistant' and m.tool_calls -%}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>
{%- endif -%}
{% set f = m.tool_calls[0].function -%}
<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary json<|message|>
{{- f.arguments | tojson }}<|call|>
{%- elif m.role == 'assistant' -%}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>
{%- endif -%}
<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>
{%- else -%}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|start|>assistant{% endif -%}
"""
RECIPIENTS = """{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- if m.reasoning_content -%}
{{- '<|turn|>model to=mind<|says|>' + m.reasoning_content + '<|next|>' -}}
{%- endif -%}
{%- if m.tool_calls -%}
{%- for c in m.tool_calls -%}
{{- '<|turn|>model to=' + c.function.name + '<|says|>' + c.function.arguments | tojson -}}
{{- '<|over|>' if loop.last else '<|next|>' -}}
{%- endfor -%}
{%- else -%}{{- '<|turn|>model to=user<|says|>' + m.content + '<|over|>' -}}{%- endif -%}
{%- else -%}{{- '<|turn|>' + m.role + '<|says|>' + m.content + '<|over|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|turn|>model' }}{% endif -%}
"""
"""A turn for each part of a reply, which names its recipient."""
PROMPTED = """{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
{%- if m.content is not none -%}
{{- '<|from|>model\n<|to|>all\n<|body|>' + m.content -}}
{%- endif -%}
{%- for c in m.tool_calls or [] -%}
{%- if not loop.first or m.content is not none %}{{ '\n' }}{% endif -%}
{{- '<|from|>model\n<|to|>' + c.function.name + '\n<|body|>' + c.function.arguments -}}
{%- endfor -%}
{{- '<|over|>\n' -}}
{%- else -%}{{- '<|from|>' + m.role + '\n<|to|>all\n<|body|>' + m.content + '\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|from|>model\n<|to|>' }}{% endif -%}
"""
"""The prompt already writes the head of a call, or of an answer."""
ALWAYS_PROMPTS = """{{- bos_token + functions + datetime -}}
{%- for m in messages -%}
{{- '<|turn|>' + m.role + '\n' + (m.content or '') -}}
{%- if m.tool_calls -%}
{{- ' doit[' -}}
{%- for c in m.tool_calls -%}
{{- '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson + '}' -}}
{%- if not loop.last %}{{ ', ' }}{% endif -%}
{%- endfor -%}
{{- ']' -}}
{%- endif -%}
{{- '<|over|>' -}}
{%- endfor -%}
{{- '<|turn|>assistant\n' -}}
"""
"""Writes the prompt for an answer always, and needs variables beside the usual ones."""
LISTED = """{%- if tools %}Answer with a list:
```
[
    {"name": "one", "arguments": {"an": "argument"}}
]
```
{{ tools | tojson }}
{% endif -%}
{%- for m in messages %}{{ '<|turn|>' + m.role + '\n' + m.content + '<|over|>' }}{% endfor -%}
{{- '<|turn|>assistant\n' -}}
"""
"""Shows the form of calls in its instructions only."""
NAMES_FIRST = """[gMASK]{%- if tools %}{{ tools | tojson }}{% endif -%}
{%- for m in messages -%}
{{ '<|' + m.role + '|>' + (m.metadata or '') + '\n' + m.content }}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}
"""
"""Calls have their name on the line of the header."""
MLX_LM = """{%- if tools %}Call in <atem:function_calls> blocks. {{ tools | tojson }}{% endif -%}
{%- for m in messages %}{{ '<|turn|>' + m.role + '\n' + m.content + '<|over|>' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<|turn|>model\n' }}{% endif -%}
"""
"""Renders no calls, and names only the mark of a notation that mlx-lm has a parser for."""

_CHAT = """{%- for m in messages %}[{{ m.role }}]{{ m.content }}TOOLS{% endfor -%}
{%- if add_generation_prompt %}[assistant]{% endif -%}"""
TYPED_TOOLS = {
    "one type each": """{%- macro kind(s) -%}
{%- if s.type is not string %}{{ raise_exception('one type') }}{% endif -%}
{{ s.type + ' ' + s.description }}
{%- if s.type == 'array' %}{{ '[' + kind(s['items']) + ']' }}{% endif -%}
{%- for k, v in (s.properties or {}).items() %}{{ k + ': ' + kind(v) + ', ' }}{% endfor -%}
{%- endmacro -%}
{%- for t in tools or [] %}{{ t.function.name + ' ' + t.function.description }}(
{%- for k, v in t.function.parameters.properties.items() %}{{ k + ': ' + kind(v) + ', ' }}
{%- endfor %}){% endfor -%}"""
    + _CHAT.replace("TOOLS", ""),
    "types joined": """{%- for t in tools or [] %}{{ t.function.name + t.function.description }}
{%- for k, v in t.function.parameters.properties.items() %}
{{- k + ': ' + (v.type if v.type is string else v.type | join('|')) }}
{%- for x in v.get('enum', []) %}{{ ' ' + x }}{% endfor %}{% endfor %}{% endfor -%}"""
    + _CHAT.replace("TOOLS", ""),
    "names only": """{%- for t in tools or [] %}{{ t.function.name }}{% endfor -%}"""
    + _CHAT.replace("TOOLS", ""),
    "rejects all tools": """{%- if tools and tools[0].function.name == 'look_up' %}
{{- raise_exception('no') }}{% endif -%}{%- for t in tools or [] %}{{ t | tojson }}{% endfor -%}"""
    + _CHAT.replace("TOOLS", ""),
    "beside a system message": _CHAT.replace(
        "TOOLS", "{% if m.role == 'system' %}{{ tools | tojson }}{% endif %}"
    ),
}
"""Templates that render the schemas of tools, or reject some."""
