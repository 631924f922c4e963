"""Generates proto/gen from proto/hubbub: Python messages, typed stubs, and the descriptor set for Envoy's transcoder.

The `google.*` Python modules come from the protobuf and googleapis-common-protos wheels; proto/google is only what
the compilers read, copied from the same wheel here, so that it cannot differ from what runs.
"""

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

REPO = Path(__file__).resolve().parent.parent
VENDORED = (
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)
# Envoy can only render errors as JSON when it knows the types of their details.
DESCRIPTOR_EXTRAS = ("google/rpc/error_details.proto",)


def vendor(proto_root: Path) -> None:
    """Copies the google protos that the contract imports out of the installed wheel."""
    shutil.rmtree(proto_root / "google", ignore_errors=True)
    for name in VENDORED:
        target = proto_root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        package, _, file_name = name.rpartition("/")
        target.write_bytes((files(package.replace("/", ".")) / file_name).read_bytes())


def generate(proto_root: Path, gen_root: Path) -> None:
    """Writes hubbub.pb and python/hubbub under `gen_root`, replacing what is there."""
    package_root = gen_root / "python" / "hubbub"
    shutil.rmtree(package_root, ignore_errors=True)
    package_root.mkdir(parents=True)
    sources = sorted(path.relative_to(proto_root).as_posix() for path in (proto_root / "hubbub").rglob("*.proto"))
    includes = [f"-I{proto_root}", f"-I{files('grpc_tools') / '_proto'}"]
    out = str(gen_root / "python")
    stubs_of = [name for name in sources if name.endswith("_service.proto")]
    run_protoc([*includes, f"--python_out={out}", f"--mypy_out=quiet:{out}", *sources])
    run_protoc([*includes, f"--grpc_python_out={out}", f"--mypy_grpc_out=only_async,quiet:{out}", *stubs_of])
    descriptor_set = gen_root / "hubbub.pb"
    run_protoc([*includes, "--include_imports", f"--descriptor_set_out={descriptor_set}", *sources, *DESCRIPTOR_EXTRAS])
    for folder in [package_root, *(path for path in package_root.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text('"""Generated from proto/hubbub by `make gen`. Do not edit."""\n')
    (package_root / "py.typed").touch()


def run_protoc(arguments: list[str]) -> None:
    """Runs the protobuf compiler; exits when it refuses."""
    # It finds the mypy plugins beside the interpreter, activated or not.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if (code := protoc.main(["protoc", *arguments])) != 0:
        sys.exit(code)


if __name__ == "__main__":
    vendor(REPO / "proto")
    generate(REPO / "proto", REPO / "proto" / "gen")
