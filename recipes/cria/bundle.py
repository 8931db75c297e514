"""Put a trained cria where Herd carries it: python recipes/cria/bundle.py FINAL_DIR PLOT CARD VERSION [metric=value …]

The registry writes the card's digest, in a home of its own; the version's directory is then copied into the package.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from herd.registry import Registry
from herd.registry.registry import BUNDLED


def main(final: str, plot: str, card: str, version: str, *metrics: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "cria"
        shutil.copytree(final, directory)
        shutil.copy(plot, directory / "loss.png")
        shutil.copy(card, directory / "README.md")
        settings = json.loads((directory / "generation_config.json").read_text())
        settings |= {"do_sample": True, "temperature": 0.7, "top_p": 0.9}  # what suits a small model
        (directory / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        target = BUNDLED / "models" / "cria" / version
        shutil.rmtree(target, ignore_errors=True)  # else it would count as the version before this one
        entry = Registry(Path(scratch) / "home").add(
            directory,
            "cria",
            kind="model",
            licence="Apache-2.0",
            description="A very small Llama that tells little stories and chats simply.",
            metrics={name: float(value) for name, value in (m.split("=") for m in metrics)},
        )
        if str(entry.version) != version:
            raise SystemExit(f"this would be version {entry.version}, not {version}")
        shutil.copytree(entry.path, target)
        print(f"{target}: {sum(f.stat().st_size for f in target.iterdir()):,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
