"""Model folders to share: generators as safetensors with a model card, and their upload to the Hugging Face Hub."""
