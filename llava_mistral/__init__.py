"""From raw data to a published, measured vision-language model: what the command `llava-mistral` is made of."""
