"""`fibo attention probe`: attentions compared as small transformers over features of a clip's frames."""
