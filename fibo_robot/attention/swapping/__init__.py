"""Putting attentions into models that stand already, timm's and Hugging Face's."""
