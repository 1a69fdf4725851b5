"""What a gradient costs in memory at true size: SDXL at 512 pixels, one picture, counted without data.

    python -m experiments.full_size.gradient run        a few minutes, any machine

The network is the published configuration without weights worth the name (bytes are reserved, never written), and
operations run on shapes alone, so the numbers are those of PyTorch's own bookkeeping: tensors alive at once, weights
apart. A search without gradients needs the plain row; one with gradients needs one evaluation of the network, or of
the decoder, with all that its way back keeps, whichever is more, because steps are computed again one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights

from experiments import common
from experiments.full_size.run import conditioning, sdxl
from fairlead.run import memory, models


def main(argv: Sequence[str] | None = None) -> None:
    """Write a Markdown table; --quick does the same with a toy network."""
    o = common.parse(common.parser(__doc__, Path(__file__).parent / "gradient.md"), argv)
    if o.word == "run":
        o.out.write_text("\n".join(measure(o.quick)) + "\n")
    common.show(o.out)


def measure(quick: bool) -> list[str]:
    """The table's lines."""
    torch.set_default_dtype(torch.bfloat16)
    with init_empty_weights():
        pipe = sdxl(quick)
    torch.set_default_dtype(torch.float32)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to_empty(device="cpu")
    model = models.lend(pipe, {"guidance_scale": 0.0, "height": 64 if quick else 512, "width": 64 if quick else 512})
    model.encode = lambda prompts: conditioning(model, len(prompts), (77, 2048, 1280))
    held = list(model.networks())
    rows = []
    weights = sum(w.numel() * w.element_size() for w in held) / 1e9
    for gradient in (False, True):
        network, decoder = (memory.peak_without_data(work, held) / 1e9 for work in model.trace(gradient))
        what = "with a gradient (adam)" if gradient else "plain (sep_cma)"
        rows.append((what, f"{network:.3f}", f"{decoder:.3f}", f"{weights + max(network, decoder):.2f}"))
    return common.table(["", "network GB", "decoder GB", "both with weights GB"], rows)


if __name__ == "__main__":
    main()
