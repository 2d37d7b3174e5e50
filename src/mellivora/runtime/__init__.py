"""What runs programs: a device, a compile cache, and the language-model engine.

device     DRAM, launches and timing of one compiled model
engine     sequences in slots: prefill, decode, score      sampling   logits to a token
llm        LLM: text in, text out                          cache      compiled models on disk
measure    what the chip needs for prefill and decode, in cycles, bytes and joules
"""
