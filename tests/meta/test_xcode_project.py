"""The Xcode project names files that there are, and all of them; its versions are those of pyproject.toml.

Xcode is not here, so nothing of it is built: these are the checks that keep it from opening with a red file.
"""

import json
import plistlib
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from pbxproj import XcodeProject
from project import PROJECT

IOS_BENCH = PROJECT / "ios_bench"
APP = IOS_BENCH / "App"
SOURCES = (".swift", ".cpp", ".m", ".mm", ".c")
# Of ExecuTorch's image processor, which -all_load links too; the package names none of them.
FRAMEWORKS = ("Accelerate", "CoreGraphics", "CoreImage", "CoreVideo")
ELSEWHERE = ("BUILT_PRODUCTS_DIR", "SDKROOT")
WORKSPACE = IOS_BENCH / "SharpBench.xcodeproj" / "project.xcworkspace"


@pytest.fixture(scope="module")
def project() -> Any:
    return XcodeProject.load(str(IOS_BENCH / "SharpBench.xcodeproj" / "project.pbxproj"))


def _files(project: Any) -> dict[Path, str]:
    """Every file of this repository that the project names, by its path, with its identifier."""
    found = {}

    def walk(group: Any, directory: Path) -> None:
        directory = directory / group["path"] if "path" in group else directory
        for child in map(project.get_object, group.children):
            if child.isa == "PBXGroup":
                walk(child, directory)
            elif child.sourceTree not in ELSEWHERE:
                found[directory / child.path] = child.get_id()

    walk(project.get_object(project.get_object(project.rootObject).mainGroup), IOS_BENCH)
    return found


def _target(project: Any, name: str) -> Any:
    (target,) = (target for target in project.objects.get_targets() if target.name == name)
    return target


def _built(project: Any, target: str, phase: str) -> list[Any]:
    phases = map(project.get_object, _target(project, target).buildPhases)
    return [project.get_object(file) for found in phases if found.isa == phase for file in found.files]


def _settings(project: Any, of: Any) -> list[Any]:
    """Build settings of the configurations of a target or of the project."""
    names = project.get_object(of.buildConfigurationList).buildConfigurations
    return [project.get_object(name).buildSettings for name in names]


def _executorch() -> str:
    match = re.search(r'"executorch==([\d.]+)"', (PROJECT / "pyproject.toml").read_text())
    assert match is not None
    return match[1]


def test_every_file_that_the_project_names_exists(project: Any) -> None:
    missing = [str(path) for path in _files(project) if not path.exists()]
    assert not missing
    assert len(_files(project)) > 10


def test_every_identifier_that_is_used_is_defined(project: Any) -> None:
    text = (IOS_BENCH / "SharpBench.xcodeproj" / "project.pbxproj").read_text()
    used = set(re.findall(r"\b[0-9A-F]{24}\b", text))
    assert used == set(project.objects.get_keys())


@pytest.mark.parametrize(("target", "directory"), [("SharpBench", "App"), ("SharpBenchTests", "AppTests")])
def test_every_source_file_is_in_its_target(project: Any, target: str, directory: str) -> None:
    by_id = {identifier: path for path, identifier in _files(project).items()}
    compiled = {by_id[file.fileRef] for file in _built(project, target, "PBXSourcesBuildPhase")}
    assert compiled == {path for path in (IOS_BENCH / directory).iterdir() if path.suffix in SOURCES}


def test_all_other_files_of_the_app_are_named_too(project: Any) -> None:
    assert set(APP.iterdir()) <= set(_files(project))


def test_models_are_resources(project: Any) -> None:
    (resource,) = _built(project, "SharpBench", "PBXResourcesBuildPhase")
    reference = project.get_object(resource.fileRef)
    assert (reference.path, reference.lastKnownFileType) == ("Models", "folder")


def _unpinned(project: Any) -> str | None:
    """What keeps ExecuTorch's package from being one revision, the same in the project and in Package.resolved."""
    (remote,) = project.objects.get_objects_in_section("XCRemoteSwiftPackageReference")
    (pin,) = json.loads((WORKSPACE / "xcshareddata" / "swiftpm" / "Package.resolved").read_text())["pins"]
    if not pin["location"] == remote.repositoryURL == "https://github.com/pytorch/executorch":
        return "another repository"
    # ExecuTorch makes a branch of its Swift package for some releases only; a branch moves, and may not exist.
    if remote.requirement.kind != "revision" or not re.fullmatch(r"[0-9a-f]{40}", remote.requirement.revision):
        return "no revision"
    return None if pin["state"] == {"revision": remote.requirement.revision} else "another revision"


def test_executorch_is_pinned_to_one_revision(project: Any) -> None:
    assert _unpinned(project) is None


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (r"kind = revision;\s+revision = \w+;", 'branch = "swiftpm-1.5.1"; kind = branch;', "no revision"),
        (r"revision = \w{40}", "revision = 0123456789abcdef0123456789abcdef01234567", "another revision"),
        (r"github.com/pytorch/", "github.com/somebody/", "another repository"),
    ],
)
def test_another_pin_is_found(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    text = (IOS_BENCH / "SharpBench.xcodeproj" / "project.pbxproj").read_text()
    changed, count = re.subn(right, wrong, text)
    assert count == 1
    (tmp_path / "project.pbxproj").write_text(changed)
    assert _unpinned(XcodeProject.load(str(tmp_path / "project.pbxproj"))) == said


def test_executorch_is_of_the_release_that_pyproject_asks_for() -> None:
    match = re.search(r'static let version = "([\d.]+)"', (APP / "ExecuTorchEngine.swift").read_text())
    assert match is not None
    # Patches of a release read the same programs: the core compares major and minor only.
    assert match[1].split(".")[:2] == _executorch().split(".")[:2]


def test_git_takes_what_xcode_needs() -> None:
    files = [*WORKSPACE.rglob("Package.resolved"), WORKSPACE / "contents.xcworkspacedata"]
    assert len(files) == 2
    for file in files:
        assert subprocess.run(["git", "check-ignore", "--quiet", str(file)], cwd=PROJECT).returncode == 1


def test_what_a_pte_needs_is_linked_whole(project: Any) -> None:
    products = {
        project.get_object(name).productName for name in _target(project, "SharpBench").packageProductDependencies
    }
    assert products == {
        "BenchCore", "executorch", "executorch_llm",
        "backend_xnnpack", "kernels_optimized", "kernels_quantized", "kernels_llm",
    }  # fmt: skip
    linked = _built(project, "SharpBench", "PBXFrameworksBuildPhase")
    assert {project.get_object(file.productRef).productName for file in linked if "productRef" in file} == products
    frameworks = {project.get_object(file.fileRef) for file in linked if "fileRef" in file}
    assert {framework.name for framework in frameworks} == {f"{name}.framework" for name in FRAMEWORKS}
    for framework in frameworks:
        assert framework.path == f"System/Library/Frameworks/{framework.name}"
    for settings in _settings(project, _target(project, "SharpBench")):
        # Backends and kernels register themselves, though nothing names them.
        assert "-all_load" in settings.OTHER_LDFLAGS


def test_the_local_package_is_there(project: Any) -> None:
    (local,) = project.objects.get_objects_in_section("XCLocalSwiftPackageReference")
    manifest = (IOS_BENCH / local.relativePath / "Package.swift").read_text()
    assert '.library(name: "BenchCore"' in manifest


def test_files_that_settings_name_exist(project: Any) -> None:
    for settings in _settings(project, _target(project, "SharpBench")):
        for name in ("CODE_SIGN_ENTITLEMENTS", "INFOPLIST_FILE", "SWIFT_OBJC_BRIDGING_HEADER"):
            assert (IOS_BENCH / settings[name]).is_file()
        assert settings.PRODUCT_BUNDLE_IDENTIFIER == "dev.sharpmobile.bench"
    for settings in _settings(project, project.get_object(project.rootObject)):
        assert settings.IPHONEOS_DEPLOYMENT_TARGET == "17.0"


def test_the_plists_say_what_the_app_needs() -> None:
    entitlements = plistlib.loads((APP / "SharpBench.entitlements").read_bytes())
    names = ("extended-virtual-addressing", "increased-memory-limit")
    assert entitlements == {f"com.apple.developer.kernel.{name}": True for name in names}
    info = plistlib.loads((APP / "Info.plist").read_bytes())
    assert info["UIFileSharingEnabled"]
    assert info["LSSupportsOpeningDocumentsInPlace"]
    assert info["CFBundleIdentifier"] == "$(PRODUCT_BUNDLE_IDENTIFIER)"


def test_the_shared_scheme_runs_and_tests_in_release(project: Any) -> None:
    scheme = ElementTree.parse(
        IOS_BENCH / "SharpBench.xcodeproj" / "xcshareddata" / "xcschemes" / "SharpBench.xcscheme"
    )
    targets = {target.get_id(): target.name for target in project.objects.get_targets()}
    references = scheme.findall(".//BuildableReference")
    assert {reference.get("BlueprintIdentifier"): reference.get("BlueprintName") for reference in references} == targets
    for action in ("TestAction", "LaunchAction"):
        found = scheme.find(action)
        assert found is not None
        assert found.get("buildConfiguration") == "Release"
