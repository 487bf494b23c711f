"""YAML files that a user or somebody else wrote: one that is wrong gives a one-line error, never a traceback."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sharp_mobile.errors import SharpError
from sharp_mobile.json_file import read_text


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error: the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []  # not a set: YAML has keys that cannot be hashed
        for node_of_key, _ in node.value:
            key = self.construct_object(node_of_key, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is written twice", node_of_key.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: plain data, for the loader makes no objects.

    Raises:
        SharpError: it cannot be read, is not YAML, has a key twice, or is nested deeper than Python's recursion limit.
    """
    text = read_text(path)
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise SharpError(f"{path}: {line}{error.problem}; correct the YAML") from error
    except RecursionError as error:
        raise SharpError(f"{path}: is nested too deeply; correct the YAML") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # also a date or a number that cannot be
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SharpError(f"{path}: is not YAML ({reason}); correct it") from error
