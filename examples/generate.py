"""Text from a language model on the simulated chip, as it is computed.

python examples/generate.py [MODEL] [PROMPT]
"""

import sys

import mellivora

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
prompt = sys.argv[2] if len(sys.argv) > 2 else "Why is the sky blue?"

llm = mellivora.LLM(model, chip="m1", max_batch=1, context=256)
chat = llm.model.chat_template is not None  # an instruct model takes messages, others a text
request = [{"role": "user", "content": prompt}] if chat else prompt
for piece in llm.generate(request, max_new_tokens=32):
    print(piece.text, end="", flush=True)
print()
