"""Every test runs with shapes and types checked at run time, from the jaxtyping annotations."""

import os
from pathlib import Path

# Before anything imports torch: results must not depend on the machine's cores, and ranks share two of them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from jaxtyping import install_import_hook

PLUGINS = (Path(__file__).parent / "plugins").glob("metaformer-plugin-*")
HOOK = install_import_hook(["metaformer", *(path.name.replace("-", "_") for path in PLUGINS)], "beartype.beartype")
