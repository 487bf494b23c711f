"""Bundle an export with the iPhone app.

    build/exports/shared/ ── model.pte, manifest.json, tokenizer, packed/ ──► ios_bench/Models/shared/

The app reads an export by its manifest and has this project's runtime, so an export that it would refuse on the phone
is refused here.

python -m sharp_mobile.bench.bundle EXPORT [MODELS]     MODELS is the app's directory, ./ios_bench/Models by default
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from sharp_mobile.bench.exports import packed_files, read_export, tokenizer_files
from sharp_mobile.errors import SharpError
from sharp_mobile.files.outputs import replace_directory
from sharp_mobile.files.printable import one_printable_line, printable
from sharp_mobile.pte.package import executorch_package, same_runtime
from sharp_mobile.verify.manifest import MANIFEST_JSON, MODEL_PTE, read_manifest

MODELS = Path("ios_bench/Models")


def bundle(directory: Path, models: Path = MODELS) -> Path:
    """Copy the files that the app needs of an export; an existing export of the same name is replaced.

    Returns:
        The export's directory in the app.

    Raises:
        SharpError: it is not a complete export, is for another runtime, or cannot be copied.
    """
    export = read_export(directory)
    exported_for, runtime = read_manifest(directory).versions.get("executorch"), executorch_package()[1]
    if not same_runtime(exported_for, runtime):
        raise SharpError(
            f"{directory}: was exported for executorch {exported_for}, the app has {runtime}; export the model again"
        )
    name = export.directory.resolve().name
    if not name:
        raise SharpError(f"{directory}: has no directory name to use in the app; copy the export into a directory")
    files = {
        MODEL_PTE: export.pte,
        MANIFEST_JSON: export.directory / MANIFEST_JSON,
        **tokenizer_files(export),
        **packed_files(export),
    }
    with replace_directory(models / name, sources=[export.directory]) as partial:
        for file, source in files.items():
            (partial / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, partial / file)
    return models / name


def _parsed(arguments: Sequence[str]) -> tuple[Path, Path]:
    """The export and the app's directory of exports, from the command's arguments."""
    if len(arguments) not in (1, 2):
        raise SharpError("give an export's directory, and then the app's Models directory if it is not the default")
    export, models = Path(arguments[0]), Path(arguments[1]) if len(arguments) == 2 else MODELS
    if not models.is_dir():
        raise SharpError(f"{models}: no such directory; run in a checkout of sharp_mobile, or name the app's Models")
    return export, models


if __name__ == "__main__":
    try:
        print(printable(str(bundle(*_parsed(sys.argv[1:])))))
    except SharpError as error:
        sys.exit(f"error: {one_printable_line(str(error))}")
