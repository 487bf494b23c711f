"""YAML files of users and others: a wrong file gives a one-line error, never a traceback."""

from collections.abc import Hashable
from pathlib import Path

import yaml

from sharp_mobile.errors import SharpError, joined

# Limits of one file: bytes, levels of nesting, characters of a value, and numbers.
_LARGEST = 1_000_000
_DEEPEST = 20
_LONGEST_VALUE = 10_000
_LARGEST_NUMBER = 10**18


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases, deep nesting and long values: a small file could grow by them, and no recipe needs them.

    A duplicate key is an error, because the first value would be lost silently.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _problem(f"aliases are not supported: write out what *{event.anchor} stands for", event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_VALUE:
            raise _problem(f"a value has {len(event.value)} characters; the limit is {_LONGEST_VALUE}", event)
        if self._depth == _DEEPEST:
            raise _problem(f"is nested more than {_DEEPEST} deep", event)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[Hashable] = set()
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base loader reports it
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is written twice", node_of_key.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if abs(number) >= _LARGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "a number has more than 18 digits", node.start_mark)
        return number


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


def _problem(message: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=message, problem_mark=event.start_mark)  # type: ignore[arg-type]


def read_yaml(path: Path) -> object:
    """Read a YAML file as plain data; the loader creates no Python objects.

    Raises:
        SharpError: the file cannot be read, is not YAML, has a duplicate key, or is larger or deeper than any recipe.
    """
    try:
        content: object = yaml.load(_text(path), _StrictLoader)
        return content
    except SharpError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SharpError(f"{path}: {line}{joined(error.problem or 'is wrong')}; correct the YAML") from error
    except Exception as error:  # a value that does not fit its tag raises any error of its conversion
        raise SharpError(f"{path}: is not YAML ({joined(error) or type(error).__name__}); correct it") from error


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a FIFO would block
            raise SharpError(f"{path}: is not a file; name a .yaml file")
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise SharpError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise SharpError(
            f"{path}: is larger than {_LARGEST:,} bytes, so it is not a recipe; name a recipe's .yaml file"
        )
    return content.decode()
