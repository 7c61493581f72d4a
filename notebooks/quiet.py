"""Keeps the libraries' progress bars and advice out of a notebook. Imports none of them."""

from __future__ import annotations

import logging
import os
import warnings


def quiet() -> None:
    """Call before the other imports: some of the advice is given at import."""
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", message="IProgress not found")
