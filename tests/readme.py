"""README as tests read it: its examples, and what it says that they print."""

import re
from dataclasses import dataclass
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

MARK = "<!-- runs -->"
AGENT_FRAMEWORK = "<!-- runs with Agent Framework -->"
_BLOCK = r"\n```(?P<language>sh|python|js)\n(?P<code>.*?)^```\n(?:\n*```text\n(?P<output>.*?)^```\n)?"
ANYTHING = "…"
"""In what README shows: any text; alone on a line: any lines."""
BETWEEN_BLOCKS = "\x1e"


@dataclass(frozen=True, slots=True)
class Example:
    """A block of README that runs, and what README says that it prints."""

    language: str
    code: str
    output: str

    @property
    def script(self) -> str:
        """The block, of shell or Python, as part of a shell script."""
        body = self.code if self.language == "sh" else f"python - <<'END'\n{self.code}END\n"
        return f"{body}printf '{BETWEEN_BLOCKS}'\n"

    def prints(self, text: str) -> bool:
        """Whether this is what README shows; how wide the columns of a table are does not matter."""
        lines = [
            "(?:.*\n)*" if line == ANYTHING else f"{'.*'.join(map(re.escape, line.split(ANYTHING)))}\n"
            for line in re.sub(" +", " ", self.output).splitlines()
        ]
        return re.fullmatch("".join(lines), re.sub(" +", " ", text)) is not None


def examples(mark: str) -> list[Example]:
    """The blocks that stand below this mark."""
    found = re.finditer(re.escape(mark) + _BLOCK, README, re.S | re.M)
    return [Example(one["language"], one["code"], one["output"] or "") for one in found]


EXAMPLES = examples(MARK)
