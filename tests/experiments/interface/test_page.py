"""The page on Python runs from its first line to its last, at a smaller size."""

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SMALLER = {
    "conditional=True,": "conditional=True, network=scorefield.MLPConfig(hidden=16, layers=1, embedding=8),",
    "steps=600, batch_size=128, validate_every=300, checkpoint_every=300": (
        "steps=12, batch_size=16, validate_every=6, checkpoint_every=6"
    ),
    "% 100": "% 4",
    "% 300": "% 6",
    "steps=18": "steps=3",
    "steps=20": "steps=3",
    "steps=30": "steps=3",
    "range(64)": "range(4)",
    "[:8]": "[:4]",
    "latents[:4]), jnp.asarray(latents[4:])": "latents[:2]), jnp.asarray(latents[2:])",
    "seeds=range(16)": "seeds=range(3), resamplings=2",
    "samples=180, elbo_images=64, elbo_draws=4": "samples=12, elbo_images=4, elbo_draws=2",
}

jax.devices()  # XLA has read its flags, and the door leaves those of this process alone


def test_the_page_on_python_runs(tmp_path, monkeypatch, feature_cache, capsys, one_device):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(feature_cache.parent))
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        for text, smaller in SMALLER.items():
            block = block.replace(text, smaller)
        exec(compile(block, "python.md", "exec"), scope)
    out = capsys.readouterr().out
    assert "Run(runs/digits, step 12; sampled by heun in 3 steps)" in out
    assert scope["threes"].shape == (4, 8, 8, 1)
    assert scope["bits_per_dim"].shape == (4,)
    assert (tmp_path / "runs" / "digits" / "look-12.png").exists()
    for name in re.findall(r"`run\.(\w+)", PAGE):
        assert hasattr(scope["run"], name), name


@pytest.mark.parametrize("text", SMALLER)
def test_what_is_made_smaller_is_on_the_page(text):
    assert text in PAGE
