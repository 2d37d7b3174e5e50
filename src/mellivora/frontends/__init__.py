"""Models from files to graphs: GGUF, Hugging Face folders, ONNX. They know nothing of the chip.

llm          load_model, LanguageModel          llm_config   what a language model is (and _files)
llm_graph    config + tensors -> graph          catalogue    shapes of well-known models
gguf_file    the GGUF reader                    safetensors_file   Hugging Face weights
tokenizer    text <-> ids, streaming            chat         chat templates in a sandbox
"""
