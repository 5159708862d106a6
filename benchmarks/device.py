"""What a device does with the presets: python benchmarks/device.py [--out FOLDER] [--toy] [--minutes 10] [--only WORD]

Each part is a process of its own with a limit of time, so that one that fails costs nothing but itself; after each of
them FOLDER/device.json and FOLDER/device.md are written anew. The parts are in benchmarks/device_parts.py: a product of
matrices as the ceiling, training and sampling of the presets for a GPU, bfloat16 beside float32, forms of attention,
steps per dispatch, sharded beside replicated training, and PyTorch's UNet2DModel and DiTTransformer2DModel where torch
and diffusers are installed. `--toy` makes everything tiny, to see on a CPU that it runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = {
    "ceiling": 40,
    "train unet-32": 90,
    "train transformer-32": 90,
    "torch unet-32": 60,
    "torch transformer-32": 60,
    "attention": 50,
    "types": 90,
    "dispatch": 70,
    "parallel": 80,
    "train photos64-edm-unet": 100,
    "train photos-gpu": 100,
    "train photos-gpu-large": 120,
}
"""Parts in the order in which they are measured, the most wanted first, and the seconds that each may take."""
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "diffusers")
_KEPT = 2000
"""Characters of what a part said that are kept where it failed."""


def measure(part: str, limit: float, toy: bool) -> dict[str, Any]:
    """The rows of a part as far as it came, what stopped it if anything did, and the seconds that it took."""
    words, start = [sys.executable, "-m", "benchmarks.device_parts", part, *(["--toy"] * toy)], time.monotonic()
    result: dict[str, Any] = {"rows": []}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            status = subprocess.run(words, cwd=ROOT, stdout=out, stderr=err, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            status = None
        out.seek(0)
        err.seek(0)
        said = err.read().strip()
        for line in out:
            kind, _, value = line.partition(": ")
            if kind == "row":
                result["rows"].append(json.loads(value))
            elif kind in ("device", "failed"):
                result[kind] = json.loads(value)
    if status is None:
        result["failed"] = f"not done within {limit:.0f} s"
    elif status:
        result |= {"failed": said.splitlines()[-1] if said else f"status {status}", "stderr": said[-_KEPT:]}
    return {**result, "seconds": round(time.monotonic() - start, 1)}


def versions() -> dict[str, str]:
    """Those of the packages that have a part in the numbers; none of what is not installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(report: dict[str, Any]) -> str:
    """The report in Markdown: a row for each thing measured, and for each part that was not."""
    said = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{report['date']}, {report['device']}, {said}; `{report['command']}`:",
        "",
        "| part | what | measured |",
        "|---|---|---|",
    ]
    for name, result in report["parts"].items():
        for row in result.get("rows", []):
            numbers = ", ".join(f"{what} {_brief(value)}" for what, value in row.items() if what != "what")
            lines.append(f"| {name} | {_cell(row['what'])} | {_cell(numbers)} |")
        if "failed" in result:
            lines.append(f"| {name} | | {_cell(result['failed'])} |")
    return "\n".join(lines) + "\n"


def _cell(text: Any) -> str:
    return " ".join(str(text).replace("|", "/").split())


def _brief(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(report: dict[str, Any], folder: Path) -> None:
    """Write both files, each whole."""
    for name, text in (("device.json", json.dumps(report, indent=2) + "\n"), ("device.md", table(report))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(folder / name)


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure, and write as it goes."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("device"), help="folder of device.json and device.md")
    parser.add_argument("--toy", action="store_true", help="tiny networks and few steps")
    parser.add_argument("--minutes", type=float, default=10.0, help="the most that all parts may take together")
    parser.add_argument("--only", help="the parts whose names have this word")
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: limit for name, limit in PARTS.items() if (arguments.only or "") in name}
    if not chosen:
        parser.error(f"no part has {arguments.only!r} in its name; there are {', '.join(PARTS)}")
    end = time.monotonic() + 60 * arguments.minutes
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/device.py", *words]),
        "date": datetime.date.today().isoformat(),
        "device": "no device was asked yet",
        "versions": versions(),
        "parts": {name: {"failed": "not measured"} for name in chosen},
    }
    for name, limit in chosen.items():
        left = end - time.monotonic()
        if left > 5:
            report["parts"][name] = result = measure(name, min(limit, left), arguments.toy)
            report["device"] = result.get("device", report["device"])
        else:
            report["parts"][name] = {"failed": "not measured: the time was over"}
        write(report, arguments.out)
        print(f"{name}: {report['parts'][name].get('failed', 'done')}", flush=True)
    return report


if __name__ == "__main__":
    main()
