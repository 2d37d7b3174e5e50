"""What memory bandwidth is worth: decode tokens a second of SmolLM2-135M on variants of m1.

Only the timing simulator runs, on the model's shape: no weights are read and no values computed.

python examples/change_a_chip.py [CONTEXT]
"""

import sys

import mellivora
from mellivora.frontends.llm import load_model
from mellivora.runtime.measure import measure_decode
from mellivora.spec import load_chip

context = int(sys.argv[1]) if len(sys.argv) > 1 else 512
shape = load_model("SmolLM2-135M", shapes_only=True, weight_format="q4_1")
m1 = load_chip("m1")

print("DRAM GB/s  cores  tokens/s  of the roof")
for changes in ({}, {"dram_gbps": 672}, {"dram_gbps": 2688}, {"cores": 8}):
    chip = m1.replace(name="variant", **changes)
    llm = mellivora.LLM(shape, chip, max_batch=1, context=context + 1, shapes_only=True)
    step = measure_decode(llm.engine, context, steps=1)
    print(
        f"{chip.dram_gbps:9.0f}  {chip.cores:5d}  {step.tokens_per_s:8,.0f}  "
        f"{step.roofs.fraction:.0%} of {step.roofs.limit}"
    )
