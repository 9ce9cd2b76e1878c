"""Generates the stubs in client/desk/v1 from proto/; with --check, names those that differ.

Runs in the environment of tools/stubs-requirements.txt. The `.proto` files are copied beside the
stubs, so that the client's wheel brings them for other languages.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "client" / "desk" / "v1"

Files = Mapping[str, bytes]
"""Contents by file name."""


def generated() -> Files:
    """Return the stubs (messages of each proto file, services where it has any) and the protos."""
    protos = sorted(PROTO.glob("desk/v1/*.proto"))
    with TemporaryDirectory() as directory:
        _protoc(protos, f"--python_out={directory}", f"--mypy_out=quiet:{directory}")
        with_services = filter(_has_service, protos)
        _protoc(
            with_services, f"--grpc_python_out={directory}", f"--mypy_grpc_out=quiet:{directory}"
        )
        return _read(Path(directory, "desk", "v1")) | _read(PROTO / "desk" / "v1")


def _protoc(protos: Iterable[Path], *outputs: str) -> None:
    scripts = Path(sys.executable).parent  # where the plugins are; the PATH need not name it
    plugins = [
        f"--plugin={path}"
        for path in map(scripts.joinpath, ("protoc-gen-mypy", "protoc-gen-mypy_grpc"))
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"]
    subprocess.run([*command, *plugins, *outputs, *map(str, protos)], check=True)


def _has_service(proto: Path) -> bool:
    return any(line.startswith("service ") for line in proto.read_text().splitlines())


def _read(directory: Path) -> dict[str, bytes]:
    paths = [*directory.glob("*_pb2*.py*"), *directory.glob("*.proto")]
    return {path.name: path.read_bytes() for path in paths}


def _write(wanted: Files, stale: Iterable[str]) -> None:
    for name in stale:
        if name in wanted:
            (STUBS / name).write_bytes(wanted[name])
        else:
            (STUBS / name).unlink()


def main(arguments: list[str]) -> int:
    """Write the files that differ, or with `--check` name them. Return the exit status."""
    wanted, found = generated(), _read(STUBS)
    stale = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if "--check" not in arguments:
        _write(wanted, stale)
        return 0
    for name in stale:
        print(f"client/desk/v1/{name} is out of date: run `make stubs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
