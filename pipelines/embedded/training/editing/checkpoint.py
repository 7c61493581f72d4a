"""Packs what a run of ``train.py`` has learnt so far into a small folder that it can begin with.

    python -m pipelines.embedded.training.editing.checkpoint RUN FOLDER

The averaged transformer and both text encoders as float16, without the optimizers' momenta, which
come back within a few steps, and without the autoencoder, which is the carried model's. Counts and
curve go along, so that a run that begins with the folder adds to them.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from pipelines.embedded.training import loop
from pipelines.embedded.training.export import folder_bytes, forget_origin
from pipelines.embedded.training.flow import build_transformer
from pipelines.embedded.training.train_text import load_encoders, save_encoders

MAX_BYTES = 7_000_000


def pack(run: Path, folder: Path) -> None:
    """Write the folder from the run's, leaving alone what else is there, such as a README.

    Raises ValueError if the folder becomes larger than may be kept beside the code.
    """
    transformer = build_transformer()
    transformer.load_state_dict(load_file(run / "flow" / loop.CHECKPOINT))
    transformer.half().save_pretrained(folder / "transformer")
    encoders = load_encoders(run / "text")
    encoders.clip.half()
    encoders.t5.half()
    save_encoders(encoders, folder)
    forget_origin(folder)
    for name in ("state.json", "curve.json"):
        if (run / "flow" / name).exists():
            shutil.copy(run / "flow" / name, folder / name)
    records = {"text": "training.json", "vae": "training.json", "flow": "before.json"}
    known = {phase: run / phase / name for phase, name in records.items()}
    kept = {phase: json.loads(path.read_text()) for phase, path in known.items() if path.exists()}
    (folder / "training.json").write_text(json.dumps(kept, indent=1) + "\n")
    size = folder_bytes(folder)
    if size > MAX_BYTES:
        raise ValueError(f"the checkpoint has {size} bytes, more than {MAX_BYTES}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pack(arguments.run, arguments.folder)
    print(f"{arguments.folder}: {folder_bytes(arguments.folder) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
