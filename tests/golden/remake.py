"""Writes golden files: new ones always, changed ones only with --replace. Changing a record breaks every stored log."""

import json
import sys

from tests.golden.samples import FOLDER, error_table, golden_files


def main() -> None:
    """Writes and says what it wrote; exits with 1 when something changed and may not."""
    may_replace = "--replace" in sys.argv[1:]
    contents = golden_files()
    contents[FOLDER / "errors.json"] = (json.dumps(error_table(), indent=1, ensure_ascii=False) + "\n").encode()
    refused = 0
    for path, content in contents.items():
        if path.exists() and path.read_bytes() == content:
            continue
        name = path.relative_to(FOLDER)
        if path.exists() and not may_replace:
            print(f"differs, not written: {name}")
            refused += 1
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        print(f"written: {name}")
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
