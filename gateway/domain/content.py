"""What was said, in the GenAI convention's form of messages: prompts and answers for spans, where that is wanted.

Nothing calls this unless the setting is on. A create body is read when it comes, the final object when its span is
built; what is made of them is JSON in the convention's schema, also where it was cut to a limit: texts grow shorter
first, then the oldest messages go. What is inline in binary (images, audio, files) is named and left out.
Source: `gen-ai-input-messages.json`, `gen-ai-output-messages.json`, `gen-ai-system-instructions.json` and
`gen-ai-tool-definitions.json` of open-telemetry/semantic-conventions-genai.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

# Reading more would hold up everybody else for longer than a span is worth.
_READ_BYTES = 2**20
_SHORTEST_TEXT = 64
_CUT = "…"
_FINISHED: dict[str | None, str] = {"completed": "stop", "incomplete": "length", "failed": "error"}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input", "computer_call": "action"}
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a create asked, each as JSON of at most `limit` bytes; `cut`: it was more."""

    limit: int
    input: str | None = None
    instructions: str | None = None
    tools: str | None = None
    cut: bool = False

    @property
    def place(self) -> "Content":
        """That there is such content, without the content."""
        return Content(self.limit)


class _Asked(msgspec.Struct):
    input: Any = None
    instructions: Any = None
    tools: Any = None


class _Answered(msgspec.Struct):
    output: Any = None


_asked = msgspec.json.Decoder(_Asked)
_answered = msgspec.json.Decoder(_Answered)


def asked(body: bytes, limit: int) -> Content:
    """The content of a create body."""
    try:
        found = _asked.decode(body) if len(body) <= _READ_BYTES else None
    except msgspec.DecodeError:
        found = None
    if found is None:
        return Content(limit, cut=True)
    messages, messages_cut = _fitted(list(_input(found.input)), limit)
    instructions, instructions_cut = _fitted(list(_instructions(found.instructions)), limit)
    tools, tools_cut = _fitted(list(_tools(found.tools)), limit)
    return Content(limit, messages, instructions, tools, messages_cut or instructions_cut or tools_cut)


def answered(body: bytes, limit: int) -> tuple[str | None, bool]:
    """The output messages of a final object as JSON of at most `limit` bytes, and whether they were more."""
    try:
        found = _answered.decode(body) if len(body) <= _READ_BYTES else None
    except msgspec.DecodeError:
        found = None
    return (None, True) if found is None else _fitted(list(_output(found.output)), limit)


def shortened(text: str, limit: int) -> str:
    """The same JSON in at most `limit` bytes."""
    return text if len(text.encode()) <= limit else _fitted(msgspec.json.decode(text), limit)[0] or "[]"


def _fitted(items: list[Any], limit: int) -> tuple[str | None, bool]:
    """A list as JSON within a limit, and whether something of it is missing; None for an empty one."""
    if not items:
        return None, False
    longest, before = limit, len(items)
    while True:
        shown, cut = _shorter(items, longest)
        text = msgspec.json.encode(shown)
        if len(text) <= limit or not items:
            return text.decode(), cut or len(items) < before
        if longest > _SHORTEST_TEXT:
            longest //= 2
        else:
            items = items[len(items) // 4 + 1 :]


def _shorter(value: Any, longest: int) -> tuple[Any, bool]:
    """The value with no text longer than so many characters, and whether one was."""
    if isinstance(value, str):
        return (value, False) if len(value) <= longest else (value[:longest] + _CUT, True)
    if isinstance(value, list):
        parts = [_shorter(part, longest) for part in value]
        return [part for part, _ in parts], any(cut for _, cut in parts)
    if isinstance(value, dict):
        fields = {name: _shorter(field, longest) for name, field in value.items()}
        return {name: field for name, (field, _) in fields.items()}, any(cut for _, cut in fields.values())
    return value, False


def _input(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, str):
        yield {"role": "user", "parts": [_text(value)]}
        return
    for item in _dicts(value):
        if (_word(item, "type") or "").endswith("_output"):
            answer = {"type": "tool_call_response", "id": _id(item), "response": item.get("output")}
            yield {"role": "tool", "parts": [answer]}
        elif parts := list(_parts(item)):
            yield {"role": _word(item, "role") or "assistant", "parts": parts}


def _output(value: Any) -> Iterator[dict[str, Any]]:
    for item in _dicts(value):
        if parts := list(_parts(item)):
            reason = "tool_call" if _word(item, "type") in _CALLS else _FINISHED.get(_word(item, "status"), "stop")
            yield {"role": "assistant", "parts": parts, "finish_reason": reason}


def _instructions(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, str):
        yield _text(value)
    for item in _dicts(value):
        yield from _parts(item)


def _tools(value: Any) -> Iterator[dict[str, Any]]:
    for tool in _dicts(value):
        kind = _word(tool, "type") or "function"
        known = {name: tool[name] for name in ("description", "parameters") if tool.get(name) is not None}
        yield {"type": kind, "name": _word(tool, "name") or kind, **(known if kind == "function" else {})}


def _parts(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an item of a conversation says."""
    match _word(item, "type"):
        case None | "message":
            content = item.get("content")
            if isinstance(content, str):
                yield _text(content)
            for part in _dicts(content):
                yield from _content(part)
        case "reasoning":
            for block in (*_dicts(item.get("summary")), *_dicts(item.get("content"))):
                if isinstance(block.get("text"), str):
                    yield {"type": "reasoning", "content": block["text"]}
        case "compaction":
            yield {"type": "compaction"}
        case str(kind) if kind in _CALLS:
            arguments = _parsed(item.get(_CALLS[kind]))
            yield {"type": "tool_call", "id": _id(item), "name": item.get("name") or "computer", "arguments": arguments}
        case str(kind) if kind.endswith("_call"):
            said = {name: field for name, field in item.items() if name not in ("id", "type", "result")}
            name = kind.removesuffix("_call")
            yield {
                "type": "server_tool_call",
                "id": _id(item),
                "name": name,
                "server_tool_call": {"type": name, **said},
            }


def _content(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = _word(part, "type") or ""
    if kind in _TEXTS and isinstance(part.get(_TEXTS[kind]), str):
        yield _text(part[_TEXTS[kind]])
    elif kind in ("input_image", "input_file", "input_audio"):
        modality = {"input_image": "image", "input_file": "document", "input_audio": "audio"}[kind]
        uri = part.get("image_url") or part.get("file_url")
        if isinstance(part.get("file_id"), str):
            yield {"type": "file", "mime_type": None, "modality": modality, "file_id": part["file_id"]}
        elif isinstance(uri, str) and not uri.startswith("data:"):
            yield {"type": "uri", "mime_type": None, "modality": modality, "uri": uri}
        else:
            mime = uri[5:].partition(";")[0] if isinstance(uri, str) else None
            yield {"type": "blob", "mime_type": mime, "modality": modality, "content": ""}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def _word(item: dict[str, Any], name: str) -> str | None:
    value = item.get(name)
    return value if isinstance(value, str) else None


def _id(item: dict[str, Any]) -> Any:
    return item.get("call_id") or item.get("id")


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def _dicts(value: Any) -> Sequence[dict[str, Any]]:
    items: Iterable[Any] = value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict)]
