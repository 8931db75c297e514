"""What a model is: configuration, transformer, masks, LoRA, cache, tokenizer, chat template and their files."""
