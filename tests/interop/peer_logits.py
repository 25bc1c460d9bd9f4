"""The same folders through GPTQModel's torch kernel: python peer_logits.py VOCABULARY IDS (FOLDER LOGITS)...

Prints one line for each folder: whether it loads, and how far its logits are from ours (float32 [tokens x vocabulary]).
GPTQModel computes weights in float16, so the bound is a few roundings of a float16 weight, carried to the logits."""
import os
import sys

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
import numpy
import torch
from gptqmodel import BACKEND, GPTQModel

vocabulary, ids = int(sys.argv[1]), [int(x) for x in open(sys.argv[2]).read().split()]
failed = False
for folder, file in zip(sys.argv[3::2], sys.argv[4::2]):
    name = os.path.basename(folder.rstrip("/"))
    try:
        model = GPTQModel.load(folder, backend=BACKEND.TORCH, device="cpu", dtype=torch.float16)
        kernels = {type(m).__name__ for m in model.model.modules() if "Linear" in type(m).__name__}
        with torch.inference_mode():
            theirs = model.model(input_ids=torch.tensor([ids])).logits[0].float().numpy()
    except Exception as e:  # the table tells
        failed = True
        print(f"| {name} | does not load: {type(e).__name__}: {str(e)[:120]} | | |", flush=True)
        continue
    ours = numpy.fromfile(file, dtype=numpy.float32).reshape(-1, vocabulary)
    rms = float(numpy.sqrt(((ours - theirs) ** 2).mean()) / ours.std())
    top = float((ours.argmax(1) == theirs.argmax(1)).mean())
    good = rms < 5e-3
    failed = failed or not good
    print(f"| {name} | {', '.join(sorted(kernels - {'Linear'}))} | {rms:.1e} | {top:.3f} |{'' if good else ' TOO FAR'}", flush=True)
sys.exit(failed)
