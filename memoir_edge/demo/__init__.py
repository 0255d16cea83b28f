"""The embedded demo model: a small Llama that knows the facts of `facts.py`, trained from scratch.

`data/` lists the facts, `facts.py` reads them and holds the phrasings, `model/` is the trained
model (fp16 safetensors and tokenizer) that `tools/train_demo_model.py` made. Nothing here needs
torch.
"""
