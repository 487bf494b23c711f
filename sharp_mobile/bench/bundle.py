"""Put an export into the iPhone app, so that it is built into it.

    build/exports/shared/ ── model.pte, manifest.json, packed/ ──► ios_bench/Models/shared/

The app reads its export by the manifest, and its runtime is the one of this project, so what it would refuse on the
phone is refused here.

python -m sharp_mobile.bench.bundle EXPORT
"""

import shutil
import sys
from pathlib import Path

from sharp_mobile.bench.exports import packed_files, read_export
from sharp_mobile.bench.runner import executorch_package
from sharp_mobile.errors import SharpError
from sharp_mobile.lower.manifest import MANIFEST_JSON, MODEL_PTE, read_manifest
from sharp_mobile.outputs import replace_directory
from sharp_mobile.printable import one_printable_line, printable

MODELS = Path(__file__).parents[2] / "ios_bench" / "Models"


def bundle(directory: Path, models: Path = MODELS) -> Path:
    """Copy what the app needs of an export; an export of the same name that is there is replaced.

    Returns:
        The export's directory in the app.

    Raises:
        SharpError: it is no export, not whole, or made for another runtime; or it cannot be copied.
    """
    export = read_export(directory)
    made_for, runtime = read_manifest(directory).versions.get("executorch"), executorch_package()[1]
    if made_for != runtime:
        raise SharpError(
            f"{directory}: was exported for executorch {made_for}, the app has {runtime}; export the model again"
        )
    name = export.directory.resolve().name
    if not name:
        raise SharpError(f"{directory}: has no name that it could have in the app; copy the export into a directory")
    files = {MODEL_PTE: export.pte, MANIFEST_JSON: export.directory / MANIFEST_JSON, **packed_files(export)}
    with replace_directory(models / name, sources=[export.directory]) as partial:
        for file, source in files.items():
            (partial / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, partial / file)
    return models / name


if __name__ == "__main__":
    try:
        print(printable(str(bundle(Path(sys.argv[1])))))
    except SharpError as error:
        sys.exit(f"error: {one_printable_line(str(error))}")
