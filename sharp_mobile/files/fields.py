"""Field types for files from other sources: finite numbers, counts, printable text, plain file names."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from sharp_mobile.errors import SharpError, first_problem
from sharp_mobile.files.paths import is_plain
from sharp_mobile.files.printable import printable

# The largest signed 64-bit integer: Kotlin and Swift can read it, and it does not overflow a float.
LARGEST = (1 << 63) - 1


def _plain_name(name: str) -> str:
    if not is_plain(name):
        raise ValueError(f"{printable(name)!r} is not a relative name of a file inside the directory")
    return name


Text = Annotated[str, AfterValidator(printable)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Seconds = Annotated[float, Field(ge=1e-9, le=1e9, allow_inf_nan=False)]  # clocks count nanoseconds
Elapsed = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]  # seconds since a start
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PlainName = Annotated[str, AfterValidator(_plain_name)]

Model = TypeVar("Model", bound=BaseModel)


def checked(content: object, model: type[Model], source: object, remedy: str) -> Model:
    """Validate the content of a parsed file with a pydantic model.

    Args:
        source: where the content comes from, for the message. remedy: what the user should do about a wrong field.

    Raises:
        SharpError: a field is missing or wrong; the message names the first one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SharpError(f"{source}: {first_problem(error)}; {remedy}") from error
    except RecursionError as error:
        raise SharpError(f"{source}: is nested too deeply; {remedy}") from error
