"""What a simulated model says: text, JSON for a schema, tool arguments, obfuscation, bytes. Pure and seeded."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

_OPENINGS = (
    "The night ferry", "A patient reader", "The second lighthouse", "Every ledger", "The harbour office",
    "An old signal lamp", "The relay station", "Each returning boat", "The quiet archive", "A careful clerk",
)  # fmt: skip
_MIDDLES = (
    "keeps a record of", "waits for", "never forgets", "counts", "writes down", "answers",
    "listens to", "remembers", "sends word about", "looks after",
)  # fmt: skip
_ENDINGS = (
    "what the tide has carried in", "every message in its order", "the one letter that came late",
    "the storm that cut the line", "those who left and came back", "the last number that was read out",
    "what others thought was lost", "the long work of the night", "a voice from the other shore",
)  # fmt: skip
_SENTENCES_PER_PARAGRAPH = 4


def words(seed: str, count: int) -> list[str]:
    """`count` pieces of text, a word each with the white space before it, that join to sentences and paragraphs."""
    rng = random.Random(seed)
    pieces: list[str] = []
    sentence = 0
    while len(pieces) < count:
        text = f"{rng.choice(_OPENINGS)} {rng.choice(_MIDDLES)} {rng.choice(_ENDINGS)}."
        first, *rest = text.split(" ")
        gap = "" if not sentence else "\n\n" if sentence % _SENTENCES_PER_PARAGRAPH == 0 else " "
        pieces += [gap + first, *(f" {word}" for word in rest)]
        sentence += 1
    del pieces[count:]
    return [*pieces[:-1], pieces[-1].rstrip(".") + "."] if pieces else []


def pieces_of(text: str, size: int = 8) -> list[str]:
    """The text cut into deltas of `size` characters; one empty one for an empty text."""
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def instance_of(schema: Any, seed: str, root: Any = None) -> Any:
    """A small value that fits a JSON schema, as far as OpenAI's structured outputs use schemas.

    Follows `$ref` within the document, `anyOf` (its first), `enum`, `const`; a property's text is two words. A schema
    that refers to itself takes the way out that it has: an empty list, or null.
    """
    return _instance(schema, seed, schema if root is None else root, 0)


def _instance(schema: Any, seed: str, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > 8:
        return None
    if "$ref" in schema:
        target = root
        for part in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = target.get(part, {}) if part and isinstance(target, dict) else target
        return _instance(target, seed, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices:
        return _instance(choices[-1 if depth > 4 else 0], seed, root, depth + 1)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {key: _instance(sub, f"{seed}/{key}", root, depth + 1) for key, sub in properties.items()}
    if kind == "array":
        size = max(int(schema.get("minItems", 0)), 0 if depth > 4 else 1)
        return [_instance(schema.get("items"), f"{seed}/{index}", root, depth + 1) for index in range(size)]
    rng = random.Random(seed)
    low = schema.get("minimum", 1)
    plain: dict[str, Any] = {
        "string": "".join(words(seed, 2)),
        "integer": int(low) + rng.randrange(9),
        "number": low + rng.randrange(9) + 0.5,
        "boolean": rng.random() < 0.5,
    }
    return plain.get(str(kind))


def obfuscation(seed: str, position: int) -> str:
    """The random padding of a foreground delta: 8 to 16 characters."""
    digest = hashlib.sha256(f"{seed}:{position}".encode()).hexdigest()
    return digest[: 8 + position % 9]


def content_blocks(file_id: str, size: int) -> Iterator[bytes]:
    """`size` bytes that depend on the file's id alone, in blocks of at most 64 KiB: what a file's content is."""
    block = random.Random(file_id).randbytes(64 * 1024)
    for start in range(0, size, len(block)):
        yield block[: size - start]


def token_count(value: Any) -> int:
    """A stand-in for a tokenizer: four characters of the value's text are a token, and nothing is one at least."""
    return max(1, len(value if isinstance(value, str) else str(value)) // 4)
