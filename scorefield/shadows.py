"""Whether a file or a folder of the user's stands in the way of one of scorefield's packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = {
    "diffusion": "from diffusion.process import",
    "samplers": "from samplers.sample import",
    "experiments": "experiments.sampling.solver",
}
"""The packages of scorefield, each with words that its `__init__.py` has and another of the same name has not."""


def shadowed(home: Path) -> str | None:
    """One sentence on the first package that would be imported from elsewhere than `home`; None when all is well.

    A file or folder that comes before `home` on Python's path is found in the place of the package. So is another
    distribution's package of the same name that was installed into the same folder, over this one.
    """
    for name, words in PACKAGES.items():
        place, own = _place(name), home / name / "__init__.py"
        if place is None:
            return f"scorefield's package {name} is not in {home}; install scorefield anew."
        if place.resolve() != own.resolve():
            what = place.parent if place.name == "__init__.py" else place
            return (
                f"{what} shadows scorefield's own package {name}, for Python finds it first; rename it, or start "
                "Python where it is not on the path."
            )
        if words not in own.read_text(encoding="utf-8"):
            return (
                f"{own} is another distribution's: it was installed over scorefield's own package {name}; uninstall "
                "that one, then reinstall scorefield."
            )
    return None


def _place(name: str) -> Path | None:
    """The file that `import name` takes, or has taken."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
    else:
        spec = importlib.util.find_spec(name)
        file = None if spec is None else spec.origin
    return Path(file) if file else None
